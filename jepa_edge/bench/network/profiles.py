"""What links are like: synthetic profiles, calibrated to published measurements, one-way values.

Uplink and downlink are independent: assuming half the round trip is wrong (PEERNet,
arXiv:2409.06078). Sources are named in each profile.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from jepa_edge.contract import WrongUseError


class Bursts(NamedTuple):
    """Gilbert-Elliott loss: the share lost while bad, and the odds to turn bad, or good, a packet.

    Gilbert 1960, Elliott 1963.
    """

    turns_bad: float
    turns_good: float
    lost_when_bad: float


class Handover(NamedTuple):
    """Now and then (exponential, mean `every_s`) a gap, then a while with up to `extra_ms` more.

    Nothing passes for `gap_s`; the longer delays last for `lasts_s`.
    """

    every_s: float
    gap_s: float
    extra_ms: float
    lasts_s: float


class Outage(NamedTuple):
    """Nothing passes for the last `lasts_s` of every `every_s`."""

    every_s: float
    lasts_s: float


class Direction(msgspec.Struct, frozen=True, kw_only=True):
    """One way of a link.

    Attributes:
        delay_ms: least one-way delay.
        jitter_ms: mean of the exponential delay on top; packets keep their order.
        rate_mbit: of the bottleneck.
        queue_ms: of the bottleneck; what would wait longer is lost.
        standing_ms: other traffic keeps the queue up to so full (a sawtooth of `swing_s`).
    """

    delay_ms: float
    jitter_ms: float = 0.0
    rate_mbit: float = 1000.0
    queue_ms: float = 200.0
    standing_ms: float = 0.0
    swing_s: float = 4.0
    bursts: Bursts | None = None
    handover: Handover | None = None
    outage: Outage | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A link with two independent directions."""

    name: str
    source: str
    up: Direction
    down: Direction


_RARE = Bursts(0.0006, 0.2, 0.5)
_AIR = Bursts(0.004, 0.2, 0.5)
_MOVING = Handover(20.0, 0.2, 275.0, 1.0)
_BLACK = Outage(30.0, 5.0)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="lan",
            source="wired, 1 ms each way, 100 Mbit/s",
            up=Direction(delay_ms=0.8, jitter_ms=0.2, rate_mbit=100),
            down=Direction(delay_ms=0.8, jitter_ms=0.2, rate_mbit=100),
        ),
        Profile(
            name="wifi",
            source="Wi-Fi 6 in a building: 3 ± 2 ms, losses in bursts",
            up=Direction(delay_ms=2, jitter_ms=2, rate_mbit=80, bursts=_RARE),
            down=Direction(delay_ms=2, jitter_ms=1.5, rate_mbit=120, bursts=_RARE),
        ),
        Profile(
            name="5g_good",
            source="5G NSA, still: round trip 47 ms, jitter 0.7 ms, no loss (arXiv:2503.14186)",
            up=Direction(delay_ms=28, jitter_ms=0.7, rate_mbit=30),
            down=Direction(delay_ms=17, jitter_ms=0.7, rate_mbit=100),
        ),
        Profile(
            name="5g_moving",
            source="the same with a handover each 20 s, +100 to 275 ms (arXiv:2605.27755)",
            up=Direction(delay_ms=29, jitter_ms=2, rate_mbit=30, handover=_MOVING),
            down=Direction(delay_ms=18, jitter_ms=2, rate_mbit=100, handover=_MOVING),
        ),
        Profile(
            name="lte_air",
            source="LTE from a flying drone: 80 % of round trips below 150 ms, at least 5 Mbit/s, "
            "handovers 3 to 4 times as often as on the ground (arXiv:2605.27755)",
            up=Direction(
                delay_ms=45,
                jitter_ms=25,
                rate_mbit=8,
                bursts=_AIR,
                handover=Handover(6.0, 0.15, 275.0, 0.8),
            ),
            down=Direction(delay_ms=35, jitter_ms=12, rate_mbit=15, bursts=_RARE),
        ),
        Profile(
            name="starlink",
            source="95 % of round trips below 50 ms, 95 % above 25 Mbit/s down "
            "(arXiv:2605.27755); reallocation each 15 s",
            up=Direction(
                delay_ms=17,
                jitter_ms=4,
                rate_mbit=10,
                bursts=_RARE,
                handover=Handover(15.0, 0.05, 60.0, 0.3),
            ),
            down=Direction(delay_ms=14, jitter_ms=3, rate_mbit=40, bursts=_RARE),
        ),
        Profile(
            name="lte_poor",
            source="the edge of an LTE cell: 40 ± 20 ms each way, 1 % lost, 8 Mbit/s",
            up=Direction(delay_ms=40, jitter_ms=20, rate_mbit=8, bursts=_AIR),
            down=Direction(delay_ms=40, jitter_ms=20, rate_mbit=8, bursts=_AIR),
        ),
        Profile(
            name="bufferbloat",
            source="an uplink shared with a download: a queue of up to 300 ms, never empty",
            up=Direction(delay_ms=15, jitter_ms=3, rate_mbit=6, queue_ms=600, standing_ms=300),
            down=Direction(delay_ms=15, jitter_ms=3, rate_mbit=30, queue_ms=300),
        ),
        Profile(
            name="blackout",
            source="5g_good, and nothing at all for 5 s of every 30 s",
            up=Direction(delay_ms=28, jitter_ms=0.7, rate_mbit=30, outage=_BLACK),
            down=Direction(delay_ms=17, jitter_ms=0.7, rate_mbit=100, outage=_BLACK),
        ),
    )
}


def profile(name: str) -> Profile:
    """The profile called `name`. Raises `WrongUseError` if there is none."""
    if name not in PROFILES:
        raise WrongUseError(f"unknown network {name!r}; known: {', '.join(PROFILES)}")
    return PROFILES[name]
