"""A release of a few small files, as the host would send it."""

import hashlib
import json
import zlib

from jepa_edge.devices.agent.store import CHUNK


def manifest_of(files):
    entries = {}
    for path, data in files.items():
        pieces = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        chunks = [hashlib.sha256(piece).hexdigest() for piece in pieces]
        entries[path] = {"size": len(data), "mode": 0o644, "chunks": chunks}
    fields = {"schema": 1, "name": "n", "version": "1", "machine": "m", "python": "3.11"}
    return json.dumps(fields | {"service": {}, "health": {}, "files": entries}).encode()


def frames(files, only=None, corrupt=None):
    out = b""
    for data in files.values():
        for at in range(0, len(data), CHUNK):
            piece = data[at : at + CHUNK]
            digest = hashlib.sha256(piece).digest()
            if only is not None and digest.hex() not in only:
                continue
            packed = zlib.compress(b"other" if digest.hex() == corrupt else piece)
            out += digest + len(packed).to_bytes(4, "big") + packed
    return out + bytes(36)
