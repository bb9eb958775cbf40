"""The report's typed content; `bench.json` is exactly this."""

from __future__ import annotations

import msgspec

from jepa_edge.bundle import OutputParity

SCHEMA = "1.0"


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of `count` single calls."""

    count: int
    min_ms: float
    p25_ms: float
    median_ms: float
    p75_ms: float
    p90_ms: float
    p99_ms: float

    @property
    def iqr_ms(self) -> float:
        """Width of the middle half."""
        return self.p75_ms - self.p25_ms


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How close one output is to that of `reference`, token by token, over all clips."""

    parity: OutputParity
    cosine_histogram: list[int]
    """Tokens per bin of 1 - cosine; the borders are `compare.HISTOGRAM_EDGES`."""


class VariantFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One precision of one bundle, measured."""

    label: str
    bundle: str
    target: str
    engine: str
    precision: str
    precision_used: str
    """What the engine says it computes in; `precision` is what was asked."""
    file_mib: float
    peak_rss_mib: float | None
    """Peak memory of a fresh process that loads and runs this variant alone."""
    timing: dict[str, Timing]
    reference: str | None
    """Label of the variant that `agreement` compares with; None when there is no fp32."""
    agreement: dict[str, Agreement] = {}


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """R² on held-out episodes of ridge regressions from latents to the robot's state.

    ``pooled`` latents are what a controller gets, ``dense`` ones all tokens of the step.
    """

    label: str
    dataset: str
    train_episodes: int
    test_episodes: int
    r2_pooled: dict[str, float]
    r2_dense: dict[str, float]
    r2_dense_silence: dict[str, float] | None
    """With digital silence in place of the sound; None for a model without ears."""


class Surprise(msgspec.Struct, frozen=True, kw_only=True):
    """How well surprise tells a cut to another episode from what really came next."""

    label: str
    dataset: str
    cuts: int
    auroc: float
    auroc_low: float = 0.0
    auroc_high: float = 1.0
    """Its 95 % interval (Hanley and McNeil 1982)."""
    auroc_copy_last: float
    """The same when the prediction is just the last pooled latent: the baseline to beat."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A share, and where it lies with 95 % confidence."""

    share: float
    low: float
    high: float


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    """How one precision chooses among candidate actions, against fp32."""

    label: str
    count: int
    same_action: Interval
    """Decisions in which the candidate of least energy is fp32's."""
    clear_count: int = 0
    """Decisions that fp32 itself would not change if its latents were rounded to bf16."""
    same_clear_action: Interval = Interval(share=0.0, low=0.0, high=1.0)
    """The same, of those."""
    spearman_mean: float
    spearman_p5: float
    regret_mean: float
    """What the choices cost by fp32's energies, as a share of their range."""
    regret_p95: float = 0.0


class HorizonError(msgspec.Struct, frozen=True, kw_only=True):
    """Relative L2 of a rollout against fp32's, `steps` ahead, with its 95 % interval over clips."""

    steps: int
    relative_l2: float
    low: float
    high: float


class Fidelity(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one precision sees and foresees as fp32 does, on held-out clips."""

    label: str
    clips: int
    same_neighbour: Interval
    """Clips whose nearest other clip, by their last pooled latent, is the one fp32 finds."""
    horizons: list[HorizonError]


class Foresight(msgspec.Struct, frozen=True, kw_only=True):
    """A clip's pooled latents over time in their first two principal components, `[n][2]`."""

    clip: str
    actual: list[list[float]]
    predicted: list[list[float]]


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where the numbers were measured."""

    system: str
    cpu: str
    cores: int
    memory_gib: float
    load_1min: float
    load_1min_end: float
    threads: int
    versions: dict[str, str]


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything one `jepa-edge bench` measured."""

    schema: str = SCHEMA
    measured: str
    """``on this machine``, never a guess about a board that was not here."""
    machine: Machine
    rounds: int
    clips: list[str]
    variants: list[VariantFacts]
    probes: list[Probe] = []
    surprises: list[Surprise] = []
    decisions: list[Decisions] = []
    fidelity: list[Fidelity] = []
    foresight: Foresight | None = None
    notes: list[str] = []
