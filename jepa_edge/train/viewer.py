"""A small decoder from latents to pictures, for people to look at: no model needs it to act.

It decodes pooled latents and not dense ones: a controller goes by them and by nothing else, and
every model's predictions have them (`future_pooled`, `rollout`), pilots' too. Dense latents would
make sharper pictures, of more than the controller knows.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from jepa_edge.contract import FRAMES_PER_STEP, FloatArray, InputError, VideoSpec, WrongUseError
from jepa_edge.media.features import Frames, fit_frame
from jepa_edge.model.checkpoint import AnyModel
from jepa_edge.model.graph_source import run_source
from jepa_edge.model.graphs import graphs_of
from jepa_edge.train.clips import ClipStore, Recorded, read_recordings

COARSE, CHANNELS, HIDDEN = 8, (64, 32, 16, 3), 256
"""A picture begins so many times smaller, and has these channels as it grows."""
HELD_OUT_EVERY, DECODED_AT_ONCE = 10, 256
Progress = Callable[[str, int, int], None]


class ViewerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to train: `height` is the pictures', in pixels; their width follows the camera's.

    At 48 pixels, `steps` of `batch` latents are less than a minute of one core.
    """

    data: str
    height: int = 48
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for values that nothing can be trained with."""
        if self.height < COARSE or self.height % COARSE:
            raise WrongUseError(f"pictures are a multiple of {COARSE} high, not {self.height}")
        if self.steps < 1:
            raise WrongUseError(f"steps must be at least 1, not {self.steps}")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Pooled `latents [n, P]`, and the last frame of each one's step, `pictures [n, h, w, 3]`."""

    latents: FloatArray
    pictures: Frames


