"""A release that holds no wheels and no model, but is installed, tried and kept like any other."""

from pathlib import Path

import msgspec

from jepa_edge.devices.agent.store import MANIFEST, SCHEMA
from jepa_edge.devices.release.build import BuiltRelease, entry_of
from jepa_edge.devices.release.unit import Service, unit_text

LITTLE = Path(__file__).parent / "little.py"
SERVICE = Service(
    root="/opt/jepa-edge",
    label="little",
    engine="onnxruntime",
    camera="media/new.bin",
    mic="none",
    controller="none",
    precision="fp32",
)
OURS, THEIRS = "-m little ", "-m jepa_edge.runtimes "


def little_release(folder, *, within_s=120.0, ok_steps=10):
    """The base that `variant` makes releases from."""
    (folder / "site").mkdir(parents=True)
    (folder / "units").mkdir()
    (folder / "media").mkdir()
    (folder / "site" / "little.py").write_text(LITTLE.read_text())
    unit = unit_text(SERVICE).replace(THEIRS, OURS)
    (folder / "units" / "jepa-edge.service").write_text(unit)
    files = {
        file.relative_to(folder).as_posix(): entry_of(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    fields = {
        "schema": SCHEMA,
        "name": "little",
        "version": "0",
        "device": "generic-onnx",
        "machine": "x86_64",
        "python": "3.11",
        "memory_bytes": 1 << 20,
        "service": msgspec.to_builtins(SERVICE),
        "health": {"within_s": within_s, "ok_steps": ok_steps},
        "autopilot": None,
        "prepare": [{"what": "comparing", "argv": ["-m", "little", "--check"]}],
        "files": files,
    }
    manifest = msgspec.json.encode(fields, order="sorted")
    (folder / MANIFEST).write_bytes(manifest)
    return BuiltRelease(folder=folder, manifest=manifest)
