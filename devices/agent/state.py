"""What the device remembers across power cuts: which release is good, and what is being tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from jepa_edge.devices.agent.durable import read_json, write_json


class Layout(NamedTuple):
    """Where things are on the device. Tests move it."""

    root: Path
    units: Path = Path("/etc/systemd/system")
    run: Path = Path("/run/jepa-edge")

    @property
    def current(self) -> Path:
        """The link to the release that runs."""
        return self.root / "current"

    @property
    def current_id(self) -> str | None:
        """The release that `current` points to, or None."""
        return self.current.resolve().name if self.current.is_symlink() else None


class Job(NamedTuple):
    """One change under way; `phase` goes install → trial → gone, or trial → rollback → gone."""

    release: str
    phase: str
    attempts: int = 0
    previous: str | None = None
    force: bool = False


class State(NamedTuple):
    """`good` runs and passed its trial; `previous` did so before it."""

    good: str | None = None
    previous: str | None = None
    job: Job | None = None
    outcome: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The state as JSON has it."""
        fields = self._asdict()
        return dict(fields, job=self.job._asdict() if self.job else None)


def load(layout: Layout) -> State:
    """The state on disk; an empty one where there is none."""
    fields: dict[str, Any] = read_json(layout.root / "state.json") or {}
    job = fields.get("job")
    known = {name: fields.get(name) for name in ("good", "previous", "outcome")}
    return State(job=Job(**job) if job else None, **known)


def save(layout: Layout, state: State) -> State:
    """Makes `state` durable in one step, and returns it."""
    layout.root.mkdir(parents=True, exist_ok=True)
    write_json(layout.root / "state.json", state.to_json())
    return state
