"""The gate of a trial: is the service really seeing, encoding and being on time?

The service writes `health.json` about its own steps (`jepa_edge.runtimes.service`). Times are of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from jepa_edge.devices.agent.durable import AgentError, read_json
from jepa_edge.devices.agent.system import Systemd

STALE_S = 5.0


class Gate(NamedTuple):
    """What a release must do to be kept; it comes signed with the release."""

    within_s: float = 60.0
    ok_steps: int = 10
    max_hold_share: float = 0.2
    max_latency_ms_p99: float | None = None
    needs_autopilot: bool = False
    max_restarts: int = 2


class Verdict(NamedTuple):
    """`passed`, and the reason in words."""

    passed: bool
    reason: str


def gate_from(fields: dict[str, Any]) -> Gate:
    """The gate in a release manifest; a key this agent does not know is an error."""
    try:
        return Gate(**fields)
    except TypeError as error:
        raise AgentError("broken-release", "health gate: {}".format(error)) from error


def watch(services: Systemd, run: Path, gate: Gate) -> Verdict:
    """Watches the service until it passes `gate`, fails, or `gate.within_s` have gone by."""
    end = time.monotonic() + gate.within_s
    reason = "the service did not start"
    while time.monotonic() < end:
        shown = services.show()
        if shown.get("ActiveState") == "failed":
            return Verdict(False, "the service failed: {}".format(shown.get("Result")))
        if int(shown.get("NRestarts") or 0) > gate.max_restarts:
            return Verdict(False, "the service crashed {} times".format(shown["NRestarts"]))
        health = read_health(run)
        reason = why_not(health, int(shown.get("MainPID") or 0), gate)
        if not reason and shown.get("ActiveState") == "active":
            return Verdict(True, "healthy: {} good steps".format(health["ok"] if health else 0))
        time.sleep(0.2)
    return Verdict(False, reason or "the service is not active")


def read_health(run: Path) -> dict[str, Any] | None:
    """What the service last wrote of itself; None if it wrote nothing readable."""
    try:
        found = read_json(run / "health.json")
    except (AgentError, OSError):
        return None
    return found if isinstance(found, dict) else None


def why_not(health: dict[str, Any] | None, pid: int, gate: Gate) -> str:
    """Why the service with process `pid` may not be kept yet; empty if it may."""
    if health is None or health.get("pid") != pid:
        return "the service has not reported yet"
    age_s = time.monotonic() - health["updated_ns"] / 1e9
    ok, holds = int(health["ok"]), int(health["holds"])
    latency = health.get("latency_ms_p99")
    linked = bool((health.get("autopilot") or {}).get("linked"))
    told = [
        (age_s > STALE_S, "the last report is {:.0f} s old".format(age_s)),
        (
            ok < gate.ok_steps,
            "{} good steps of {}, {} holds{}".format(
                ok, gate.ok_steps, holds, ": " + health["reason"] if health.get("reason") else ""
            ),
        ),
        (holds > gate.max_hold_share * max(1, ok + holds), "{} of {} steps hold".format(holds, ok)),
        (
            gate.max_latency_ms_p99 is not None
            and latency is not None
            and latency > gate.max_latency_ms_p99,
            "latency p99 is {} ms, the limit is {}".format(latency, gate.max_latency_ms_p99),
        ),
        (gate.needs_autopilot and not linked, "no heartbeat from the autopilot"),
    ]
    return next((reason for is_wrong, reason in told if is_wrong), "")
