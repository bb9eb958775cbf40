#!/usr/bin/env bash
# A drone's companion computer without the drone: real Debian 12 with systemd and OpenSSH, on this
# machine. Needs root on Linux, and mmdebstrap, systemd-container; for arm64 also qemu-user-static,
# binfmt-support and arch-test. It listens on 127.0.0.1 only.
#
#   virtual_drone.sh build amd64|arm64              make the root file system, kept in the cache
#   virtual_drone.sh run   amd64|arm64 FOLDER PORT KEY.pub
#                                                   boot it in FOLDER until killed; reboots work
#
# Then: jepa-edge flash --bundle b.jepa --device raspberry-pi-5 --host root@127.0.0.1:PORT
set -euo pipefail

suite=bookworm
packages=systemd,systemd-sysv,dbus,openssh-server,python3,ca-certificates,libatomic1
recipe=1 # raise it when what is below changes
cache=${XDG_CACHE_HOME:-$HOME/.cache}/jepa-edge/virtual-drone

fail() {
  echo "error: $*" >&2
  exit 2
}

root_of() { echo "$cache/$1-$suite-$recipe"; }

prepare_host() { # ARCH
  [ "$(id -u)" = 0 ] || fail "a virtual drone needs root"
  for tool in mmdebstrap systemd-nspawn; do
    command -v $tool >/dev/null || fail "$tool is missing: apt-get install mmdebstrap systemd-container"
  done
  [ "$1" = "$(dpkg --print-architecture)" ] && return
  mountpoint -q /proc/sys/fs/binfmt_misc ||
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  update-binfmts --enable qemu-aarch64 2>/dev/null ||
    fail "no arm64 emulation: apt-get install qemu-user-static binfmt-support arch-test"
}

build() { # ARCH
  prepare_host "$1"
  local root
  root=$(root_of "$1")
  [ -d "$root" ] && return
  mkdir -p "$cache"
  part=$(mktemp -d "$cache/.part-XXXXXX")
  trap 'rm -rf "${part:-}"' EXIT
  # The mirrors of this machine; documentation and translations only take time to unpack.
  mmdebstrap --quiet --mode=root --variant=minbase --architectures="$1" --include="$packages" \
    --aptopt='Acquire::Languages "none"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$part/root" "$(mirror)"
  install -d -m 700 "$part/root/root/.ssh"
  # Its clock is this machine's, and nothing else needs to be started.
  for unit in systemd-timesyncd apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
    systemd-resolved ssh.socket; do
    ln -sf /dev/null "$part/root/etc/systemd/system/$unit"
  done
  chmod 755 "$part/root"
  mv "$part/root" "$root"
}

mirror() {
  local uri
  uri=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)
  [ -n "$uri" ] || uri=$(awk '$1 == "deb" && $3 ~ /^bookworm/ {print $2; exit}' /etc/apt/sources.list)
  echo "deb ${uri:-http://deb.debian.org/debian} $suite main"
}

adapt_to_emulation() { # UNITS
  # This machine's processors are not those that are emulated: libraries crash on what they read.
  mkdir -p "$1/local-fs.target.wants"
  printf '[Mount]\nWhat=tmpfs\nWhere=/sys/devices/system/cpu\nType=tmpfs\n' \
    >"$1/sys-devices-system-cpu.mount"
  # qemu-user cannot set up a network namespace for a service; a board can.
  mkdir -p "$1/jepa-edge.service.d"
  printf '[Service]\nPrivateNetwork=no\n' >"$1/jepa-edge.service.d/emulated.conf"
  ln -sf ../sys-devices-system-cpu.mount "$1/local-fs.target.wants/"
}

run() { # ARCH FOLDER PORT KEY
  local arch=$1 folder=$2 port=$3 key=$4 root status=133
  prepare_host "$arch"
  root=$(root_of "$arch")
  [ -d "$root" ] || fail "no $arch root: virtual_drone.sh build $arch"
  mkdir -p "$folder"/{upper,work,root}
  # An own mount namespace: nothing stays mounted when this process ends.
  mount -t overlay overlay -o "lowerdir=$root,upperdir=$folder/upper,workdir=$folder/work" \
    "$folder/root"
  mkdir -p /run/systemd/nspawn
  mount -t tmpfs tmpfs /run/systemd/nspawn
  install -m 600 "$key" "$folder/root/root/.ssh/authorized_keys"
  printf 'Port %s\nListenAddress 127.0.0.1\nPermitRootLogin prohibit-password\n' "$port" \
    >"$folder/root/etc/ssh/sshd_config.d/drone.conf"
  echo "drone-$port" >"$folder/root/etc/hostname"
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

case "${1:-}" in
  build) build "${2:?amd64 or arm64}" ;;
  run)
    if [ -z "${DRONE_NAMESPACE:-}" ]; then
      DRONE_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
    fi
    run "${2:?amd64 or arm64}" "${3:?folder}" "${4:?port}" "${5:?public key}"
    ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
