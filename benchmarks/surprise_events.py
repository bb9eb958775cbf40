"""Does surprise notice: one step of real recordings replaced by another recording's, by sense.

python benchmarks/surprise_events.py dist/nano-x86-cpu.jepa [PRECISION]

At each place the stream runs over the same window twice: once as recorded, once with the next
step's sound, picture or both taken from another clip. AUROC: the chance that an event scores above
a natural step (0.5 is blind). `copy_last` scores the distance to the last latent instead of the
predicted one: what needs no predictor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bench.facts import Machine
from jepa_edge.bench.machine import load, machine
from jepa_edge.bench.surprise import auroc, relative_error
from jepa_edge.bundle import open_bundle
from jepa_edge.contract import FRAMES_PER_STEP
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream

RESULT = Path(__file__).parent / "results" / "streaming" / "surprise-events.json"
PLACES_APART = 5
EVENTS = ("sound", "picture", "both")
CLIPS = ("builtin:calibration", "builtin:heldout")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of event."""

    event: str
    auroc: float
    auroc_copy_last: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The committed file."""

    model: str
    precision: str
    clips: list[str]
    places: int
    rows: list[Row]
    machine: Machine


class Scores:
    """Surprise by event; "" is the natural step."""

    def __init__(self) -> None:
        self.predicted: dict[str, list[float]] = {name: [] for name in ("", *EVENTS)}
        self.copied: dict[str, list[float]] = {name: [] for name in ("", *EVENTS)}


def measure(folder: Path, precision: str) -> Result:
    """Places of every clip, `PLACES_APART` steps apart."""
    bundle = open_bundle(folder)
    senses, window = bundle.manifest.senses, bundle.manifest.model.window
    clips = [clip for uri in CLIPS for clip in clips_from(uri, senses, steps=3 * window)]
    stream, scores = Stream(bundle, precision, threads=2), Scores()
    places = 0
    for number, clip in enumerate(clips):
        other = clips[(number + len(clips) // 2) % len(clips)]
        for place in range(window, 3 * window, PLACES_APART):
            places += 1
            for event in ("", *EVENTS):
                _score(stream, clip, other, place, event, scores)
    natural, still = np.array(scores.predicted[""]), np.array(scores.copied[""])
    return Result(
        model=bundle.manifest.name,
        precision=precision,
        clips=[clip.name for clip in clips],
        places=places,
        rows=[
            Row(
                event=event,
                auroc=round(auroc(np.array(scores.predicted[event]), natural), 4),
                auroc_copy_last=round(auroc(np.array(scores.copied[event]), still), 4),
            )
            for event in EVENTS
        ],
        machine=machine(2, load()),
    )


def _score(stream: Stream, clip: Clip, other: Clip, place: int, event: str, scores: Scores) -> None:
    stream.reset()
    window, encoded = stream.facts.window, None
    for index in range(place - window, place):
        encoded = stream.encode(_step(clip, clip, index))
    future = stream.predict()
    seen = other if event in ("picture", "both") else clip
    heard = other if event in ("sound", "both") else clip
    came = stream.encode(_step(seen, heard, place))
    assert encoded is not None
    assert came is not None
    assert future is not None
    scores.predicted[event].append(relative_error(future[0], came[1]))
    scores.copied[event].append(relative_error(encoded[1], came[1]))


def _step(seen: Clip, heard: Clip, index: int) -> StepData:
    video = audio = None
    if seen.video is not None:
        at = index * FRAMES_PER_STEP
        video = np.ascontiguousarray(seen.video[None, :, at : at + FRAMES_PER_STEP])
    if heard.audio is not None and seen.video is not None:
        frames = heard.audio.shape[-1] * FRAMES_PER_STEP // seen.video.shape[1]
        audio = np.ascontiguousarray(heard.audio[None, ..., index * frames :][..., :frames])
    return StepData(index=index, captured_ns=0, video=video, audio=audio)


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "fp32")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
