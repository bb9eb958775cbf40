"""Many simulated robots on one server: throughput, tail latency, and answers mixed up (none)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray, Senses
from jepa_edge.media.features import video_from_frames
from jepa_edge.runtimes.remote.link import Link, LinkConfig
from jepa_edge.runtimes.remote.stream import RemoteConfig, RemoteStream
from jepa_edge.runtimes.remote.wire import LinkError, steps_from_tensors, tensors_from_steps
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream

SAME = 0.1
"""Relative distance below which an answer is the one that was expected.

In int8, several robots at once are rounded otherwise than one alone (0.012 at the most was seen);
the latent of another robot is 0.9 or more away.
"""


class LoadFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What `robots` got in `seconds`; latency is from when a step was due to its answer."""

    robots: int
    seconds: float
    answers: int
    errors: int
    wrong: int
    """Answers that are not what this robot's own steps lead to."""
    farthest: float
    """The largest relative distance of an answer from that."""
    per_second: float
    latency_ms_p50: float
    latency_ms_p99: float
    in_time: float
    """Share of steps that were answered before the next one was due."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one robot; `pooled` is None when there was no answer."""

    index: int
    latency_ms: float
    pooled: FloatArray | None
    taken_over: bool
    """Whether a server answered that did not know the robot before."""


class Robot(threading.Thread):
    """Sends its own steps when they are due, each once the one before is answered or given up."""

    def __init__(self, bundle: Bundle, uri: str, number: int, count: int, period_s: float) -> None:
        super().__init__(daemon=True)
        self.steps = steps_for(bundle.manifest.senses, number, count)
        self.samples: list[Sample] = []
        self._link = Link(LinkConfig(uri=uri))
        self._stream = RemoteStream(bundle, self._link, RemoteConfig(deadline_s=2.0))
        self._period_s, self._phase_s = period_s, period_s * (number * 0.618 % 1)
        self.start_s = 0.0

    def run(self) -> None:
        """See `threading.Thread.run`."""
        before = (-1, 0)
        for index, step in enumerate(self.steps):
            due = self.start_s + self._phase_s + index * self._period_s
            time.sleep(max(0.0, due - time.monotonic()))
            pooled, taken_over = None, False
            try:
                encoded = self._stream.encode(step)
                pooled = None if encoded is None else encoded[1]
                now = (index, self._stream.seen)
                taken_over = now[1] - before[1] != now[0] - before[0]
                before = now
            except LinkError:
                self._link.renew()
            self.samples.append(
                Sample(
                    index=index,
                    latency_ms=(time.monotonic() - due) * 1e3,
                    pooled=pooled,
                    taken_over=taken_over,
                )
            )
        self._link.close()


def load(
    bundle: Bundle,
    uri: str,
    robots: int,
    *,
    steps: int,
    period_s: float,
    meanwhile: Callable[[], Any] = lambda: None,
) -> tuple[LoadFacts, list[Robot]]:
    """Lets `robots` send `steps` each; `meanwhile` is called once when they are under way."""
    fleet = [Robot(bundle, uri, number, steps, period_s) for number in range(robots)]
    began = time.monotonic() + 0.2
    for robot in fleet:
        robot.start_s = began
        robot.start()
    meanwhile()
    for robot in fleet:
        robot.join()
    seconds = time.monotonic() - began
    samples = [sample for robot in fleet for sample in robot.samples]
    right = [latent for robot in fleet for latent in expected_latents(bundle, robot)]
    pairs = zip(samples, right, strict=True)
    answered = [(s.pooled, latent) for s, latent in pairs if s.pooled is not None]
    distances = [_distance(ours, latent) for ours, latent in answered]
    late = np.array([s.latency_ms for s in samples if s.pooled is not None])
    return LoadFacts(
        robots=robots,
        seconds=round(seconds, 2),
        answers=len(answered),
        errors=len(samples) - len(answered),
        wrong=sum(not distance < SAME for distance in distances),
        farthest=round(max(distances), 5),
        per_second=round(len(answered) / seconds, 2),
        latency_ms_p50=round(float(np.percentile(late, 50)), 2),
        latency_ms_p99=round(float(np.percentile(late, 99)), 2),
        in_time=round(float(np.mean(late <= period_s * 1e3)), 4),
    ), fleet


def steps_for(senses: Senses, number: int, count: int) -> list[StepData]:
    """What robot `number` sees and hears: a scene of its own that moves, and its own noise."""
    random = np.random.default_rng((number, 5))
    found = []
    blocks = random.integers(0, 255, (4, 8, 3), np.uint8)
    for index in range(count):
        video = audio = None
        if spec := senses.video:
            tile = (spec.height // 4 + 1, spec.width // 8 + 1, 1)
            scene = np.roll(np.kron(blocks, np.ones(tile, np.uint8)), 3 * index, axis=1)
            frame = np.ascontiguousarray(scene[: spec.height, : spec.width])
            video = video_from_frames(np.stack([frame, frame]), spec)[None]
        if heard := senses.audio:
            shape = (1, 1, heard.mel_bins, senses.mel_frames_per_step)
            audio = random.standard_normal(shape).astype(np.float32)
        found.append(StepData(index=index, captured_ns=0, video=video, audio=audio))
    return found


def expected_latents(bundle: Bundle, robot: Robot) -> list[FloatArray]:
    """For each step the right latent `[P]`, of the steps as their JPEG files show them.

    Where a new server took over, it had the last window only, and went on from there.
    """
    senses, window = bundle.manifest.senses, bundle.manifest.model.window
    seen = [
        steps_from_tensors(tensors_from_steps([step], senses, "jpeg"), senses, step.index)[0]
        for step in robot.steps
    ]
    stream, found = Stream(bundle, None, threads=1), []
    for index, sample in enumerate(robot.samples):
        if sample.taken_over:
            stream.reset()
            for past in seen[max(0, index + 1 - window) : index]:
                stream.encode(past)
        encoded = stream.encode(seen[index])
        assert encoded is not None, "only causal models give a latent for each step"
        found.append(encoded[1])
    return found


def _distance(ours: FloatArray, theirs: FloatArray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
