"""Named clips, as the model takes them, from files, folders, recorded datasets or the package."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.contract import FRAMES_PER_STEP, FloatArray, InputError, Senses
from jepa_edge.media.dataset import is_dataset, open_dataset
from jepa_edge.media.decode import Recording, read_recording
from jepa_edge.media.features import log_mel, silence, video_from_frames

BUILTIN = "builtin:"
VIDEO_FILES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
SETS = ("calibration", "heldout", "clips")


class Clip(msgspec.Struct, frozen=True, kw_only=True):
    """One clip: `video [3, T, H, W]`, `audio [1, M, T_audio]`; of a robot also what it did.

    `actions [S, A]` was held during each step, `state [S, D]` holds at each step's end.
    """

    name: str
    video: FloatArray | None
    audio: FloatArray | None
    actions: FloatArray | None = None
    state: FloatArray | None = None

    @property
    def sha256(self) -> str:
        """Hash of the tensors: what was really seen and heard."""
        digest = hashlib.sha256()
        for array in (self.video, self.audio, self.actions):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """A recording, with what a robot did while it was made."""

    recording: Recording
    actions: FloatArray | None = None
    state: FloatArray | None = None


def clips_from(
    uri: str,
    senses: Senses,
    *,
    steps: int,
    stride: int | None = None,
    limit: int | None = None,
    mirror: bool = False,
) -> list[Clip]:
    """Clips of `steps` steps, one each `stride` (default: end to end), at most `limit`.

    Args:
        uri: a media file, a folder of them, a recorded dataset, ``builtin:calibration``,
            ``builtin:heldout`` or ``builtin:clips``; commas between several.
        senses: the geometry to decode to.
        steps: length of a clip.
        stride: steps from one clip's start to the next.
        limit: how many clips at the most, spread evenly over what is there.
        mirror: whether what is shorter than a clip is played back and forth until it is one
            (pictures alone: models that need clips of many seconds do not hear).

    Raises:
        InputError: nothing there, unreadable, or nothing long enough.
    """
    found = [
        _cut(source, senses, start, steps)
        for source in map(_mirrored(steps, mirror=mirror), _sources(uri, senses))
        for start in range(0, _steps(source, senses) - steps + 1, stride or steps)
    ]
    if not found:
        raise InputError(
            f"{uri!r} holds no clip of {steps} steps ({steps * senses.step_s:.1f} s); give a "
            f"longer media file, a folder, a recorded dataset, or one of: "
            + ", ".join(BUILTIN + name for name in SETS)
        )
    if limit is None or limit >= len(found):
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, limit).round().astype(int)]


def recordings_from(uri: str, senses: Senses) -> list[Recording]:
    """The whole recordings at `uri`; see `clips_from`."""
    return [source.recording for source in _sources(uri, senses)]


def _mirrored(steps: int, *, mirror: bool) -> Callable[[_Source], _Source]:
    def longer(source: _Source) -> _Source:
        frames = source.recording.frames
        wanted = steps * FRAMES_PER_STEP
        if not mirror or len(frames) >= wanted or len(frames) < FRAMES_PER_STEP:
            return source
        there_and_back = np.concatenate((np.arange(len(frames)), np.arange(len(frames))[-2:0:-1]))
        shown = np.resize(there_and_back, wanted)
        name = f"{source.recording.name}, back and forth"
        recording = msgspec.structs.replace(
            source.recording, name=name, frames=frames[shown], samples=None
        )
        return _Source(recording=recording)

    return longer


def _steps(source: _Source, senses: Senses) -> int:
    if senses.video:
        return len(source.recording.frames) // FRAMES_PER_STEP
    samples = source.recording.samples
    return 0 if samples is None else len(samples) // senses.samples_per_step


def _sources(uri: str, senses: Senses) -> Iterator[_Source]:
    for part in filter(None, uri.split(",")):
        if part.startswith(BUILTIN):
            yield from _builtin(part.removeprefix(BUILTIN), senses)
        elif is_dataset(Path(part)):
            yield from _episodes(Path(part), senses)
        else:
            for file in _files(Path(part)):
                yield _Source(recording=read_recording(file, senses))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_FILES)
    if not files:
        raise InputError(f"folder {path} holds no media files ({', '.join(VIDEO_FILES)})")
    return files


def _episodes(path: Path, senses: Senses) -> Iterator[_Source]:
    dataset = open_dataset(path)
    for index in range(dataset.episodes):
        episode = dataset.read(index, senses)
        recording = Recording(
            name=f"{path.name}/{index}", frames=episode.frames, samples=episode.samples
        )
        yield _Source(recording=recording, actions=episode.actions, state=episode.state)


def _builtin(name: str, senses: Senses) -> Iterator[_Source]:
    """The members of a shipped set, written as ``file@start_s+duration_s`` in ``sets.toml``."""
    folder = resources.files("jepa_edge") / "assets" / "clips"
    sets = msgspec.toml.decode((folder / "sets.toml").read_bytes(), type=dict[str, list[str]])
    sets["clips"] = sorted({member for members in sets.values() for member in members})
    if name not in sets:
        known = ", ".join(BUILTIN + known for known in sets)
        raise InputError(f"unknown clips {BUILTIN}{name}; known: {known}")
    for member in sets[name]:
        file, _, part = member.partition("@")
        start_s, _, duration_s = part.partition("+")
        with ExitStack() as stack:
            path = stack.enter_context(resources.as_file(folder / file))
            recording = read_recording(
                path,
                senses,
                start_s=float(start_s or 0),
                duration_s=float(duration_s) if duration_s else None,
            )
        yield _Source(recording=msgspec.structs.replace(recording, name=member))


def _cut(source: _Source, senses: Senses, start: int, steps: int) -> Clip:
    recording, end = source.recording, start + steps
    video = audio = None
    if senses.video:
        frames = recording.frames[start * FRAMES_PER_STEP : end * FRAMES_PER_STEP]
        video = video_from_frames(frames, senses.video)
    if senses.audio:
        audio = _audio(recording.samples, senses, start, steps)
    return Clip(
        name=f"{recording.name}#{start * senses.step_s:.1f}s",
        video=video,
        audio=audio,
        actions=None if source.actions is None else source.actions[start:end],
        state=None if source.state is None else source.state[start:end],
    )


def _audio(samples: FloatArray | None, senses: Senses, start: int, steps: int) -> FloatArray:
    assert senses.audio
    if samples is None:
        return silence(senses.audio, steps * senses.mel_frames_per_step)[None]
    per_step, before = senses.samples_per_step, senses.audio.window - senses.audio.hop
    first = start * per_step
    previous = np.concatenate((np.zeros(before, np.float32), samples[:first]))[-before:]
    return log_mel(samples[first : first + steps * per_step], senses.audio, previous)[None]
