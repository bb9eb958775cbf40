"""What the bench of paths and networks measured; its JSON is exactly this."""

from __future__ import annotations

import msgspec

from jepa_edge.bench.facts import Interval, Machine

SCHEMA = "1.0"


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
    age_ms_p50: float | None
    age_ms_p99: float | None
    cloud_share: float


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
    edge_ms: float | None = None
    """Median time of one decision here: encode, predict or plan."""
    links: dict[str, float] = {}
    """Per network the 95th percentile of a round trip with one step of this model, ms."""
    models: dict[str, float] = {}
    """Of this and the other bundles, ms of one decision here."""
    notes: list[str] = []
