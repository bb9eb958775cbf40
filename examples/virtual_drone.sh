#!/usr/bin/env bash
# A drone's companion computer without the drone: real Debian 12 with systemd and OpenSSH, on this
# machine. Needs root on Linux, and mmdebstrap, systemd-container; for arm64 also qemu-user-static,
# binfmt-support and arch-test; for vm (a machine with a kernel and a disk of its own, whose power
# can be cut) qemu-system-x86 and e2fsprogs. It listens on 127.0.0.1 only.
#
#   virtual_drone.sh build amd64|arm64|vm           make the root file system, kept in the cache
#   virtual_drone.sh where amd64|arm64|vm           say where that is
#   virtual_drone.sh run   amd64|arm64|vm FOLDER PORT KEY.pub
#                                                   boot it in FOLDER until killed; reboots work;
#                                                   kill -9 cuts the power of a vm
#
# Then: jepa-edge flash --bundle b.jepa --device raspberry-pi-5 --host root@127.0.0.1:PORT
set -euo pipefail

suite=bookworm
packages=systemd,systemd-sysv,dbus,openssh-server,python3,libatomic1
recipe=2 # raise it when what is below changes
cache=${XDG_CACHE_HOME:-$HOME/.cache}/jepa-edge/virtual-drone

fail() {
  echo "error: $*" >&2
  exit 2
}

arch_of() { [ "$1" = vm ] && echo amd64 || echo "$1"; }

root_of() { echo "$cache/$1-$suite-$recipe"; }

prepare_host() { # ARCH
  [ "$(id -u)" = 0 ] || fail "a virtual drone needs root"
  local tool tools="mmdebstrap systemd-nspawn"
  [ "$1" != vm ] || tools="mmdebstrap qemu-system-x86_64 mkfs.ext4"
  for tool in $tools; do
    command -v "$tool" >/dev/null || fail "$tool is missing; the head of this script names packages"
  done
  [ "$(arch_of "$1")" != "$(dpkg --print-architecture)" ] || return 0
  mountpoint -q /proc/sys/fs/binfmt_misc ||
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  update-binfmts --enable qemu-aarch64 2>/dev/null ||
    fail "no arm64 emulation: apt-get install qemu-user-static binfmt-support arch-test"
}

build() { # ARCH or vm
  prepare_host "$1"
  local root arch include=$packages
  arch=$(arch_of "$1")
  [ "$1" != vm ] || include+=,linux-image-cloud-amd64,initramfs-tools
  root=$(root_of "$1")
  [ -d "$root" ] && return
  mkdir -p "$cache"
  part=$(mktemp -d "$cache/.part-XXXXXX")
  trap 'rm -rf "${part:-}"' EXIT
  local extra=()
  [ "$1" != vm ] || extra=(--essential-hook="$0 slim-boot \"\$1\"")
  if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    # Unpacking takes most of the time under emulation: that program alone runs unemulated.
    extra=(--extract-hook="$0 lend-unpacker \"\$1\"" --customize-hook="$0 take-unpacker \"\$1\""
      --aptopt='DPkg::Path "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"')
  fi
  # The mirrors of this machine; documentation and translations only take time to unpack.
  mmdebstrap --quiet --mode=root --variant=minbase --architectures="$arch" --include="$include" \
    --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' "${extra[@]}" "$suite" "$part/root" "$(mirror)"
  install -d -m 700 "$part/root/root/.ssh"
  # Its clock is this machine's, and nothing else needs to be started.
  for unit in systemd-timesyncd apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
    systemd-resolved ssh.socket serial-getty@ttyS0.service getty@tty1.service; do
    ln -sf /dev/null "$part/root/etc/systemd/system/$unit"
  done
  [ "$1" != vm ] || give_network "$part/root"
  chmod 755 "$part/root"
  mv "$part/root" "$root"
}

mirror() {
  local uri
  uri=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)
  [ -n "$uri" ] || uri=$(awk '$1 == "deb" && $3 ~ /^bookworm/ {print $2; exit}' /etc/apt/sources.list)
  echo "deb ${uri:-http://deb.debian.org/debian} $suite main"
}

give_network() { # ROOT: the address that qemu's user network has for its guest
  printf '[Match]\nName=en* eth*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n' \
    >"$1/etc/systemd/network/20-drone.network"
  ln -sf /lib/systemd/system/systemd-networkd.service \
    "$1/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
}

slim_boot() { # ROOT: an initial RAM disk with what finds the disk, and nothing else
  mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
  echo MODULES=list >"$1/etc/initramfs-tools/conf.d/drone"
  printf 'virtio_pci\nvirtio_blk\next4\n' >"$1/usr/share/initramfs-tools/modules.d/drone"
}

unpacker() { # the program and what it loads
  echo "/usr/bin/dpkg-deb"
  ldd /usr/bin/dpkg-deb | grep -o '/[^ ]*'
}

