"""The device's own verifier against python-tuf and `cryptography`, and against an attacker."""

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical

from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.devices.agent import ed25519
from jepa_edge.devices.agent.durable import AgentError
from jepa_edge.devices.agent.trust import Trust, canonical
from jepa_edge.devices.release.repository import Keys, Repository

NOW = datetime.now(timezone.utc)
SIMPLE = st.none() | st.booleans() | st.integers() | st.text()


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 511))
def test_signatures_are_judged_as_cryptography_does(message, bit):
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    good = key.sign(message)
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    assert ed25519.verify(public, message, good)
    assert not ed25519.verify(public, message, bytes(bad))
    assert not ed25519.verify(public, message + b"x", good)


def test_rfc_8032_vectors():
    public = "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
    signature = (
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert ed25519.verify(bytes.fromhex(public), b"\xaf\x82", bytes.fromhex(signature))


def test_malleable_and_weak_signatures_are_refused():
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    good = key.sign(b"m")
    s = int.from_bytes(good[32:], "little") + ed25519.L
    assert not ed25519.verify(public, b"m", good[:32] + s.to_bytes(32, "little"))
    identity = (1).to_bytes(32, "little")
    assert not ed25519.verify(identity, b"m", identity + bytes(32))
    assert not ed25519.verify(b"\xff" * 32, b"m", good)


@given(st.recursive(SIMPLE, lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_canonical_json_is_that_of_securesystemslib(value):
    assert canonical(value) == encode_canonical(value).encode()


@pytest.fixture
def repository(tmp_path):
    made = Repository(tmp_path / "r", Keys(online=tmp_path / "keys", root=tmp_path / "stick"))
    made.create()
    made.publish("nano/x/1.json", b"release one")
    return made


@pytest.fixture
def trust(tmp_path, repository):
    trust = Trust(tmp_path / "device")
    trust.update(sent(repository), NOW, enroll=True)
    return trust


def sent(repository):
    return json.loads(repository.message())


def refuses(trust, message, code="untrusted", when=NOW):
    before = json.dumps(trust.now)
    with pytest.raises(AgentError) as caught:
        trust.update(message, when)
    assert caught.value.code == code
    assert json.dumps(trust.now) == before
    assert json.dumps(Trust(trust.file.parent).now, sort_keys=True) == json.dumps(
        trust.now, sort_keys=True
    )
    return str(caught.value)


def test_python_tuf_takes_the_same_metadata(repository, tmp_path):
    from tuf.ngclient import Updater
    from tuf.ngclient.fetcher import FetcherInterface

    class Folder(FetcherInterface):
        def _fetch(self, url):
            from tuf.api.exceptions import DownloadHTTPError

            file = repository.folder / url.rpartition("/")[2]
            if not file.is_file():
                raise DownloadHTTPError("not there", 404)
            return iter([file.read_bytes()])

    root = (repository.folder / "1.root.json").read_bytes()
    updater = Updater(str(tmp_path / "client"), "https://x/", fetcher=Folder(), bootstrap=root)
    updater.refresh()
    assert updater.get_targetinfo("nano/x/1.json").length == len(b"release one")


def test_a_signed_release_is_known_by_its_bytes(trust, repository):
    assert trust.name_of(b"release one", NOW) == "nano/x/1.json"
    for other in (b"release two", b"release onE"):
        with pytest.raises(AgentError, match="not among the signed"):
            trust.name_of(other, NOW)
    repository.withdraw("nano/x/1.json")
    trust.update(sent(repository), NOW)
    with pytest.raises(AgentError, match="not among the signed"):
        trust.name_of(b"release one", NOW)


def test_an_unknown_device_must_be_enrolled(tmp_path, repository):
    with pytest.raises(AgentError, match="enroll"):
        Trust(tmp_path / "new").update(sent(repository), NOW)


def test_rollback_is_refused(trust, repository):
    old = sent(repository)
    repository.publish("nano/x/2.json", b"release two")
    trust.update(sent(repository), NOW)
    assert "older" in refuses(trust, old)


def test_freeze_is_refused(trust, repository):
    message = sent(repository)
    refuses(trust, message, "expired", NOW + timedelta(days=31))
    with pytest.raises(AgentError) as caught:
        trust.name_of(b"release one", NOW + timedelta(days=31))
    assert caught.value.code == "expired"


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_mixing_states_is_refused(trust, repository, role):
    old = sent(repository)
    repository.publish("nano/x/2.json", b"release two")
    refuses(trust, sent(repository) | {role: old[role]})


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_changed_metadata_is_refused(trust, repository, role):
    repository.publish("nano/x/2.json", b"release two")
    message = sent(repository)
    whole = json.loads(message[role])
    whole["signed"]["expires"] = "2099-01-01T00:00:00Z"
    assert "good signature" in refuses(trust, message | {role: json.dumps(whole)})


def test_another_repository_is_refused(trust, tmp_path):
    other = Repository(tmp_path / "o", Keys(online=tmp_path / "ok", root=tmp_path / "ok"))
    other.create()
    other.publish("nano/x/9.json", b"evil")
    refuses(trust, sent(other))


@pytest.mark.parametrize("junk", ["", "{}", "[]", '{"signed": {"_type": "root"}}', "x" * 4_000_001])
def test_junk_is_refused(trust, repository, junk):
    refuses(trust, sent(repository) | {"timestamp": junk})


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_keys_rotate_and_the_old_ones_stop_counting(trust, repository, role):
    stolen = [file.read_bytes() for file in repository.keys.folder(role).glob(f"{role}*.pem")]
    repository.rotate(role)
    repository.publish("nano/x/2.json", b"release two")
    trust.update(sent(repository), NOW)
    assert trust.name_of(b"release two", NOW)
    assert trust.now["root"]["version"] == 2
    for file in repository.keys.folder(role).glob(f"{role}*.pem"):
        file.unlink()
    (repository.keys.folder(role) / f"{role}.pem").write_bytes(stolen[0])
    with pytest.raises(InputError, match="takes 1 key"):
        repository.rotate(role) if role == "root" else repository.refresh()


def test_a_root_that_skips_a_version_is_refused(trust, repository):
    repository.rotate("timestamp")
    repository.rotate("timestamp")
    message = sent(repository)
    refuses(trust, message | {"roots": [message["roots"][0], message["roots"][2]]})
    trust.update(message, NOW)
    assert trust.now["root"]["version"] == 3


def test_a_threshold_is_a_threshold(tmp_path):
    keys = Keys(online=tmp_path / "k", root=tmp_path / "stick")
    made = Repository(tmp_path / "r", keys)
    with pytest.raises(WrongUseError, match="threshold"):
        made.create(root_keys=1, root_threshold=2)
    made.create(root_keys=3, root_threshold=2)
    trust = Trust(tmp_path / "device")
    trust.update(sent(made), NOW, enroll=True)
    (keys.root / "root.pem").unlink()
    made.rotate("targets")
    trust.update(sent(made), NOW)
    (keys.root / "root-1.pem").unlink()
    with pytest.raises(InputError, match="takes 2 key"):
        made.rotate("targets")


def test_signing_needs_no_root_key(repository):
    for file in repository.keys.root.iterdir():
        file.unlink()
    repository.publish("nano/x/2.json", b"release two")


def test_keys_are_their_owners_alone_and_can_be_locked(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_EDGE_KEY_PASSPHRASE", "open sesame")
    made = Repository(tmp_path / "r", Keys(online=tmp_path / "k", root=tmp_path / "k"))
    made.create()
    for file in (tmp_path / "k").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        assert b"ENCRYPTED" in file.read_bytes()
    monkeypatch.delenv("JEPA_EDGE_KEY_PASSPHRASE")
    with pytest.raises(InputError, match="PASSPHRASE"):
        made.refresh()


def test_the_agent_needs_only_the_standard_library_of_python_3_8(tmp_path):
    from jepa_edge.devices.flash.agent_file import agent_bytes

    file = tmp_path / "agent.pyz"
    file.write_bytes(agent_bytes())
    assert agent_bytes() == file.read_bytes()
    argv = [sys.executable, "-I", "-S", str(file), "--root", str(tmp_path / "root"), "facts"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["uid"] >= 0
