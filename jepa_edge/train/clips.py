"""Training clips, held in memory: decoded once, drawn at random, the same for the same step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jepa_edge.bundle import Grounded
from jepa_edge.contract import FRAMES_PER_STEP, InputError, Senses, WrongUseError
from jepa_edge.media.dataset import open_dataset
from jepa_edge.media.decode import read_recording
from jepa_edge.media.features import log_mel, silence

VIDEO_FILES = {".mp4", ".mkv", ".mov", ".webm", ".avi"}


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One recording: `frames [T, H, W, 3]` uint8, `mel [M, F]`, and, of a robot, what it did.

    `actions [S, A]` was held during each step, `state [S, D]` holds at each step's end.
    """

    name: str
    frames: npt.NDArray[np.uint8]
    mel: npt.NDArray[np.float32] | None
    actions: npt.NDArray[np.float32] | None = None
    state: npt.NDArray[np.float32] | None = None
    state_names: list[str] = []

    @property
    def steps(self) -> int:
        """Whole steps in the recording."""
        return len(self.frames) // FRAMES_PER_STEP

    def quantities(self, grounded: tuple[Grounded, ...]) -> npt.NDArray[np.float32]:
        """The named columns of the state, `[S, G]`. Raises `InputError` if any is not recorded."""
        missing = [g.name for g in grounded if g.name not in self.state_names]
        if missing or self.state is None:
            known = ", ".join(self.state_names) or "no state"
            raise InputError(f"{self.name} has no {', '.join(missing)} to ground; it has {known}")
        return self.state[:, [self.state_names.index(g.name) for g in grounded]]


def mirrored(recorded: Recorded, state: dict[str, str], actions: list[float]) -> Recorded:
    """The same, left and right changed over; its sound stays, as one microphone's has no sides.

    Args:
        recorded: with state and actions.
        state: of every variable that changes, whose value it takes; ``-`` before it turns the sign.
        actions: the sign of each.

    Raises `WrongUseError` for variables or actions that were not recorded.
    """
    if recorded.state is None or recorded.actions is None:
        raise WrongUseError(f"{recorded.name} has no state and actions to mirror")
    names, width = recorded.state_names, recorded.actions.shape[1]
    unknown = {name.lstrip("-") for pair in state.items() for name in pair} - set(names)
    if unknown or len(actions) != width:
        raise WrongUseError(
            f"{recorded.name} has {width} actions and the state {', '.join(names)}: mirror names "
            f"{sorted(unknown)}, mirror_actions {len(actions)} signs"
        )
    turned = recorded.state.copy()
    for name, source in state.items():
        taken = recorded.state[:, names.index(source.lstrip("-"))]
        turned[:, names.index(name)] = -taken if source.startswith("-") else taken
    return msgspec.structs.replace(
        recorded,
        name=f"{recorded.name} mirrored",
        frames=recorded.frames[:, :, ::-1],
        actions=recorded.actions * np.array(actions, np.float32),
        state=turned,
    )


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """`video [B, 3, 2*S, H, W]`, `audio [B, 1, M, S*t]`, `actions [B, S, A]` (None if unknown).

    `grounds [B, S, G]` are the values that the first pooled dimensions should have, `states
    [B, S, V]` those to be told from all of them: standard scores, nan where not recorded.
    """

    video: Tensor | None
    audio: Tensor | None
    actions: Tensor | None
    grounds: Tensor | None = None
    states: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(
            video=None if self.video is None else self.video.to(device),
            audio=None if self.audio is None else self.audio.to(device),
            actions=None if self.actions is None else self.actions.to(device),
            grounds=None if self.grounds is None else self.grounds.to(device),
            states=None if self.states is None else self.states.to(device),
        )


class StateVariable(msgspec.Struct, frozen=True, kw_only=True):
    """One variable of recorded state, and its mean and standard deviation in training."""

    name: str
    mean: float
    std: float


def state_variables(recordings: list[Recorded]) -> tuple[StateVariable, ...]:
    """Every variable that any of the recordings has, in order of appearance."""
    columns: dict[str, list[npt.NDArray[np.float32]]] = {}
    for recorded in recordings:
        if recorded.state is not None:
            for name, column in zip(recorded.state_names, recorded.state.T, strict=True):
                columns.setdefault(name, []).append(column)
    every = {name: np.concatenate(parts) for name, parts in columns.items()}
    return tuple(
        StateVariable(name=name, mean=float(v.mean()), std=max(float(v.std()), 1e-3))
        for name, v in every.items()
    )