lend_unpacker() { # ROOT: it is found first, until take_unpacker
  local file
  install -D /usr/bin/dpkg-deb "$1/usr/local/bin/dpkg-deb"
  for file in $(unpacker | tail -n +2); do
    install -D "$file" "$1$file"
  done
  # Host keys made here, not by an emulated prime search.
  mkdir -p "$1/etc/ssh"
  ssh-keygen -q -A -f "$1"
}

take_unpacker() { # ROOT
  rm "$1/usr/local/bin/dpkg-deb"
  unpacker | tail -n +2 | sed "s|^|$1|" | xargs rm -f
}

adapt_to_emulation() { # UNITS
  # This machine's processors are not those that are emulated: libraries crash on what they read.
  mkdir -p "$1/local-fs.target.wants"
  printf '[Mount]\nWhat=tmpfs\nWhere=/sys/devices/system/cpu\nType=tmpfs\n' \
    >"$1/sys-devices-system-cpu.mount"
  # qemu-user cannot set up a network namespace for a service; a board can. And a step that takes
  # ten seconds, on a busy machine, is not a hung service here.
  mkdir -p "$1/jepa-edge.service.d"
  printf '[Service]\nPrivateNetwork=no\nWatchdogSec=120\nTimeoutStartSec=600\n' \
    >"$1/jepa-edge.service.d/emulated.conf"
  ln -sf ../sys-devices-system-cpu.mount "$1/local-fs.target.wants/"
}

run() { # ARCH FOLDER PORT KEY
  local arch=$1 folder=$2 port=$3 key=$4 root status=133
  prepare_host "$arch"
  root=$(root_of "$arch")
  [ -d "$root" ] || fail "no $arch root: virtual_drone.sh build $arch"
  [ ! -e "$folder/disk.img" ] || run_vm "$folder" "$port"
  mkdir -p "$folder"/{upper,work,root}
  # An own mount namespace: nothing stays mounted when this process ends.
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$folder/upper,workdir=$folder/work" \
    "$folder/root"
  mkdir -p /run/systemd/nspawn
  mount -t tmpfs tmpfs /run/systemd/nspawn
  install -m 600 "$key" "$folder/root/root/.ssh/authorized_keys"
  local listen=127.0.0.1
  [ "$arch" != vm ] || listen=0.0.0.0 # inside; this machine reaches it from 127.0.0.1 alone
  printf 'Port %s\nListenAddress %s\nPermitRootLogin prohibit-password\n' "$port" "$listen" \
    >"$folder/root/etc/ssh/sshd_config.d/drone.conf"
  echo "drone-$port" >"$folder/root/etc/hostname"
  [ "$arch" != vm ] || run_vm "$folder" "$port"
  [ "$arch" = "$(dpkg --print-architecture)" ] || adapt_to_emulation "$folder/root/etc/systemd/system"
  trap 'kill "$child" 2>/dev/null; wait; exit 0' TERM INT
  while [ "$status" = 133 ]; do # how a container says that it reboots
    systemd-nspawn --quiet --register=no --keep-unit --boot --directory="$folder/root" \
      --machine="drone-$port" --console=pipe --resolv-conf=off </dev/null \
      >>"$folder/console.log" 2>&1 &
    child=$!
    status=0
    wait "$child" || status=$?
  done
}

run_vm() { # FOLDER PORT: does not return; the disk and what it holds stay in FOLDER
  local folder=$1 port=$2
  if [ ! -e "$folder/disk.img" ]; then
    cp -L "$folder/root/vmlinuz" "$folder/root/initrd.img" "$folder"
    truncate -s 4G "$folder/disk.part"
    mkfs.ext4 -q -d "$folder/root" "$folder/disk.part"
    mv "$folder/disk.part" "$folder/disk.img"
  fi
  # What the guest has flushed is in the file; what it has not is lost with its memory.
  exec qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 1536 -nographic -no-user-config \
    -kernel "$folder/vmlinuz" -initrd "$folder/initrd.img" \
    -append "root=/dev/vda rw quiet console=ttyS0 net.ifnames=0 mitigations=off audit=0" \
    -drive "file=$folder/disk.img,if=virtio,format=raw,cache=writeback" \
    -netdev "user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:$port-10.0.2.15:$port" \
    -device virtio-net-pci,netdev=n,romfile= </dev/null >>"$folder/console.log" 2>&1
}

case "${1:-}" in
  build) build "${2:?amd64, arm64 or vm}" ;;
  where) root_of "${2:?amd64, arm64 or vm}" ;;
  slim-boot) slim_boot "$2" ;;
  lend-unpacker) lend_unpacker "$2" ;;
  take-unpacker) take_unpacker "$2" ;;
  run)
    if [ -z "${DRONE_NAMESPACE:-}" ]; then
      DRONE_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
    fi
    run "${2:?amd64, arm64 or vm}" "${3:?folder}" "${4:?port}" "${5:?public key}"
    ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
