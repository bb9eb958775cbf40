"""The one change at a time: install, try, keep or take back. It can be killed anywhere.

Every step first writes down what it is about to do, and `work` goes on from what is written:
systemd starts it again when it dies, and at every boot. `current` always points to a whole,
verified release; a trial that is cut off too often is taken back.
"""

from __future__ import annotations

import errno
import time
from datetime import datetime, timezone
from typing import Any

from jepa_edge.devices.agent import autopilot
from jepa_edge.devices.agent.durable import AgentError, point, remove, write_json
from jepa_edge.devices.agent.health import Gate, Verdict, gate_from, read_health, watch
from jepa_edge.devices.agent.prepare import prepare, took_s
from jepa_edge.devices.agent.state import Job, Layout, State, load, save
from jepa_edge.devices.agent.store import Release, Store
from jepa_edge.devices.agent.system import Systemd

FULL = (errno.ENOSPC, errno.EDQUOT)
STEPS_AGAIN = 3
"""Good steps that a release must show when it is gone back to."""
TRIAL_PER_PREPARE, LONGEST_TRIAL_S = 4.0, 600.0
"""A trial may last so many times as long as it took to prepare: both load the same engines."""
MOST_ATTEMPTS = 4
"""A change cut off this often is given up: a release that kills its board must not stay."""


