"""Who thinks: the board, a server, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray, WrongUseError
from jepa_edge.front import stderr
from jepa_edge.runtimes.hybrid import Breaker, BreakerConfig, HybridStream
from jepa_edge.runtimes.loop import Piloting, Streaming
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.remote.link import SCHEMES, Link, LinkConfig
from jepa_edge.runtimes.remote.split import SplitMind
from jepa_edge.runtimes.remote.stream import RemoteConfig, RemotePilot, RemoteStream
from jepa_edge.runtimes.remote.wire import LinkError, RefusedError, Uplink
from jepa_edge.runtimes.stream import Stream

LOCAL, HYBRID = "local", "hybrid:"
FRAMES, LATENTS = ("jpeg", "raw"), ("pooled", "int8")
"""What goes up: what was seen, or the board's own latents of it."""
PATIENCE_S = 10.0
"""How long a goal may take to be encoded on a server, before the first step."""
SAME = 0.2
"""Relative distance below which two latents of one goal come from one model."""

GoalOf = Callable[[Streaming], FloatArray | None]
PilotOf = Callable[[FloatArray | None], Pilot | None]


class Far(msgspec.Struct, frozen=True, kw_only=True):
    """The flags of `run` that are about a server.

    ``engine`` is ``local``, ``grpc://host:port`` (or ``grpcs://``), or ``hybrid:`` before that.
    """

    engine: str = LOCAL
    deadline_ms: float = 150.0
    uplink: Uplink = "jpeg"
    hedge_ms: float | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    breaker: BreakerConfig = BreakerConfig()

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for what is no engine, no uplink, or no time at all."""
        if self.engine != LOCAL and not self.engine.removeprefix(HYBRID).startswith(SCHEMES):
            raise WrongUseError(
                f"unknown engine {self.engine!r}; known: local, grpc://HOST:PORT, "
                "grpcs://HOST:PORT, hybrid:grpc://HOST:PORT"
            )
        if self.uplink not in (*FRAMES, *LATENTS):
            known = ", ".join((*FRAMES, *LATENTS))
            raise WrongUseError(f"unknown uplink {self.uplink!r}; known: {known}")
        if self.deadline_ms <= 0:
            raise WrongUseError(f"--deadline-ms {self.deadline_ms}: must be above 0")


class Mind(msgspec.Struct, frozen=True, kw_only=True):
    """What a loop is given: who encodes, who plans, and the goal in their latents."""

    stream: Streaming
    pilot: Piloting | None
    goal: FloatArray | None


@contextmanager
def open_mind(
    bundle: Bundle, far: Far, edge: Callable[[], Stream], goal_of: GoalOf, pilot_of: PilotOf
) -> Iterator[Mind]:
    """The mind that `far` asks for; its connections are dropped when the block ends.

    Args:
        bundle: whose senses the steps have, here and on the server.
        far: see `Far`.
        edge: opens the stream on board; not called when everything runs on the server.
        goal_of: the goal in the latents of a stream.
        pilot_of: the pilot on board towards a goal.

    Raises:
        LinkError: no server, and nothing on board to go on with.
        RefusedError: the server does not serve what is needed, or does not let us in.
    """
    if far.engine == LOCAL:
        stream = edge()
        goal = goal_of(stream)
        yield Mind(stream=stream, pilot=pilot_of(goal), goal=goal)
        return
    link = Link(
        LinkConfig(
            uri=far.engine.removeprefix(HYBRID),
            token_file=far.token_file,
            ca_file=far.ca_file,
            hedge_ms=far.hedge_ms,
        )
    )
    try:
        if far.uplink in LATENTS:
            yield _split(far, link, edge(), goal_of, pilot_of)
        elif far.engine.startswith(HYBRID):
            yield _hybrid(bundle, far, link, edge(), goal_of, pilot_of)
        else:
            yield _remote(bundle, far, link, goal_of)
    finally:
        link.close()


def _remote(bundle: Bundle, far: Far, link: Link, goal_of: GoalOf) -> Mind:
    goal = goal_of(_patient(bundle, far, link))
    stream = RemoteStream(bundle, link, _config(far), goal=goal)
    stream.connect()
    pilot = None if goal is None else RemotePilot(stream)
    return Mind(stream=stream, pilot=pilot, goal=goal)


def _hybrid(
    bundle: Bundle, far: Far, link: Link, edge: Stream, goal_of: GoalOf, pilot_of: PilotOf
) -> Mind:
    own = far_goal = goal_of(edge)
    cloud = RemoteStream(bundle, link, _config(far))
    try:
        if own is not None:
            far_goal = goal_of(_patient(bundle, far, link))
        cloud.aim(far_goal)
        cloud.connect()
    except RefusedError:
        raise
    except LinkError as error:
        stderr.print(f"{error}: going on alone; taken to serve this bundle when it comes back")
        cloud.aim(own)
    pilot = pilot_of(own)
    stream = HybridStream(edge, cloud, Breaker(far.breaker), pilot=pilot)
    return Mind(
        stream=stream,
        pilot=None if pilot is None else stream,
        goal=own if _is_same(own, far_goal) else None,
    )


def _split(far: Far, link: Link, edge: Stream, goal_of: GoalOf, pilot_of: PilotOf) -> Mind:
    """The board encodes, the server plans; a hybrid plans on board what comes too late."""
    goal = goal_of(edge)
    if goal is None or not edge.facts.history:
        raise WrongUseError(
            f"--uplink {far.uplink} sends latents to a server's planner: it needs --goal, and a "
            "model that plans (with a rollout graph)"
        )
    own = pilot_of(goal) if far.engine.startswith(HYBRID) else None
    breaker = Breaker(far.breaker) if own else None
    mind = SplitMind(edge, link, _config(far), goal, breaker=breaker, own=own)
    try:
        mind.connect()
    except RefusedError:
        raise
    except LinkError as error:
        if own is None:
            raise
        stderr.print(f"{error}: going on alone; taken to serve this bundle when it comes back")
    return Mind(stream=mind, pilot=mind, goal=goal)


def _patient(bundle: Bundle, far: Far, link: Link) -> RemoteStream:
    config = RemoteConfig(deadline_s=PATIENCE_S, uplink=far.uplink)
    return RemoteStream(bundle, link, config)


def _config(far: Far) -> RemoteConfig:
    return RemoteConfig(deadline_s=far.deadline_ms / 1e3, uplink=far.uplink)


def _is_same(ours: FloatArray | None, theirs: FloatArray | None) -> bool:
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return False
    return bool(np.linalg.norm(ours - theirs) < SAME * np.linalg.norm(ours))
