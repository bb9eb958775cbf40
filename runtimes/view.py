"""A live view for people, in Rerun (https://rerun.io): what it sees, hears, thinks and decides.

Camera, spectrogram, latents and predicted latents in a plane (PCA) and, with a viewer, as pictures,
surprise, the action, every stage's time, and each hold with its reason.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from jepa_edge.contract import (
    FloatArray,
    JepaEdgeError,
    MissingExtraError,
    Senses,
    WrongUseError,
)
from jepa_edge.media.features import Frames, frames_from_video
from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.telemetry import stage_times
from jepa_edge.runtimes.viewer import CAVEAT, Viewer

WAITING = 4
"""Steps that may wait to be shown; a view that is slower misses some."""
HEARD_STEPS = 16
"""How much of the spectrogram is shown."""
SUFFIX = ".rrd"
LEVELS = {"ok": "INFO", "warming": "DEBUG", "seen": "TRACE", "hold": "ERROR"}
Shown = tuple[StepData, Tick, "FloatArray | None", "FloatArray | None"]


class View:
    """Shows steps from a thread of its own: it never blocks the loop, and never ends a run.

    `missed` counts the steps that it had no time for.

    Args:
        where: ``FILE.rrd`` to open later, a port to serve on (``rerun --connect`` reads it), or
            ``rerun+http://HOST:PORT/proxy``, a viewer that listens.
        senses: of the model.
        viewer: shows what latents hold, as pictures.

    Raises `WrongUseError` for a place that cannot be shown at.
    """

    def __init__(self, where: str, senses: Senses, viewer: Viewer | None = None) -> None:
        try:
            import rerun
        except ImportError as error:
            raise MissingExtraError("rerun-sdk", "view") from error
        self._rerun: Any = rerun
        self._senses, self.missed, self.trouble = senses, 0, ""
        self._viewer = viewer
        self._stream = rerun.RecordingStream("jepa_edge")
        self._connect(where)
        self._plane = Plane()
        self._heard: deque[FloatArray] = deque(maxlen=HEARD_STEPS)
        self._queue: queue.Queue[Shown | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)
        self._thread.start()

    def add(
        self, step: StepData, tick: Tick, pooled: FloatArray | None, future: FloatArray | None
    ) -> None:
        """Takes one step and what came of it."""
        try:
            self._queue.put_nowait((step, tick, pooled, future))
        except queue.Full:
            self.missed += 1

    def close(self) -> None:
        """Shows what waits, and lets go."""
        self._queue.put(None)
        self._thread.join()
        self._stream.disconnect()

    def _connect(self, where: str) -> None:
        layout = _layout(decoded=self._viewer is not None)
        try:
            if where.endswith(SUFFIX):
                Path(where).touch()
                self._stream.save(where, default_blueprint=layout)
            elif where.isdigit():
                self._stream.serve_grpc(
                    grpc_port=int(where), default_blueprint=layout, server_memory_limit="128MB"
                )
            elif where.startswith("rerun+http"):
                self._stream.connect_grpc(where, default_blueprint=layout)
            else:
                raise WrongUseError(
                    f"--view {where}: give FILE.rrd, a port, or rerun+http://HOST:PORT/proxy"
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise WrongUseError(f"--view {where}: {error}") from error

    def _run(self) -> None:
        while (shown := self._queue.get()) is not None:
            self._try(*shown)

    def _try(
        self, step: StepData, tick: Tick, pooled: FloatArray | None, future: FloatArray | None
    ) -> None:
        self._stream.set_time("step", sequence=tick.step)
        self._stream.set_time("captured", duration=tick.captured_ns / 1e9)
        try:
            self._show_senses(step)
            self._show_tick(tick)
            if pooled is not None and np.isfinite(pooled).all():
                self._show_latents(pooled, future)
                self._show_decoded(pooled, future)
        except (RuntimeError, ValueError, OSError, JepaEdgeError) as error:
            self.missed, self.trouble = self.missed + 1, str(error)

    def _show_senses(self, step: StepData) -> None:
        rr, log = self._rerun, self._stream.log
        if step.video is not None and self._senses.video:
            log(
                "camera",
                rr.Image(frames_from_video(step.video[0], self._senses.video)[-1]).compress(),
            )
        if step.audio is not None:
            self._heard.append(step.audio[0, 0])
            log("sound", rr.Image(picture(np.concatenate(self._heard, axis=1))))

    def _show_tick(self, tick: Tick) -> None:
        rr, log = self._rerun, self._stream.log
        log("state", rr.TextLog(f"{tick.state} {tick.reason}".strip(), level=LEVELS[tick.state]))
        numbers = {f"times/{name}": ms for name, ms in stage_times(tick, 0.0).items()}
        numbers |= {f"action/{place}": value for place, value in enumerate(tick.action or [])}
        told = (("surprise", tick.surprise), ("goal_distance", tick.goal_distance))
        numbers |= {f"numbers/{name}": value for name, value in told if value is not None}
        for path, value in numbers.items():
            log(path, rr.Scalars(value))

    def _show_latents(self, pooled: FloatArray, future: FloatArray | None) -> None:
        rr, log = self._rerun, self._stream.log
        been = self._plane.add(pooled)
        log("latents/been", rr.LineStrips2D([been], colors=[(120, 120, 120)]))
        log("latents/now", rr.Points2D([been[-1]], radii=[0.05], colors=[(30, 110, 220)]))
        if future is not None:
            ahead = np.concatenate((been[-1:], self._plane.of(future)))
            log("latents/predicted", rr.LineStrips2D([ahead], colors=[(220, 90, 30)]))

    def _show_decoded(self, pooled: FloatArray, future: FloatArray | None) -> None:
        if self._viewer is None:
            return
        rr, log = self._rerun, self._stream.log
        log("decoded/now", rr.Image(self._viewer.pictures(pooled[None])[0]))
        if future is None:
            log("decoded/predicted", rr.Clear(recursive=False))  # an old one is none of now
        else:
            log("decoded/predicted", rr.Image(strip(self._viewer.pictures(future))))


class Plane:
    """The two directions in which the latents of late differ most (PCA)."""

    KEPT, AGAIN = 256, 16

    def __init__(self) -> None:
        self._kept: deque[FloatArray] = deque(maxlen=self.KEPT)
        self._axes: FloatArray | None = None
        self._count = 0

    def add(self, pooled: FloatArray) -> FloatArray:
        """Where the latents of late lie `[n, 2]`, `pooled [P]` the last of them."""
        self._kept.append(pooled)
        if self._count % self.AGAIN == 0 or self._axes is None:
            self._turn()
        self._count += 1
        return self.of(np.stack(self._kept))

    def of(self, latents: FloatArray) -> FloatArray:
        """Where `latents [n, P]` lie `[n, 2]`."""
        assert self._axes is not None
        placed: FloatArray = (latents @ self._axes.T).astype(np.float32)
        return placed

    def _turn(self) -> None:
        """New directions, each on the side of the old one, so that the picture does not flip."""
        kept = np.stack(self._kept)
        new: FloatArray = np.eye(2, kept.shape[1], dtype=np.float32)
        if len(kept) > 1:
            new = np.linalg.svd(kept - kept.mean(0), full_matrices=False)[2][:2].astype(np.float32)
        if self._axes is not None:
            sides = np.sign((new * self._axes).sum(axis=1, keepdims=True))
            new = np.where(sides < 0, -new, new)
        self._axes = new


def picture(mel: FloatArray) -> Frames:
    """Log-mel bands `[M, t]` as grey `[M, t]`, low pitch at the bottom, 3 deviations white."""
    grey: Frames = ((np.nan_to_num(mel[::-1]) + 3) * (255 / 6)).clip(0, 255).astype(np.uint8)
    return grey


def strip(pictures: Frames) -> Frames:
    """`pictures [n, H, W, 3]` beside each other, `[H, n * (W + 2) - 2, 3]`, with white between."""
    bordered = np.pad(pictures, ((0, 0), (0, 0), (0, 2), (0, 0)), constant_values=255)
    joined: Frames = np.concatenate(list(bordered), axis=1)[:, :-2]
    return joined


def _layout(*, decoded: bool) -> Any:  # noqa: ANN401
    import rerun.blueprint as rrb

    def picture_of(path: str, name: str) -> Any:  # noqa: ANN401
        return rrb.Spatial2DView(origin=f"/{path}", name=name)

    def times(name: str) -> Any:  # noqa: ANN401
        return rrb.TimeSeriesView(origin=f"/{name}", name=name)

    looks = {"now": "now", "predicted": "predicted, step by step"} if decoded else {}
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Vertical(
                picture_of("camera", "camera"),
                *(picture_of(f"decoded/{n}", f"{told}, {CAVEAT}") for n, told in looks.items()),
                picture_of("sound", "sound"),
                rrb.TextLogView(origin="/state", name="state"),
            ),
            rrb.Vertical(
                picture_of("latents", "latents, and where they are predicted"),
                times("numbers"),
                times("action"),
                times("times"),
            ),
        ),
        collapse_panels=True,
    )
