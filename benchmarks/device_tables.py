"""Writes the tables of docs/devices.md from the committed results; `--check` only looks.

sudo JEPA_EDGE_RECORD=/tmp/rows JEPA_EDGE_LITTLE=1 .venv/bin/pytest tests/devices
mv /tmp/rows benchmarks/results/devices/kill_matrix.jsonl
sudo .venv/bin/python benchmarks/power_cuts.py                    # the power cuts
sudo .venv/bin/python benchmarks/rollback.py --bundle b.jepa      # rollback and sandbox
.venv/bin/python benchmarks/device_tables.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from make_tables import replaced, rewritten

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "devices"
DOCUMENT = ROOT / "docs" / "devices.md"
CASES = {
    "client_killed": ("client, SIGKILL; then the same command again", ""),
    "connection_killed": ("SSH connection", ""),
    "receiver_killed": ("receiving process, SIGKILL", "uploading"),
    "worker_killed": ("installer, SIGKILL", ""),
    "worker_killed_while_going_back": ("installer, SIGKILL", "going back to the old release"),
    "power_cut_on_trial": ("every process at once, then boot", "on trial"),
    "every file operation, good": ("installer, at each of its {points} file operations", "always"),
    "every file operation, bad": ("the same, with an unhealthy release ({points})", "always"),
    "unhealthy_release_goes_back_alone": ("unhealthy release", ""),
    "hung_service_is_restarted_by_the_watchdog": ("hung service", "after it was kept"),
    "rollback_takes_seconds": ("nothing: `jepa-edge rollback`", "to the release before, and back"),
    "unsigned_release": ("no signature", "before the upload"),
    "signed_by_another": ("signature of another repository", "before the upload"),
    "expired_metadata": ("expired metadata", "before the upload"),
    "older_version": ("older version", "before the upload"),
    "release_for_another_device": ("release for another device", ""),
    "corrupted_chunk": ("corrupted chunk", "uploading"),
    "disk_full": ("disk full", "before the upload"),
    "armed_vehicle": ("vehicle on MAVLink", ""),
    "unknown_host_key_is_refused": ("host key unknown", "connecting"),
    "the_log_rotates": ("service that floods its log", "after it was kept"),
    "the_service_is_confined": ("nothing: the sandbox is looked at", "after it was kept"),
}
WHEN = {
    "blind": "never good steps",
    "crashing": "crashes at start",
    "yes": "silent, then armed",
    "no": "disarmed",
}


def kill_matrix(file: Path) -> str:
    """A row a case, in the order they were tried."""
    rows = []
    for row in map(json.loads, file.read_text().splitlines()):
        if row["case"] == "arm64":
            continue
        name, _, part = row["case"].rstrip("]").partition("[")
        killed, when = CASES.get(name, (name, "fleet"))
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
        rows.append([killed.format(**row), when or WHEN.get(part, part), row["ends_on"], seconds])
    return _table(["Killed or wrong", "When", "Ends on", "Seconds, tests included"], rows)


def power_cuts(file: Path) -> str:
    """A row a cut."""
    cuts = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [
        [f"{cut['cut_at_s']:.1f}", cut["while"], cut["ends_on"], f"{cut['at_rest_s']:.0f}"]
        for cut in cuts
    ]
    head = (
        f"{len(rows)} power cuts of a machine under full emulation, where an undisturbed flash "
        f"takes {cuts[0]['flash_s']:.0f} s. After each, the same flash again ended on the new one."
    )
    table = _table(["Cut after, s", "While", "Ends on", "Power on to rest, s"], rows)
    return f"{head}\n\n{table}"


def service(found: dict[str, Any]) -> str:
    """One sentence a measurement."""
    back = found["rollback_s"]
    return (
        f"`jepa-edge rollback` on x86-64 took {back['median']:.1f} s "
        f"({back['min']:.1f} to {back['max']:.1f} s, {back['count']} times; {found['bundle']}): "
        f"from the command until the release before is running and healthy. An unhealthy release "
        f"was back on the old one {found['unhealthy_s']:.1f} s after it was started. "
        f"`systemd-analyze security` gives the service {found['exposure']:.1f} of 10 (0 is best)."
    )


def arm64(file: Path) -> str:
    """What the emulated board said of itself."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = next(row for row in rows if row["case"] == "arm64")
    health = found["health"]
    return (
        f"On the emulated arm64 drone `{found['bundle']}` ran under systemd {found['seconds']:.0f} "
        f"s after `jepa-edge flash` was called: {health['ok']} steps with latents, "
        f"{health['holds']} holds, MAVLink linked, battery read as "
        f"{health['autopilot']['battery_pct']} %, {found['heartbeats']} heartbeats heard."
    )


def markdown() -> str:
    """All of it, as far as results are committed."""
    matrix = RESULTS / "kill_matrix.jsonl"
    parts = [kill_matrix(matrix)]
    if re.search('"case": "arm64"', matrix.read_text()):
        parts.append(arm64(matrix) + "\n")
    if (cuts := RESULTS / "power_cuts.jsonl").is_file():
        parts.append(power_cuts(cuts))
    if (found := RESULTS / "service.json").is_file():
        parts.append(service(json.loads(found.read_text())) + "\n")
    return "\n".join(parts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(rewritten(DOCUMENT, lambda old: replaced(old, markdown())))
