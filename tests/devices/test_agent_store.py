"""Chunks and folders on the device: what comes in is what was signed, or nothing."""

import hashlib
import io
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_edge.devices.agent.durable import AgentError
from jepa_edge.devices.agent.store import CHUNK, Store, release_from
from tests.devices.release_files import frames, manifest_of


def install(store, files):
    raw = manifest_of(files)
    release = release_from(raw)
    missing = store.begin(raw)
    store.receive(release, io.BytesIO(frames(files, only=missing)))
    store.assemble(release)
    store.complete(release)
    store.seal(release)
    return release, missing


FILES = {"bundle/a": b"a" * 10, "site/b/c": b"b" * CHUNK + b"c" * CHUNK + b"d" * 5, "empty": b""}


def test_what_was_sent_is_what_is_installed(memory_path):
    store = Store(memory_path)
    release, _ = install(store, FILES)
    for path, data in FILES.items():
        assert (store.folder(release.id) / path).read_bytes() == data
    assert store.verify(release.id) == []
    assert store.installed() == [release.id]


def test_a_second_release_is_sent_only_what_changed(memory_path):
    store = Store(memory_path)
    install(store, FILES)
    new = FILES | {"bundle/a": b"new"}
    release, missing = install(store, new)
    assert missing == [hashlib.sha256(b"new").hexdigest()]
    assert (store.folder(release.id) / "site/b/c").read_bytes() == FILES["site/b/c"]


def test_an_interrupted_upload_goes_on(memory_path):
    store, raw = Store(memory_path), manifest_of(FILES)
    release, before = release_from(raw), None
    stream = frames(FILES)
    for cut in (0, 20, 60, len(stream) // 2, len(stream) - 10, len(stream)):
        missing = store.begin(raw)
        assert before is None or set(missing) <= set(before)
        before = missing
        try:
            store.receive(release, io.BytesIO(frames(FILES, only=missing)[:cut]))
        except AgentError as error:
            assert error.code == "cut-off"  # noqa: PT017
    assert store.begin(raw) == []


def test_a_torn_chunk_and_a_changed_old_release_are_sent_again(memory_path):
    store = Store(memory_path)
    old, _ = install(store, FILES)
    new = FILES | {"bundle/a": b"new"}
    raw = manifest_of(new)
    store.clean({old.id})
    changed = store.folder(old.id) / "site/b/c"
    changed.write_bytes(b"x" + changed.read_bytes()[1:])
    missing = store.begin(raw)
    store.receive(release_from(raw), io.BytesIO(frames(new, only=missing)))
    with pytest.raises(AgentError, match="1 chunks are missing or changed"):
        store.assemble(release_from(raw))
    (lost,) = store.begin(raw)
    assert lost == hashlib.sha256(FILES["site/b/c"][:CHUNK]).hexdigest()
    store.receive(release_from(raw), io.BytesIO(frames(new, only=[lost])))
    (store.chunks / lost).write_bytes(b"torn")
    assert store.missing(release_from(raw)) == [lost]
    store.receive(release_from(raw), io.BytesIO(frames(new, only=[lost])))
    store.assemble(release_from(raw))
    release = release_from(raw)
    store.complete(release)
    store.seal(release)
    assert store.verify(release.id) == []


@pytest.mark.parametrize("what", ["content", "stranger", "length", "zlib"])
def test_a_corrupt_chunk_is_refused_and_leaves_nothing(memory_path, what):
    store, raw = Store(memory_path), manifest_of(FILES)
    store.begin(raw)
    digest = hashlib.sha256(FILES["bundle/a"]).hexdigest()
    stranger = zlib.compress(b"stranger")
    stream = {
        "content": frames(FILES, only=[digest], corrupt=digest),
        "stranger": hashlib.sha256(b"stranger").digest()
        + len(stranger).to_bytes(4, "big")
        + stranger,
        "length": bytes.fromhex(digest) + (1 << 30).to_bytes(4, "big"),
        "zlib": bytes.fromhex(digest) + (4).to_bytes(4, "big") + b"1234",
    }[what]
    with pytest.raises(AgentError) as caught:
        store.receive(release_from(raw), io.BytesIO(stream))
    assert caught.value.code == "corrupt-chunk"
    assert list(store.chunks.iterdir()) == []


def test_a_bomb_is_not_inflated(memory_path):
    store, raw = Store(memory_path), manifest_of({"a": b"a"})
    store.begin(raw)
    bomb = zlib.compress(bytes(64 * CHUNK))
    digest = hashlib.sha256(b"a").digest()
    with pytest.raises(AgentError, match="is not what it says"):
        store.receive(release_from(raw), io.BytesIO(digest + len(bomb).to_bytes(4, "big") + bomb))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a\0b"])
def test_no_file_leaves_its_release(path):
    with pytest.raises(AgentError) as caught:
        release_from(manifest_of({path: b"x"}))
    assert caught.value.code == "broken-release"


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["schema", "files", "name", "health"]),
        st.none() | st.integers() | st.text(),
    )
)
def test_no_manifest_crashes_the_agent(change):
    fields = json.loads(manifest_of({"a": b"a"})) | change
    try:
        release_from(json.dumps(fields).encode())
    except AgentError as error:
        assert error.code in ("broken-release", "wrong-schema")  # noqa: PT017


@pytest.mark.parametrize("how", ["changed", "missing", "added", "made"])
def test_verify_finds_every_change(memory_path, how):
    store = Store(memory_path)
    raw = manifest_of(FILES)
    release = release_from(raw)
    store.begin(raw)
    store.receive(release, io.BytesIO(frames(FILES)))
    store.assemble(release)
    folder = store.complete(release)
    (folder / "made").mkdir()
    (folder / "made" / "engine").write_bytes(b"e")
    store.seal(release)
    assert store.verify(release.id) == []
    {
        "changed": lambda: (folder / "bundle/a").write_bytes(b"b" * 10),
        "missing": lambda: (folder / "empty").unlink(),
        "added": lambda: (folder / "site" / "evil.py").write_bytes(b""),
        "made": lambda: (folder / "made" / "engine").write_bytes(b"f"),
    }[how]()
    assert len(store.verify(release.id)) == 1
