"""Releases that differ in little: many updates of one device, without building each anew."""

import os
import shutil

import msgspec

from jepa_edge.devices.agent.store import MANIFEST
from jepa_edge.devices.release.build import BuiltRelease, entry_of

SIZE = 6 << 20


def variant(base, folder, *, version, unit=None, **changes):
    """`base` as `version` with one more file; `unit` edits its unit, `changes` its manifest."""
    shutil.copytree(base.folder, folder, copy_function=os.link)
    files = dict(base.fields["files"])
    (folder / "media" / "new.bin").write_bytes(os.urandom(SIZE))
    files["media/new.bin"] = entry_of(folder / "media" / "new.bin")
    if unit is not None:
        file = folder / "units" / "jepa-edge.service"
        text = unit(file.read_text())
        file.unlink()  # it is a link to that of `base`
        file.write_text(text)
        files["units/jepa-edge.service"] = entry_of(file)
    fields = base.fields | {"version": version, "files": files} | changes
    manifest = msgspec.json.encode(fields, order="sorted")
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_bytes(manifest)
    return BuiltRelease(folder=folder, manifest=manifest)