class ClipStore(msgspec.Struct, frozen=True, kw_only=True):
    """Recordings to draw clips of `steps` steps from."""

    recordings: list[Recorded]
    senses: Senses
    steps: int
    action_dim: int
    grounded: tuple[Grounded, ...] = ()
    variables: tuple[StateVariable, ...] = ()

    def draw(self, batch: int, random: np.random.Generator, *, sensed: int = 0) -> Batch:
        """`batch` clips from recordings and starts drawn with `random`; `sensed` as `batch_of`."""
        picks = []
        for _ in range(batch):
            recorded = self.recordings[int(random.integers(len(self.recordings)))]
            picks.append((recorded, int(random.integers(recorded.steps - self.steps + 1))))
        return self.batch_of(picks, sensed=sensed)

    def grid(self, stride: int) -> list[tuple[Recorded, int]]:
        """Every clip, each `stride` steps, in order: for evaluation."""
        return [
            (recorded, start)
            for recorded in self.recordings
            for start in range(0, recorded.steps - self.steps + 1, stride)
        ]

    def batch_of(self, picks: list[tuple[Recorded, int]], *, sensed: int = 0) -> Batch:
        """The clips that begin at the given steps of the given recordings.

        With `sensed`, only so many of their steps are seen and heard; all else is of the whole.
        """
        senses, steps = self.senses, sensed or self.steps
        video = audio = actions = None
        if senses.video:
            first = [start * FRAMES_PER_STEP for _, start in picks]
            cut = [
                r.frames[f : f + steps * FRAMES_PER_STEP]
                for (r, _), f in zip(picks, first, strict=True)
            ]
            frames = torch.from_numpy(np.stack(cut)).permute(0, 4, 1, 2, 3).float() / 255.0
            mean = torch.tensor(senses.video.mean).view(1, 3, 1, 1, 1)
            video = (frames - mean) / torch.tensor(senses.video.std).view(1, 3, 1, 1, 1)
        if senses.audio:
            t = senses.mel_frames_per_step
            still = silence(senses.audio, steps * t)
            mels = [still if r.mel is None else r.mel[:, s * t : (s + steps) * t] for r, s in picks]
            audio = torch.from_numpy(np.stack(mels))[:, None]
        known = [r.actions[s : s + self.steps] for r, s in picks if r.actions is not None]
        if self.action_dim and len(known) == len(picks):
            actions = torch.from_numpy(np.stack(known))
        return Batch(
            video=video,
            audio=audio,
            actions=actions,
            grounds=self._grounds(picks),
            states=self._states(picks) if self.variables else None,
        )

    def _states(self, picks: list[tuple[Recorded, int]]) -> Tensor:
        told = np.full((len(picks), self.steps, len(self.variables)), np.nan, np.float32)
        for row, (recorded, start) in enumerate(picks):
            if recorded.state is None:
                continue
            cut = recorded.state[start : start + self.steps]
            for column, variable in enumerate(self.variables):
                if variable.name in recorded.state_names:
                    value = cut[:, recorded.state_names.index(variable.name)]
                    told[row, :, column] = (value - variable.mean) / variable.std
        return torch.from_numpy(told)

    def _grounds(self, picks: list[tuple[Recorded, int]]) -> Tensor | None:
        if not self.grounded:
            return None
        cut = [r.quantities(self.grounded)[s : s + self.steps] for r, s in picks]
        mean, std = (torch.tensor([getattr(g, n) for g in self.grounded]) for n in ("mean", "std"))
        return (torch.from_numpy(np.stack(cut)) - mean) / std


def read_recordings(
    uri: str, senses: Senses, *, steps: int, progress: Callable[[int, int], None]
) -> list[Recorded]:
    """Every recording at `uri`: recorded datasets, folders of videos, videos; commas between.

    Args:
        uri: where; several separated by commas.
        senses: the geometry to decode to.
        steps: recordings shorter than this are refused.
        progress: called with (done, total) per source.

    Raises:
        InputError: nothing there, or nothing long enough.
    """
    found: list[Recorded] = []
    for part in filter(None, uri.split(",")):
        path = Path(part)
        if (path / "meta" / "info.json").is_file():
            found += _from_dataset(path, senses, progress)
        else:
            found += _from_files(path, senses, progress)
    found = [recorded for recorded in found if recorded.steps >= steps]
    if not found:
        raise InputError(
            f"no training clips of {steps} steps ({steps * senses.step_s:.1f} s) at {uri!r}; give "
            "a dataset of `jepa-edge record`, a folder of videos, or a video"
        )
    return found


def _from_dataset(
    path: Path, senses: Senses, progress: Callable[[int, int], None]
) -> list[Recorded]:
    dataset = open_dataset(path)
    found = []
    for index in range(dataset.episodes):
        episode = dataset.read(index, senses)
        mel = log_mel(episode.samples, senses.audio) if senses.audio else None
        found.append(
            Recorded(
                name=f"{path.name}/{index}",
                frames=episode.frames,
                mel=mel,
                actions=episode.actions,
                state=episode.state,
                state_names=dataset.state_names,
            )
        )
        progress(index + 1, dataset.episodes)
    return found


def _from_files(path: Path, senses: Senses, progress: Callable[[int, int], None]) -> list[Recorded]:
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_FILES)
    found = []
    for done, file in enumerate(files, start=1):
        recording = read_recording(file, senses)
        mel = None
        if recording.samples is not None and senses.audio is not None:
            mel = log_mel(recording.samples, senses.audio)
        found.append(Recorded(name=file.name, frames=recording.frames, mel=mel))
        progress(done, len(files))
    return found
