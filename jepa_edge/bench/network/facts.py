"""What the bench of paths and networks measured; its JSON is exactly this."""

from __future__ import annotations

import msgspec
import numpy as np

from jepa_edge.bench.facts import Interval, Machine

SCHEMA = "1.1"


class Age(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from capture to hand-over, on the robot's own clock."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class PathFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One path over one network: every step of every round."""

    path: str
    network: str
    steps: int
    age: Age | None
    """Of the steps that were acted on; None when there were none."""
    missed: float
    """Share of steps that nothing could be done for in time: holds and dropped steps."""
    cloud_share: float
    """Share of the acted steps that a server thought for."""
    switches: int
    bytes_up: float | None
    """Per step, on the link; None for a path that uses none."""
    bytes_down: float | None
    usd_per_hour: float
    energy_j: float | None = None
    """Per decision; None: no power sensor on this machine."""


class SuccessFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One path over one network in one precision, flown through the same scenes as all others."""

    path: str
    network: str
    precision: str
    episodes: int
    success: Interval
    collisions_mean: float
    held: float
    """Share of the time without a command that is young enough."""
    steps: int
    age: Age | None
    """At hand-over, of the steps that were acted on; None when there were none."""
    missed: float
    """Share of steps that nothing was decided for in time."""
    cloud_share: float
    bytes_up: float | None
    """Per step; None for a path that uses no link."""
    bytes_down: float | None
    usd_per_hour: float
    energy_j: float | None = None
    """Per decision; None: simulated flights have no power to measure."""


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What the price of an hour is made of: a server shared by robots, and traffic.

    ``usd = server_usd_per_hour / robots_per_server + GiB_per_hour * usd_per_gib``. The defaults
    are examples to replace; the server's share is paid by every path that keeps one ready.
    """

    server_usd_per_hour: float = 0.5
    robots_per_server: int = 32
    usd_per_gib: float = 2.0

    def per_hour(self, bytes_per_step: float, steps_per_second: float) -> float:
        """USD for one robot that sends and receives so many bytes for each step."""
        gib = bytes_per_step * steps_per_second * 3600 / 2**30
        return self.server_usd_per_hour / self.robots_per_server + gib * self.usd_per_gib


class ModelTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What one decision of a bundle takes here: medians, alone on the machine's cores."""

    name: str
    precision: str
    parameters: int
    encode_ms: float
    decision_ms: float
    """Encode, then predict or plan."""
    step_bytes: int
    """Of one step as JPEG."""


class NetworkReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything one `jepa-edge bench --path` measured."""

    schema: str = SCHEMA
    bundle: str
    precision: str
    lab: str
    """``netns``: real TCP stacks over TUN; ``proxy``: the in-process TCP proxy."""
    machine: Machine
    rounds: int
    steps: int
    step_ms: float
    deadline_ms: float
    budget_ms: float
    costs: Costs
    paths: list[PathFacts]
    world: str = ""
    successes: list[SuccessFacts] = []
    links: dict[str, float] = {}
    """Per network the 95th percentile of a round trip with one step of this model, ms."""
    models: list[ModelTimes] = []
    """This bundle's, then those of the others."""
    notes: list[str] = []


def age_from(ages_ms: list[float]) -> Age | None:
    """Order statistics of `ages_ms`; None of nothing."""
    if not ages_ms:
        return None
    p50, p95, p99 = np.percentile(ages_ms, (50, 95, 99))
    return Age(
        count=len(ages_ms),
        p50_ms=round(float(p50), 2),
        p95_ms=round(float(p95), 2),
        p99_ms=round(float(p99), 2),
        max_ms=round(max(ages_ms), 2),
    )
