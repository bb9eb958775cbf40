"""A release is the same bytes each time, holds what the device needs, and nothing else."""

import base64
import hashlib
import json
import zipfile

import msgspec
import pytest

from jepa_edge.contract import CheckFailedError, InputError, WrongUseError
from jepa_edge.devices.agent.store import release_from
from jepa_edge.devices.release import build
from jepa_edge.devices.release.build import (
    ReleaseConfig,
    build_release,
    build_to_file,
    open_release,
)
from jepa_edge.devices.release.unit import Service, unit_text
from jepa_edge.devices.release.wheels import platform_tags, requirements_for, unpack_wheels
from jepa_edge.devices.targets import system_of, target


def write_wheel(folder, name, version, files):
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """An index of one small wheel, for the real pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(
        folder, "tinylib", "1.2", {"tinylib.py": "x = 1\n", "tinylib-1.2.data/scripts/t": ""}
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(build, "requirements_for", lambda _extras: ["tinylib"])
    return folder


@pytest.fixture
def config(micro_bundle, tiny_clip):
    return ReleaseConfig(
        bundle=micro_bundle,
        device="raspberry-pi-5",
        version="1.0",
        precision="int8",
        camera=str(tiny_clip),
    )


def quiet(*_):
    pass


def test_two_builds_are_the_same_bytes(wheels, config, tmp_path):
    first = build_to_file(config, tmp_path / "a" / "one.release", quiet)
    second = build_to_file(config, tmp_path / "b" / "two.release", quiet)
    assert first.sha256 == second.sha256
    assert (tmp_path / "a/one.release").read_bytes() == (tmp_path / "b/two.release").read_bytes()


def test_it_holds_what_the_device_needs(wheels, config, tmp_path):
    path = tmp_path / "one.release"
    build_to_file(config, path, quiet)
    with open_release(path) as built:
        files = set(built.fields["files"])
        assert built.fields["machine"] == "aarch64"
        assert built.fields["python"] == "3.11"
        manifest = msgspec.json.decode((built.folder / "bundle/manifest.json").read_bytes())
        bill = json.loads((built.folder / "sbom.cdx.json").read_text())
        lock = (built.folder / "requirements.lock").read_text()
    assert list(manifest["precisions"]) == ["int8"]
    assert {"site/tinylib.py", "media/tiny.mp4", "units/jepa-edge.service"} <= files
    assert "site/jepa_edge/runtimes/loop.py" in files
    assert not any("scripts" in f or "fp32" in f or "torch" in f for f in files)
    rooms = {file.split("/")[2] for file in files if file.startswith("site/jepa_edge/")}
    assert rooms.isdisjoint({"model", "train", "export", "quantize", "worlds", "bench", "assets"})
    digest = hashlib.sha256((wheels / "tinylib-1.2-py3-none-any.whl").read_bytes()).hexdigest()
    assert lock == f"tinylib==1.2 --hash=sha256:{digest}\n"
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    named = {part["name"]: part for part in bill["components"]}
    assert named["tinylib"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert named["micro"]["type"] == "machine-learning-model"
    assert bill["metadata"]["timestamp"].startswith("1980-01-01")  # of no clock


def test_a_newer_jetpack_is_asked_for_by_name():
    orin = target("jetson-orin-nano")
    assert system_of(orin, None).python == "3.10"
    newer = system_of(orin, "jetpack 7.2")
    assert (newer.python, newer.glibc) == ("3.12", "2.39")
    with pytest.raises(WrongUseError, match=r"JetPack 6\.2.*JetPack 7\.2"):
        system_of(orin, "JetPack 5")


def test_a_lock_pins_by_hash(wheels, config, tmp_path):
    lock = tmp_path / "lock"
    lock.write_text(f"tinylib==1.2 --hash=sha256:{'0' * 64}\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="(?i)hash"):
        build_release(msgspec.structs.replace(config, lock=lock), tmp_path / "out", quiet)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": "v1"}, "numbers and dots"),
        ({"device": "x86-cpu"}, "is for onnxruntime"),
        ({"device": "drone-voxl2"}, "not a device to flash"),
        ({"precision": "fp16"}, "no precision"),
    ],
)
def test_what_does_not_go_together_is_refused(wheels, config, tmp_path, change, says):
    with pytest.raises(WrongUseError, match=says):
        build_release(msgspec.structs.replace(config, **change), tmp_path, quiet)


def test_a_wheel_that_does_not_exist_for_the_board_is_named(wheels, config, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "requirements_for", lambda _extras: ["no-such-library"])
    with pytest.raises(InputError, match=r"Python 3\.11 on aarch64.*no-such-library"):
        build_release(config, tmp_path, quiet)


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py"])
def test_a_wheel_may_not_leave_its_folder(tmp_path, name):
    write_wheel(tmp_path, "evil", "1", {name: ""})
    with pytest.raises(InputError, match="leaves its folder"):
        unpack_wheels(tmp_path, tmp_path / "site")


def test_only_spoken_dialects_are_unpacked(tmp_path):
    names = ["pymavlink/dialects/v20/common.py", "pymavlink/dialects/v20/paparazzi.py"]
    write_wheel(tmp_path, "pymavlink", "2", dict.fromkeys([*names, "pymavlink/mavutil.py"], ""))
    unpack_wheels(tmp_path, tmp_path / "site")
    found = {f.name for f in (tmp_path / "site" / "pymavlink").rglob("*.py")}
    assert found == {"common.py", "mavutil.py"}


def test_wheels_may_not_overwrite_each_other(tmp_path):
    write_wheel(tmp_path, "a", "1", {"same.py": "1"})
    write_wheel(tmp_path, "b", "1", {"same.py": "2"})
    with pytest.raises(CheckFailedError, match="different"):
        unpack_wheels(tmp_path, tmp_path / "site")


@pytest.mark.parametrize("junk", [b"", b"junk", base64.b64decode("KLUv/SAAAQAA")])
def test_junk_is_no_release(tmp_path, junk):
    (tmp_path / "x").write_bytes(junk)
    with pytest.raises(InputError), open_release(tmp_path / "x"):
        pass


def test_extras_of_the_package_become_requirements():
    needs = requirements_for(["onnxruntime", "sensors"])
    assert {"av>=14", "onnxruntime>=1.20"} <= set(needs)
    assert not any(need.startswith(("torch", "jepa-edge", "pytest")) for need in needs)


def test_platform_tags_follow_pep_600():
    tags = platform_tags(target("raspberry-pi-5").system)
    assert tags[0] == "manylinux_2_36_aarch64"
    assert {"manylinux_2_17_aarch64", "manylinux2014_aarch64"} <= set(tags)


SERVICE = Service(
    root="/opt/jepa-edge",
    label="nano 1",
    engine="onnxruntime",
    camera="/dev/video0",
    mic="alsa:hw:1",
    controller="none",
    precision="int8",
)


def unit(**changes):
    text = unit_text(msgspec.structs.replace(SERVICE, **changes))
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_the_network_and_devices_are_open_only_where_needed():
    alone = unit()
    assert (alone["PrivateNetwork"], alone["RestrictAddressFamilies"]) == ("yes", "AF_UNIX")
    assert alone["PrivateDevices"] == "no"
    assert unit(camera="media/a.mp4", mic="none")["PrivateDevices"] == "yes"
    linked = unit(controller="mavlink:udpout:10.1.1.2:14550", camera="media/a.mp4", mic="none")
    assert linked["PrivateNetwork"] == "no"
    assert linked["IPAddressAllow"] == "localhost 10.1.1.2"
    assert unit(controller="mavlink:serial:/dev/ttyTHS1:921600")["PrivateNetwork"] == "yes"
    named = unit(camera="rtsp://camera.local/live")
    assert named["PrivateNetwork"] == "no"
    assert "IPAddressAllow" not in named  # a name has no address yet
    assert unit(engine="openvino")["MemoryDenyWriteExecute"] == "no"


def test_an_odd_path_cannot_write_its_own_unit():
    assert "'/dev/a b%%n$$X'" in unit(camera="/dev/a b%n$X")["ExecStart"]
    with pytest.raises(WrongUseError, match="character"):
        unit(camera="/dev/a\nExecStart=/bin/sh")


def test_a_login_stays_on_the_device():
    for uri in ("rtsp://pilot:hunter2@10.0.0.2/live", "rtsp://${USER}:hunter2@10.0.0.2/live"):
        with pytest.raises(WrongUseError, match="secrets") as caught:
            unit(camera=uri)
        assert "hunter2" not in str(caught.value)
    named = unit(camera="rtsp://${CAMERA_LOGIN}@10.0.0.2/$x/${no}")
    assert "rtsp://${CAMERA_LOGIN}@10.0.0.2/$$x/$${no}" in named["ExecStart"]
    assert named["EnvironmentFile"] == "-/etc/jepa-edge/secrets"
    assert named["IPAddressAllow"] == "localhost 10.0.0.2"


def test_no_key_and_no_passphrase_is_packed(wheels, config, tmp_path, monkeypatch):
    from jepa_edge.devices.release.repository import Keys, Repository

    monkeypatch.setenv("JEPA_EDGE_KEY_PASSPHRASE", "correct horse")
    repository = Repository(tmp_path / "r", Keys(online=tmp_path / "k", root=tmp_path / "k"))
    repository.create()
    (tmp_path / "out").mkdir()
    built = build_release(config, tmp_path / "out", quiet)
    repository.publish(built.name, built.manifest)
    held = b"".join(f.read_bytes() for f in built.folder.rglob("*") if f.is_file())
    secrets = [line for f in (tmp_path / "k").iterdir() for line in f.read_bytes().splitlines()]
    assert secrets
    for secret in [b"correct horse", b"PRIVATE KEY", *(line for line in secrets if len(line) > 40)]:
        assert secret not in held
        assert secret not in repository.message()


def test_flags_for_the_runtime_are_packed_with_their_files(wheels, config, tiny_clip, tmp_path):
    flags = ("--goal", str(tiny_clip), "--threads", "2")
    built = build_release(msgspec.structs.replace(config, run_flags=flags), tmp_path, quiet)
    text = (built.folder / "units/jepa-edge.service").read_text()
    assert "--goal media/tiny.mp4 --threads 2\n" in text


@pytest.mark.parametrize(
    ("controller", "autopilot", "listen"),
    [
        ("mavlink:udpout:10.0.0.3:14550", None, "udpout:10.0.0.3:14550"),
        ("mavlink:serial:/dev/ttyTHS1:921600", None, "serial:/dev/ttyTHS1:921600"),
        ("mavlink:udp:0.0.0.0:14540", "none", None),
        ("none", "tcp:h:1", "tcp:h:1"),
        ("none", None, None),
    ],
)
def test_the_controller_says_where_the_autopilot_is(
    wheels, config, tmp_path, controller, autopilot, listen
):
    changed = msgspec.structs.replace(config, controller=controller, autopilot=autopilot)
    asked = build_release(changed, tmp_path, quiet).fields["autopilot"]
    assert (asked and asked["listen"]) == listen


def test_a_manifest_names_each_chunk_once(wheels, config, tmp_path):
    built = build_release(config, tmp_path, quiet)
    for digest, place in built.chunk_places().items():
        assert hashlib.sha256(built.chunk(place)).hexdigest() == digest
    assert release_from(built.manifest).id == built.id
