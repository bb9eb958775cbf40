"""The agent as one file: a zip that the device's own Python runs. The same bytes each time."""

from __future__ import annotations

import io
import zipfile
from importlib import resources

MAIN = "from jepa_edge.devices.agent.__main__ import main\nraise SystemExit(main())\n"


def agent_bytes() -> bytes:
    """``agent.pyz``: the modules of `jepa_edge.devices.agent` and nothing else of the package."""
    source = resources.files("jepa_edge.devices") / "agent"
    files = {"__main__.py": MAIN.encode()}
    files |= {f"{folder}/__init__.py": b"" for folder in ("jepa_edge", "jepa_edge/devices")}
    for entry in source.iterdir():
        if entry.name.endswith(".py"):
            files[f"jepa_edge/devices/agent/{entry.name}"] = entry.read_bytes()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, files[name], compress_type=zipfile.ZIP_DEFLATED)
    return out.getvalue()