class Worker:
    """Brings the device to the state its journal asks for."""

    def __init__(self, layout: Layout, services: Systemd) -> None:
        self.layout, self.services = layout, services
        self.store = Store(layout.root)
        self.began = time.monotonic()

    def work(self) -> None:
        """Does what is pending; returns when nothing is."""
        state = load(self.layout)
        while state.job is not None:
            state = self._advance(state, state.job)
            if state.job is None and state.good and self.layout.current_id == state.good:
                self._clean(state)
        if self.layout.current.is_symlink():
            self.services.start()

    def _advance(self, state: State, job: Job) -> State:
        """One phase of `job`."""
        job = job._replace(attempts=job.attempts + 1)
        state = save(self.layout, state._replace(job=job))
        if job.phase == "rollback":
            return self._roll_back(state, job)
        if job.attempts > MOST_ATTEMPTS:
            return self._give_up(state, job, "it was cut off {} times".format(MOST_ATTEMPTS))
        try:
            return self._install(state, job) if job.phase == "install" else self._try(state, job)
        except AgentError as error:
            return self._give_up(state, job, str(error), error.code)
        except OSError as error:
            remove(self.store.part(job.release))  # room for the journal on a full disk
            code = "disk-full" if error.errno in FULL else "system"
            return self._give_up(state, job, str(error), code)

    def _install(self, state: State, job: Job) -> State:
        release = self.store.read(job.release)
        was_here = release is not None
        if release is None:
            release = self.store.pending(job.release)
            self._say("assembling " + release.label)
            self.store.assemble(release)
            self.store.complete(release)
        if not self.store.is_sealed(release.id):
            prepare(release, self.store.folder(release.id), self._say)
            self.store.seal(release)
        if was_here and release.id != state.previous:
            self._verify(release)  # else it was verified on the way, or it ran before
        return save(self.layout, state._replace(job=job._replace(phase="trial", attempts=0)))

    def _verify(self, release: Release) -> None:
        self._say("verifying " + release.label)
        if wrong := self.store.verify(release.id):
            remove(self.store.folder(release.id))
            raise AgentError("broken-release", "; ".join(wrong[:5]))

    def _try(self, state: State, job: Job) -> State:
        """Runs the new release; it is kept when it passes its gate."""
        fields = self._fields(job.release)
        if self.layout.current_id != job.release:
            refuse_flying(self.layout, fields, job.force)
        self._say("starting {} {} on trial".format(fields["name"], fields["version"]))
        point(self.layout.current, "releases/" + job.release)
        self.services.restart()
        gate = self._gate(job.release, fields, again=job.release == state.previous)
        verdict = watch(self.services, self.layout.run, gate)
        if not verdict.passed:
            raise AgentError("unhealthy", verdict.reason + self.services.last_words())
        kept = State(
            good=job.release,
            previous=state.good if state.good != job.release else state.previous,
            outcome=self._outcome(job, "running", verdict.reason),
        )
        return save(self.layout, kept)

    def _give_up(self, state: State, job: Job, reason: str, code: str = "unhealthy") -> State:
        self._say("giving up: " + reason)
        outcome = self._outcome(job, "failed", reason, code)
        if self.layout.current_id != job.release or job.previous == job.release:
            return save(self.layout, state._replace(job=None, outcome=outcome))
        back = job._replace(phase="rollback", attempts=0)
        return save(self.layout, state._replace(job=back, outcome=outcome))

    def _roll_back(self, state: State, job: Job) -> State:
        self._say("going back to the release before")
        if job.previous is None:
            self.services.stop()
            remove(self.layout.current)
            return save(self.layout, state._replace(job=None))
        point(self.layout.current, "releases/" + job.previous)
        self.services.restart()
        verdict = self._still_runs(job.previous)
        outcome = dict(state.outcome or {}, result="rolled back", seconds=self._seconds())
        if not verdict.passed:
            outcome["reason"] += "; and the release before is not healthy: " + verdict.reason
        return save(self.layout, state._replace(job=None, outcome=outcome))

    def _still_runs(self, release: str) -> Verdict:
        try:
            gate = self._gate(release, self._fields(release), again=True)
            return watch(self.services, self.layout.run, gate)
        except AgentError as error:
            return Verdict(False, str(error))

    def _clean(self, state: State) -> None:
        """Keeps the release that runs, the one before, and what a failed install may use again."""
        failed = (state.outcome or {}).get("result") == "failed"
        if not failed:
            self.store.clean({name for name in (state.good, state.previous) if name})

    def _gate(self, release: str, fields: dict[str, Any], *, again: bool) -> Gate:
        """The gate of a release; a slow device has longer, and a release that passed is quicker."""
        gate = gate_from(fields["health"])
        slow_s = min(LONGEST_TRIAL_S, TRIAL_PER_PREPARE * took_s(self.store.folder(release)))
        gate = gate._replace(within_s=max(gate.within_s, slow_s))
        return gate._replace(ok_steps=min(gate.ok_steps, STEPS_AGAIN)) if again else gate

    def _fields(self, release_id: str) -> dict[str, Any]:
        release = self.store.read(release_id)
        if release is None:
            raise AgentError("unknown-release", "release {} is gone".format(release_id))
        return release.fields

    def _outcome(self, job: Job, result: str, reason: str, code: str = "") -> dict[str, Any]:
        return {
            "release": job.release,
            "result": result,
            "reason": reason,
            "code": code,
            "seconds": self._seconds(),
            "at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _seconds(self) -> float:
        return round(time.monotonic() - self.began, 2)

    def _say(self, what: str) -> None:
        print(what, flush=True)  # the journal
        progress_file = self.layout.run.with_name(self.layout.run.name + "-agent.json")
        progress_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(progress_file, {"doing": what, "at": time.monotonic()})


def submit(layout: Layout, services: Systemd, job: Job) -> None:
    """Writes `job` down and lets systemd begin it. Raises ``busy`` while another is under way."""
    state = load(layout)
    if state.job is not None:
        raise AgentError("busy", "release {} is being changed to".format(state.job.release))
    save(layout, state._replace(job=job, outcome=None))
    services.begin_work()


def refuse_flying(layout: Layout, fields: dict[str, Any], force: bool) -> None:
    """Raises `AgentError` unless the vehicle is known to be disarmed, with enough battery.

    A running service owns the autopilot's link and tells what it hears; otherwise the agent listens
    itself. Without an autopilot in the release there is nothing to ask.
    """
    asked: dict[str, Any] | None = fields.get("autopilot")
    if asked is None or force:
        return
    heard = (read_health(layout.run) or {}).get("autopilot")
    updated_ns = (read_health(layout.run) or {}).get("updated_ns", 0)
    is_fresh = time.monotonic() - updated_ns / 1e9 < 3.0
    if heard and heard.get("linked") and is_fresh and heard.get("armed") is not None:
        vehicle = autopilot.Vehicle(bool(heard["armed"]), heard.get("battery_pct"))
    else:
        vehicle = autopilot.listen(asked["listen"])
    autopilot.refuse_unfit(vehicle, int(asked.get("min_battery_pct", 0)))
