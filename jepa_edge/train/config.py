"""One typed structure per training run; a recipe is the same in TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from jepa_edge.contract import InputError, WrongUseError

Objective = Literal["l1", "l2", "smooth_l1", "cosine", "infonce"]


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a run depends on, with its default.

    Attributes:
        name: of the model (default: the preset's).
        hears: whether the model has ears; without, it learns what sound is worth by comparison.
        split: ``future`` predicts the last 20 % of a clip's time from the first 80 %;
            ``multiblock`` predicts V-JEPA's space-time blocks; ``both`` takes turns.
        target: ``ema`` follows the encoder slowly (V-JEPA); ``shared`` is the encoder itself with
            stop-gradient, and needs SIGReg against collapse (LeJEPA, arXiv:2511.08544).
        target_view: what the target encoder sees in a future split: the ``future`` steps alone, or
            the whole ``clip``, so that targets carry their history as streamed latents do.
        inverse_weight: of telling the action from the pooled latents around it, which keeps what
            the robot does in them (PLDM, arXiv:2502.14819).
        state_weight: of telling every recorded state variable from the pooled latents by one linear
            layer, which only training has: what no loss on latents alone asks for (how far to the
            left a drone drifts) stays in them. Recordings without a variable do not count for it.
        single_steps: the first of `steps` that see single steps of clips, `single_batch` at a time:
            a clip of ten steps shows one scene, ten steps of ten clips show ten, and an encoder
            learns from them where things are several times as fast (see `pilot`).
        predictor_steps: the last of `steps`, in which the finished encoder stays as it is and the
            predictors alone learn, from latents that no longer move.
        ground: names of recorded state that the first pooled dimensions are trained to be: what a
            planner can measure in metres. Only training needs to know them.
        goal: those of `ground` that make a place the goal.
        at_least: those of `ground` that a planner keeps above a value.
        ground_weight: of being them, seen and rolled out.
        ground_shares: how much some of `ground` count beside the others, which count 1.
        ground_beta: errors beyond so many standard deviations count linearly, not squared (Huber),
            so that what is out of sight does not blur what is seen; 0 squares them all.
        effort: what the trained model's planner weighs actions with (`PlannerConfig`).
        caution: what it weighs lacking clearances with.
        rollout_steps: of a last stage, which learns what actions change from latents of the
            finished encoder; the first then takes single steps (see `pilot`). 0: one stage.
        joint_steps: of a stage between those two, in which both learn (see `pilot`).
        latent_weight: there, of the next step's whole latent being what was predicted.
        colour_jitter: how far each clip's colours are scaled and shifted, so that light and shade
            tell nothing of where things are.
        mirror: recordings are seen mirrored, too: which state then takes which one's value, with
            ``-`` before it where its sign turns (``{ left_m_s = "-left_m_s" }``).
        mirror_actions: the sign of each action in a mirrored recording; none: no mirror.
        unmirrored: folders of data whose sound tells left from right, and is not seen mirrored.
        score_limit: largest attention score a head may reach (QK-clip); 0 leaves them free.
        modality_dropout: chance that a clip loses its sound, and as often its sight.
        bf16: mixed precision, where the processor multiplies bf16.
    """

    preset: str = "nano"
    name: str = ""
    data: str = ""
    out: str = "runs/nano"
    steps: int = 2000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.04
    clip_norm: float = 1.0
    hears: bool = True
    objective: Objective = "smooth_l1"
    split: Literal["future", "multiblock", "both"] = "future"
    target: Literal["ema", "shared"] = "ema"
    target_view: Literal["future", "clip"] = "future"
    ema: float = 0.996
    sigreg_weight: float = 0.05
    pooled_weight: float = 1.0
    action_weight: float = 1.0
    inverse_weight: float = 0.0
    state_weight: float = 0.0
    single_steps: int = 0
    single_batch: int = 64
    predictor_steps: int = 0
    ground: list[str] = []
    goal: list[str] = []
    at_least: dict[str, float] = {}
    ground_weight: float = 1.0
    ground_shares: dict[str, float] = {}
    ground_beta: float = 0.0
    effort: float = 0.002
    caution: float = 1.0
    rollout_steps: int = 0
    joint_steps: int = 0
    latent_weight: float = 0.0
    colour_jitter: float = 0.0
    mirror: dict[str, str] = {}
    mirror_actions: list[float] = []
    unmirrored: list[str] = []
    score_limit: float = 0.0
    modality_dropout: float = 0.15
    bf16: bool = True
    seed: int = 0
    heldout: float = 0.1
    evaluate_every: int = 250
    save_every: int = 250
    collapse_rank: float = 2.0

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for values no run can use."""
        if self.target == "shared" and self.sigreg_weight <= 0:
            raise WrongUseError("target='shared' collapses without SIGReg: set sigreg_weight > 0")
        for name in ("steps", "batch", "single_batch", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise WrongUseError(f"{name} must be at least 1, not {getattr(self, name)}")
        if unknown := {*self.goal, *self.at_least, *self.ground_shares} - set(self.ground):
            raise WrongUseError(
                f"goal, at_least or ground_shares name {sorted(unknown)}, which ground does not"
            )
        if self.single_steps + self.predictor_steps > self.steps:
            raise WrongUseError(
                f"single_steps {self.single_steps} and predictor_steps {self.predictor_steps} are "
                f"parts of steps, which is {self.steps}"
            )
        if self.single_steps and self.state_weight <= 0 and not self.ground:
            raise WrongUseError("single steps learn recorded state: set state_weight, or ground")
        if not 0 < self.heldout < 1:
            raise WrongUseError(f"heldout is a share of the episodes, not {self.heldout}")

    def stage(self, step: int) -> tuple[int, int]:
        """First and last (excluded) step of the stage that `step` is in."""
        bounds = (0, self.single_steps, self.steps - self.predictor_steps, self.steps)
        later = next((i for i in (1, 2, 3) if step < bounds[i]), 3)
        return bounds[later - 1], bounds[later]

    def encoder_is_finished(self, step: int) -> bool:
        """Whether the predictors alone learn at `step`."""
        return bool(self.predictor_steps) and step >= self.steps - self.predictor_steps


def config_from_toml(path: Path) -> TrainConfig:
    """The configuration in a TOML file. Raises `InputError` for unknown keys or wrong types."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=TrainConfig)
    except FileNotFoundError as error:
        raise InputError(f"no recipe at {path}") from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{path}: {error}") from error


def config_from_flags(
    recipe: Path | None, flags: dict[str, str | int | float | None]
) -> TrainConfig:
    """The recipe (or the defaults), with every flag that was given in its place.

    Raises `WrongUseError` for a value that the field does not take.
    """
    base = config_from_toml(recipe) if recipe else TrainConfig()
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return msgspec.convert(msgspec.to_builtins(base) | given, TrainConfig)
    except msgspec.ValidationError as error:
        raise WrongUseError(str(error)) from error
