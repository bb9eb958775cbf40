"""One training step's losses: dense prediction, pooled prediction, actions, and SIGReg."""

from __future__ import annotations

import copy
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_edge.contract import WrongUseError
from jepa_edge.media.features import silence
from jepa_edge.model.jepa import JEPA
from jepa_edge.model.predictor import TransformerPredictor, normalized
from jepa_edge.train.clips import Batch
from jepa_edge.train.config import TrainConfig
from jepa_edge.train.masks import multiblock
from jepa_edge.train.objectives import ground_error, prediction_loss, sigreg


class Learner(nn.Module):
    """The model, its target encoder, and the loss between them."""

    def __init__(self, model: JEPA, config: TrainConfig, state_variables: int = 0) -> None:
        super().__init__()
        if model.predictor is None and not config.rollout_steps:
            raise WrongUseError(f"{model.config.name} has no predictor to train")
        masks = config.split != "future"
        if masks and not isinstance(model.predictor, TransformerPredictor):
            raise WrongUseError("multi-block masks need predictor kind 'transformer'")
        self.model, self.config, self.finished = model, config, False
        self.target = copy.deepcopy(model.encoder) if config.target == "ema" else None
        if self.target is not None:
            self.target.requires_grad_(requires_grad=False)
        self.inverse: nn.Module | None = None
        if config.inverse_weight and model.config.action is not None:
            width = model.config.pooled_dim
            self.inverse = nn.Sequential(
                nn.Linear(2 * width, width),
                nn.GELU(),
                nn.Linear(width, model.config.action.action_dim),
            )

        self.state: nn.Module | None = None
        if config.state_weight and state_variables:
            self.state = nn.Linear(model.config.pooled_dim, state_variables)

    def forward(
        self, batch: Batch, random: torch.Generator, *, alone: bool = False
    ) -> dict[str, Tensor]:
        """The weighted losses of one batch, by name; their sum is what to minimise.

        `alone`: the batch is of single steps, of which nothing is predicted.
        """
        batch = self.varied(batch, random)
        if alone:
            return self._single_losses(batch, random)
        turn = self.config.split == "both" and torch.rand((), generator=random) < 0.5
        if self.config.split == "multiblock" or turn:
            losses, pooled = self._masked_losses(batch, random)
        else:
            losses, pooled = self._future_losses(batch)
        if self.finished:
            return losses
        losses |= self._shape_losses(pooled, random)
        if self.inverse is not None and batch.actions is not None:
            loss = self._inverse_loss(pooled, batch.actions)
            losses["inverse"] = self.config.inverse_weight * loss
        return losses | self._state_losses(pooled, batch)

    def _single_losses(self, batch: Batch, random: torch.Generator) -> dict[str, Tensor]:
        _, pooled = self.model(batch.video, batch.audio)
        losses = self._shape_losses(pooled, random) | self._state_losses(pooled, batch)
        if batch.grounds is not None:
            own = pooled[..., : batch.grounds.shape[-1]]
            error = ground_error(own, batch.grounds, self.config)
            losses["grounded"] = self.config.ground_weight * error
        return losses

    def _shape_losses(self, pooled: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        if not self.config.sigreg_weight:
            return {}
        free = pooled[..., len(self.model.config.grounded) :]
        return {"sigreg": self.config.sigreg_weight * sigreg_at_each_step(free, random)}

    def _state_losses(self, pooled: Tensor, batch: Batch) -> dict[str, Tensor]:
        if self.state is None or batch.states is None:
            return {}
        error = known_error(self.state(pooled), batch.states[:, : pooled.shape[1]])
        return {"state": self.config.state_weight * error}

    def varied(self, batch: Batch, random: torch.Generator) -> Batch:
        """The clips in another light, some without one of their senses."""
        return self._drop_modalities(self._jittered(batch, random), random)

    def finish_encoder(self) -> None:
        """From now on the latents are what they are, and only what predicts them learns."""
        self.finished = True
        for part in (self.model.encoder, self.model.pool):
            part.requires_grad_(requires_grad=False)

    def trained(self) -> list[nn.Parameter]:
        """What the optimiser changes: the model and the helpers of its losses, not the target."""
        return [p for p in self.parameters() if p.requires_grad]

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Moves the EMA target towards the encoder."""
        if self.target is not None:
            pairs = zip(self.target.parameters(), self.model.encoder.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 1.0 - momentum)

    def _future_losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The first 80 % of time predicts the last 20 %; a causal encoder needs one pass for both.

        Its first 80 % cannot see the rest, so their latents are those of a clip cut there.
        """
        window = self.model.config.window
        causal = self.model.config.looks_back
        seen = batch if causal else _cut(batch, window, self.model)
        latents, pooled = self.model(seen.video, seen.audio)
        ahead = self.model.config.horizon
        future, future_pooled = self.model.predict(latents[:, :window])
        first = 0 if self.config.target_view == "future" else window
        target = self._target(batch, latents if causal else None)[:, first : first + ahead]
        losses = {"predict": prediction_loss(future, target, self.config.objective)}
        if self.config.pooled_weight and causal:
            wanted = pooled[:, window : window + ahead].detach()
            loss = functional.mse_loss(future_pooled, wanted)
            losses["pooled"] = self.config.pooled_weight * loss
        if batch.actions is not None and self.config.action_weight:
            losses |= self._action_losses(pooled, batch)
        return losses, pooled

    def _masked_losses(
        self, batch: Batch, random: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Tokens outside of the blocks predict those inside (V-JEPA)."""
        predictor = self.model.predictor
        assert isinstance(predictor, TransformerPredictor)
        some = batch.video if batch.video is not None else batch.audio
        assert some is not None
        steps = self.model.config.training_steps
        mask = multiblock(self.model.config, len(some), steps, random)
        seen, wanted = mask.seen.to(some.device), mask.wanted.to(some.device)
        context = self.model.encoder.masked(batch.video, batch.audio, seen)
        guess = predictor.masked(context, seen, wanted)
        latents, pooled = self.model(batch.video, batch.audio)
        target = self._target(batch, latents, whole=True).flatten(1, 2)
        target = torch.take_along_dim(target, wanted[..., None], dim=1)
        return {"predict": prediction_loss(guess, target, self.config.objective)}, pooled

    @torch.no_grad()
    def _target(self, batch: Batch, latents: Tensor | None, *, whole: bool = False) -> Tensor:
        """Layer-normed target latents `[B, S, N, D]`, of the clip or of its future alone."""
        alone = self.config.target_view == "future" and not whole
        if alone:
            batch = _future(batch, self.model)
        if self.target is not None:
            return normalized(self.target(batch.video, batch.audio))
        if latents is None or alone:
            latents = self.model.encoder(batch.video, batch.audio)
        return normalized(latents.detach())

    def _action_losses(self, pooled: Tensor, batch: Batch) -> dict[str, Tensor]:
        """From every start in the clip, the latents after 1..J of the actions really taken."""
        actions = batch.actions
        assert actions is not None
        action = self.model.action_predictor
        assert action is not None
        past, ahead = action.spec.history, action.spec.horizon
        starts = range(past, pooled.shape[1] - ahead + 1)
        history = torch.cat([pooled[:, s - past : s] for s in starts])
        taken = torch.cat([actions[:, s : s + ahead] for s in starts])
        wanted = torch.cat([pooled[:, s : s + ahead] for s in starts])
        rolled = action(history, taken)
        losses = {"action": self.config.action_weight * functional.mse_loss(rolled, wanted)}
        if batch.grounds is not None:
            count, weight = batch.grounds.shape[-1], self.config.ground_weight
            true = torch.cat([batch.grounds[:, s : s + ahead] for s in starts])
            values = batch.grounds[:, : pooled.shape[1]]
            losses["grounded"] = weight * ground_error(pooled[..., :count], values, self.config)
            losses["rolled"] = weight * ground_error(rolled[..., :count], true, self.config)
        return losses

    def _inverse_loss(self, pooled: Tensor, actions: Tensor) -> Tensor:
        """From the latents before and after 1..J actions, what these add up to.

        One step moves things by few pixels; several make where they are worth knowing.
        """
        assert self.inverse is not None
        assert self.model.config.action is not None
        steps = pooled.shape[1]
        done = torch.cat((torch.zeros_like(actions[:, :1]), actions[:, 1:steps].cumsum(1)), dim=1)
        around, taken = [], []
        for gap in range(1, self.model.config.action.horizon + 1):
            before, after = pooled[:, :-gap], pooled[:, gap:]
            around.append(torch.cat((before, after - before), dim=-1))
            taken.append(done[:, gap:] - done[:, :-gap])
        told = self.inverse(torch.cat(around, dim=1))
        return functional.mse_loss(told, torch.cat(taken, dim=1))

    def _jittered(self, batch: Batch, random: torch.Generator) -> Batch:
        """Each clip in another light: a gain and an offset for each colour, and its contrast."""
        far = self.config.colour_jitter
        if batch.video is None or not far:
            return batch
        shape = (len(batch.video), 3, 1, 1, 1)
        one, each, offset = (
            2 * torch.rand(s, generator=random) - 1
            for s in ((len(batch.video), 1, 1, 1, 1), shape, shape)
        )
        gain = ((1 + far * one) * (1 + 0.5 * far * each)).to(batch.video)
        video = batch.video * gain + (far * offset).to(batch.video)
        return msgspec.structs.replace(batch, video=video)

    def _drop_modalities(self, batch: Batch, random: torch.Generator) -> Batch:
        """Silences or blinds some clips: what a dead microphone or a covered camera gives."""
        chance, senses = self.config.modality_dropout, self.model.config.senses
        if batch.video is None or batch.audio is None or senses.audio is None or not chance:
            return batch
        draw = torch.rand(len(batch.video), generator=random).to(batch.video.device)
        quiet = float(silence(senses.audio, 1)[0, 0])
        deaf, blind = (draw < chance), (draw > 1 - chance)
        return Batch(
            video=torch.where(blind[:, None, None, None, None], 0.0, batch.video),
            audio=torch.where(deaf[:, None, None, None], quiet, batch.audio),
            actions=batch.actions,
            grounds=batch.grounds,
            states=batch.states,
        )


def autocast(device: str, *, wanted: bool) -> torch.autocast:
    """bf16 where it is `wanted` and the processor multiplies it; elsewhere fp32.

    A processor that has to emulate bf16 takes six times as long as with fp32.
    """
    return torch.autocast(device, torch.bfloat16, enabled=wanted and has_bf16(device))


def has_bf16(device: str) -> bool:
    """Whether the `device` multiplies bf16 itself."""
    flags = Path("/proc/cpuinfo")
    if device != "cpu" or not flags.is_file():
        return True
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.read_text().split())


def known_error(told: Tensor, states: Tensor) -> Tensor:
    """Mean Huber loss of `told [B, S, V]` where `states [B, S, V]` are known (not nan).

    A blow's force is a hundred times the usual one: squared, it alone would be learnt.
    """
    known = states.isfinite()
    return functional.smooth_l1_loss(told[known], states[known])


def sigreg_at_each_step(pooled: Tensor, random: torch.Generator) -> Tensor:
    """SIGReg of `pooled [B, S, P]` with the mean of each step of the clip taken out, and pinned.

    A causal encoder can tell how long it has been looking. Were the steps of a clip one sample,
    that clock alone would make it normal, be perfectly predictable, and say nothing of the world.
    """
    mean = pooled.float().mean(0, keepdim=True)
    clips = pooled.shape[0]
    apart = (pooled - mean) * (clips / max(1, clips - 1)) ** 0.5
    return sigreg(apart.flatten(0, 1), random) + clips * mean.square().mean()


def _cut(batch: Batch, steps: int, model: JEPA) -> Batch:
    """The first `steps` steps of every clip."""
    frames = steps * model.config.senses.mel_frames_per_step
    return Batch(
        video=None if batch.video is None else batch.video[:, :, : 2 * steps],
        audio=None if batch.audio is None else batch.audio[..., :frames],
        actions=batch.actions,
    )


def _future(batch: Batch, model: JEPA) -> Batch:
    """The steps of every clip that its window is to predict."""
    after, until = model.config.window, model.config.window + max(model.config.horizon, 1)
    mel = model.config.senses.mel_frames_per_step
    return Batch(
        video=None if batch.video is None else batch.video[:, :, 2 * after : 2 * until],
        audio=None if batch.audio is None else batch.audio[..., after * mel : until * mel],
        actions=batch.actions,
    )