class TrainedViewer(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder, and how well it does on what it was `heldout`.

    ``error`` is its mean squared error there, where the mean picture of training has 1.
    """

    decoder: Decoder
    error: float
    heldout: Seen


class Decoder(nn.Module):
    """Pooled latents `[n, P]` → pictures `[n, h, w, 3]`, where 0 is black and 1 is white.

    It begins as the mean picture, and learns what latents change about it.
    """

    def __init__(self, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.coarse = size[0] // COARSE, size[1] // COARSE
        self.centre, self.scale = nn.Buffer(torch.zeros(width)), nn.Buffer(torch.ones(width))
        self.mean = nn.Buffer(torch.zeros(3, *size))
        self.spread = nn.Sequential(
            nn.Linear(width, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, CHANNELS[0] * self.coarse[0] * self.coarse[1]),
        )
        layers: list[nn.Module] = []
        for before, after in pairwise(CHANNELS):
            layers += [nn.GELU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.grow = nn.Sequential(*layers)
        for parameter in layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, pooled: Tensor) -> Tensor:
        """The pictures; they may lie a little outside of 0 to 1."""
        spread = self.spread((pooled - self.centre) / self.scale)
        grown = self.grow(spread.unflatten(1, (CHANNELS[0], *self.coarse)))
        pictures: Tensor = (grown + self.mean).permute(0, 2, 3, 1)
        return pictures

    @torch.no_grad()
    def pictures(self, latents: FloatArray) -> Frames:
        """What `latents [n, P]` show: pictures `[n, h, w, 3]`, uint8 RGB."""
        parts = torch.split(torch.from_numpy(latents), DECODED_AT_ONCE)
        decoded = torch.cat([self(part).clamp(0, 1) for part in parts])
        pictures: Frames = (decoded * 255).round().to(torch.uint8).numpy()
        return pictures

    def fit_statistics(self, seen: Seen) -> None:
        """Takes the mean picture and the latents' scale from `seen`."""
        latents = torch.from_numpy(seen.latents)
        self.centre.copy_(latents.mean(0))
        self.scale.copy_(latents.std(0).clamp(min=1e-3))
        self.mean.copy_(torch.from_numpy(seen.pictures.mean(0) / 255).permute(2, 0, 1))


def train_viewer(model: AnyModel, config: ViewerConfig, progress: Progress) -> TrainedViewer:
    """A decoder of the latents of `model`, which stays as it is.

    Args:
        model: see `load_checkpoint`.
        config: what to train on, and for how long.
        progress: gets (what, done, total).

    Raises:
        WrongUseError: the model sees nothing.
        InputError: nothing to train on, or too little.
    """
    senses, window = model.config.senses, model.facts().window
    if senses.video is None:
        raise WrongUseError(f"{model.facts().name} hears only: there are no pictures to decode")
    recordings = read_recordings(
        config.data,
        senses,
        steps=window,
        progress=lambda done, total: progress("reading clips", done, total),
    )
    size = _size(senses.video, config.height)
    seen = []
    for done, recorded in enumerate(recordings, start=1):
        seen.append(_seen(model, recorded, size))
        progress("encoding", done, len(recordings))
    kept, heldout = _split(seen)
    torch.manual_seed(config.seed)
    decoder = Decoder(kept.latents.shape[1], (size.height, size.width))
    decoder.fit_statistics(kept)
    _train(decoder, kept, config, progress)
    decoder.eval().requires_grad_(requires_grad=False)
    return TrainedViewer(decoder=decoder, error=_error(decoder, kept, heldout), heldout=heldout)


def _size(video: VideoSpec, height: int) -> VideoSpec:
    """The pictures', as near to the camera's aspect as they can be."""
    width = max(1, round(height / COARSE * video.width / video.height)) * COARSE
    return VideoSpec(height=height, width=width)


def _seen(model: AnyModel, recorded: Recorded, size: VideoSpec) -> Seen:
    """The steps of a recording, in clips of one window that follow each other.

    In a bidirectional model's clip each step knows the others, where a run shows the last alone.
    """
    window, encoder = model.facts().window, graphs_of(model)[0]
    clips = ClipStore(recordings=[recorded], senses=model.config.senses, steps=window, action_dim=0)
    latents, pictures = [], []
    for picked in clips.grid(window):
        batch = clips.batch_of([picked])
        given = {"video": batch.video, "audio": batch.audio}
        out = run_source(encoder, {n: x.numpy() for n, x in given.items() if x is not None})
        latents.append(out["pooled"][0])
        last = (picked[1] + np.arange(window)) * FRAMES_PER_STEP + FRAMES_PER_STEP - 1
        pictures += [fit_frame(frame, size) for frame in recorded.frames[last]]
    return Seen(latents=np.concatenate(latents), pictures=np.stack(pictures))


def _split(seen: list[Seen]) -> tuple[Seen, Seen]:
    """What is trained on, and what is held out: every tenth recording, or the end of the only one.

    Raises `InputError` when the only one is too short.
    """
    if len(seen) == 1:
        (only,) = seen
        cut = len(only.latents) * 4 // 5
        if cut < 2:
            raise InputError(f"{len(only.latents)} steps are too few to train on; record more")
        return (
            Seen(latents=only.latents[:cut], pictures=only.pictures[:cut]),
            Seen(latents=only.latents[cut:], pictures=only.pictures[cut:]),
        )
    held = {*range(HELD_OUT_EVERY - 1, len(seen), HELD_OUT_EVERY)} or {len(seen) - 1}
    return (
        _joined([one for index, one in enumerate(seen) if index not in held]),
        _joined([seen[index] for index in sorted(held)]),
    )


def _joined(seen: list[Seen]) -> Seen:
    return Seen(
        latents=np.concatenate([one.latents for one in seen]),
        pictures=np.concatenate([one.pictures for one in seen]),
    )


def _train(decoder: Decoder, seen: Seen, config: ViewerConfig, progress: Progress) -> None:
    """Least squares, by AdamW and one cosine."""
    latents, random = torch.from_numpy(seen.latents), np.random.default_rng(config.seed)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=config.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps + 1
    )
    for step in range(1, config.steps + 1):
        rows = random.integers(len(latents), size=config.batch)
        wanted = torch.from_numpy(seen.pictures[rows]).float() / 255
        loss = nn.functional.mse_loss(decoder(latents[rows]), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress("training", step, config.steps)


def _error(decoder: Decoder, kept: Seen, heldout: Seen) -> float:
    """Mean squared error on `heldout`, where the mean picture of `kept` has 1."""
    wanted = heldout.pictures.astype(np.float32)
    decoded = np.square(decoder.pictures(heldout.latents) - wanted).mean()
    mean = np.square(kept.pictures.mean(0) - wanted).mean()
    return float(decoded / max(mean, 1e-9))
