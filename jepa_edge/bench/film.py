"""A film of one episode: what the camera saw, and the predicted latents beside the actual ones.

With a viewer, also the predicted latents as pictures: what was expected of the step that is seen.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from jepa_edge.bench.pilots import LatentPilot
from jepa_edge.contract import FloatArray, InputError
from jepa_edge.runtimes.viewer import CAVEAT, Viewer
from jepa_edge.worlds.world import Observation, World

Picture = npt.NDArray[np.uint8]
CAMERA_PX, PANEL_PX, DECODED_PX, SHOWN = 240, 240, 192, 24
TRACE_STEPS = 60


class Filmed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the film is, and how the flight ended."""

    file: str
    pilot: str
    success: bool
    steps: int
    collisions: int
    latent_error: float
    """Of the latents predicted a step ahead, relative to what came; 1 would be predicting none."""


def film(
    world: World,
    pilot: LatentPilot,
    *,
    seed: int,
    steps: int,
    out: Path,
    viewer: Viewer | None = None,
) -> Filmed:
    """Flies one episode and writes it to `out`: a GIF, or a video by its ending.

    With a `viewer`, it shows beside the camera what the plan of the step before expected to see.

    Raises `InputError` when the goal of the scene cannot be shown.
    """
    goal = world.demonstrate(seed, steps)
    if goal is None:
        raise InputError(f"nothing arrives in the scene of seed {seed}; choose another")
    observed, info = world.reset(seed=seed)
    pilot.begin(world, seed, goal)
    pictures, predicted = [], None
    pairs: list[tuple[FloatArray, FloatArray]] = []
    done, finished = 0, False
    while done < steps and not finished:
        done += 1
        action = pilot.act(observed)
        actual = pilot.latent
        if actual is not None and predicted is not None:
            pairs.append((predicted, actual))
        pictures += _pictures(observed, goal[-1], pairs, _expected(viewer, predicted))
        plan = pilot.plan
        predicted = None if plan is None or plan.latents is None else plan.latents[0]
        observed, _, finished, _, info = world.step(action)
    pictures += _pictures(observed, goal[-1], pairs, _expected(viewer, predicted))
    write(pictures, out, fps=10)
    return Filmed(
        file=str(out),
        pilot=pilot.label,
        success=bool(info["success"]),
        steps=done,
        collisions=int(info["collisions"]),
        latent_error=_error(pairs),
    )


def write(pictures: list[Picture], out: Path, *, fps: int) -> None:
    """Writes `pictures [H, W, 3]` as a film, whole or not at all."""
    import av

    gif = out.suffix == ".gif"
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".part-{out.name}")
    kept = pictures[::2] if gif else pictures
    with av.open(str(part), "w") as file:
        stream = file.add_stream("gif" if gif else "libx264", rate=fps // 2 if gif else fps)
        stream.height, stream.width = kept[0].shape[:2]
        stream.pix_fmt = "rgb8" if gif else "yuv420p"
        for picture in kept:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    part.replace(out)


def _pictures(
    observed: Observation,
    goal: Observation,
    pairs: list[tuple[FloatArray, FloatArray]],
    expected: list[Picture],
) -> list[Picture]:
    """Every frame of a step, beside what was `expected` of it."""
    return [
        np.concatenate((*expected, _picture(frame, goal["frames"][-1], pairs)), axis=1)
        for frame in observed["frames"]
    ]


def _expected(viewer: Viewer | None, predicted: FloatArray | None) -> list[Picture]:
    """A panel of what `predicted [P]` shows, empty where there was no plan; none with no viewer."""
    if viewer is None:
        return []
    import cv2

    panel = np.full((CAMERA_PX, DECODED_PX + 8, 3), 245, np.uint8)
    if predicted is not None:
        decoded, size = viewer.pictures(predicted[None])[0], (DECODED_PX, DECODED_PX)
        panel[18 : 18 + DECODED_PX, :-8] = cv2.resize(decoded, size)
    for text, low in zip(("expected", *CAVEAT.split(": ")), (13, 222, 235), strict=True):
        cv2.putText(panel, text, (0, low), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (20, 20, 20), 1)
    return [panel]


def _picture(frame: Picture, goal: Picture, pairs: list[tuple[FloatArray, FloatArray]]) -> Picture:
    """The camera with the goal in its corner; beside it latents predicted, actual, and the error.

    One row a step, one column a dimension; blue is low, red is high.
    """
    import cv2

    eye = cv2.resize(frame, (CAMERA_PX, CAMERA_PX), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(goal, (56, 56), interpolation=cv2.INTER_AREA)
    eye[4:60, -60:-4] = small
    cv2.rectangle(eye, (CAMERA_PX - 61, 3), (CAMERA_PX - 4, 60), (255, 255, 255), 1)
    panel = np.full((PANEL_PX, 2 * PANEL_PX + 8, 3), 245, np.uint8)
    for column, (name, rows) in enumerate(
        (("predicted", [p for p, _ in pairs]), ("actual", [a for _, a in pairs]))
    ):
        left = column * (PANEL_PX + 8)
        panel[18:, left : left + PANEL_PX] = _heat(rows, PANEL_PX - 18, PANEL_PX)
        cv2.putText(panel, name, (left + 4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (20, 20, 20), 1)
    gap = np.full((CAMERA_PX, 8, 3), 245, np.uint8)
    return np.asarray(np.concatenate((eye, gap, panel), axis=1), np.uint8)


def _heat(rows: list[FloatArray], height: int, width: int) -> Picture:
    import cv2

    picture = np.full((TRACE_STEPS, SHOWN, 3), 230, np.uint8)
    if rows:
        values = np.stack(rows[-TRACE_STEPS:])[:, :SHOWN]
        level = np.clip(values / 2.5, -1, 1)[..., None]
        white = np.full(3, 250.0)
        warm = white + np.maximum(level, 0) * (np.array((200.0, 30, 30)) - white)
        cold = np.maximum(-level, 0) * (np.array((30.0, 60, 200)) - white)
        picture[: len(values), : values.shape[1]] = np.clip(warm + cold, 0, 255)
    return np.asarray(
        cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8
    )


def _error(pairs: list[tuple[FloatArray, FloatArray]]) -> float:
    if not pairs:
        return float("nan")
    predicted, actual = (np.stack(side) for side in zip(*pairs, strict=True))
    spread = float(np.square(actual - actual.mean(0)).sum()) or 1.0
    return round(float(np.square(predicted - actual).sum()) / spread, 4)
