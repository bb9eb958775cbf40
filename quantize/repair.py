"""Short distillation with fake quantization: weights that round well, taught by the fp32 latents.

Where rounding alone misses its floor, a few hundred steps move the weights of the matrices to where
their rounded selves give the teacher's latents (quantization-aware training with a straight-through
estimator, arXiv:1308.3432; distillation of features, arXiv:1503.02531). The graph keeps its shape:
matrices are found in it by their content and replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from jepa_edge.bundle import EngineName
from jepa_edge.contract import InputError
from jepa_edge.media.clips import Clip
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.compile import quantized
from jepa_edge.quantize.recipe import Recipe
from jepa_edge.quantize.weights_onnx import block_rows

if TYPE_CHECKING:
    from jepa_edge.contract import FloatArray

RATE = 0.0025
"""Of a grid's step, that a weight moves at each step of Adam: faster, and too many change sides."""
BATCH = 4
TINY = 1e-12
SHARES = torch.linspace(0.6, 1.0, 9)
"""Of a block's largest weight, tried as the end of its grid before the first step."""
Progress = Callable[[str, int, int], None]
Matrices = dict[str, "FloatArray"]
"""Old and new weights `[out, in]` by layer."""


class _Rounded(nn.Module):
    """A weight `[out, in]` as it will be rounded; gradients pass straight through."""

    def __init__(self, lesson: Lesson) -> None:
        super().__init__()
        self.lesson = lesson

    def forward(self, weight: Tensor) -> Tensor:
        small = rounded(weight.detach(), self.lesson.recipe, self.lesson.engine)
        return weight + (small - weight).detach()


class _Grid(msgspec.Struct, frozen=True):
    """`blocks [out, B, shared]` of a weight, the `step [out, B, 1]` of each, and the ends."""

    blocks: Tensor
    step: Tensor
    first: int
    last: int


def _grid(weight: Tensor, recipe: Recipe, engine: EngineName) -> _Grid:
    """The grid that the quantizer of `engine` will choose for `weight [out, in]`.

    int8: one scale per output. int4: one per block of inputs; NNCF's grid ends at -8 on the side of
    the largest weight, ours in ONNX at 7 on both.
    """
    out, whole = weight.shape
    shared, last = whole, 63 if recipe.half_range else 127
    first = -last
    if recipe.weights == "int4":
        shared = block_rows(whole, recipe.group or whole)
        first, last = (-8, 7) if engine == "openvino" else (-7, 7)
    blocks = weight.view(out, -1, shared)
    peak = blocks.gather(2, blocks.abs().argmax(2, keepdim=True))
    step = peak / first if first != -last else peak.abs() / last
    return _Grid(blocks, torch.where(step.abs() < TINY, TINY, step), first, last)


def rounded(weight: Tensor, recipe: Recipe, engine: EngineName) -> Tensor:
    """`weight [out, in]` on the grid that the quantizer of `engine` will choose for it."""
    grid = _grid(weight, recipe, engine)
    small = torch.round(grid.blocks / grid.step).clamp(grid.first, grid.last) * grid.step
    return small.view_as(weight)


def tightened(weight: Tensor, recipe: Recipe, engine: EngineName) -> Tensor:
    """`weight` with the ends of each block cut where that rounds the whole block best."""
    blocks = _grid(weight, recipe, engine).blocks
    peak = blocks.abs().amax(2, keepdim=True)
    best, least = blocks, torch.full_like(peak, torch.inf)
    for share in SHARES:
        cut = blocks.clamp(-share * peak, share * peak)
        small = rounded(cut.view_as(weight), recipe, engine).view_as(blocks)
        error = (small - blocks).square().sum(2, keepdim=True)
        best, least = torch.where(error < least, cut, best), torch.minimum(error, least)
    return best.view_as(weight)


class Lesson(msgspec.Struct, frozen=True, kw_only=True):
    """What is rounded how, and for how long it is taught.

    Attributes:
        recipe: of small weights.
        engine: whose quantizer will round them.
        steps: of Adam.
    """

    recipe: Recipe
    engine: EngineName
    steps: int


def repaired(
    model: JEPA,
    lesson: Lesson,
    clips: Sequence[Clip],
    names: Sequence[str],
    progress: Progress = lambda *_: None,
) -> Matrices:
    """New weights of the layers `names`, already on their grid.

    Args:
        model: the teacher, left as it is.
        lesson: what to learn.
        clips: calibration clips, of at least one window.
        names: of the linear layers that may move.
        progress: gets (what, done, total).

    Raises `InputError` without clips.
    """
    if not clips:
        raise InputError("a repair needs calibration clips")
    teacher = copy.deepcopy(model).eval()
    student = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    optimizer = torch.optim.Adam(_moving(student, lesson, names))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, lesson.steps)
    random = np.random.default_rng(0)
    for step in range(lesson.steps):
        progress("distilling", step, lesson.steps)
        batch = _batch(model, clips, random)
        with torch.no_grad():
            wanted = _outputs(teacher, batch)
        loss = torch.stack([*map(unexplained, _outputs(student, batch), wanted)]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    layers = dict(student.named_modules())
    return {name: layers[name].weight.detach().numpy().copy() for name in names}


def _moving(student: JEPA, lesson: Lesson, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rounds the weights of `names` from now on; they, each with its rate, for an optimiser."""
    layers, moving = dict(student.named_modules()), []
    for name in names:
        layer = layers[name]
        assert isinstance(layer, nn.Linear)
        weight = layer.weight
        with torch.no_grad():
            weight.copy_(tightened(weight, lesson.recipe, lesson.engine))
        weight.requires_grad_(True)
        width = _grid(weight.detach(), lesson.recipe, lesson.engine).step.abs().mean()
        moving.append({"params": [weight], "lr": RATE * width.item()})
        parametrize.register_parametrization(layer, "weight", _Rounded(lesson))
    return moving


def repaired_graphs(
    model: JEPA,
    graphs: dict[str, Any],
    lesson: Lesson,
    clips: Sequence[Clip],
    progress: Progress,
) -> Matrices:
    """`repaired` for all layers that are rounded in one of `graphs`."""
    found = set()
    for name, graph in graphs.items():
        recipe = lesson.recipe.of_graph(name)
        found |= set(rounded_in(graph, model, recipe, lesson.engine))
    return repaired(model, lesson, clips, sorted(found), progress)


def rounded_in(graph: Any, model: JEPA, recipe: Recipe, engine: EngineName) -> list[str]:  # noqa: ANN401
    """The linear layers of `graph` that the quantizer of `engine` does not leave in floating point.

    It is asked: what is still there as it was after `recipe`, was left.
    """
    if recipe.weights == "float":
        return []
    weights_alone = msgspec.structs.replace(recipe, activations="float", floats="f32")
    left = matrices_in(quantized(engine, graph, weights_alone, []), model)
    return [name for name in matrices_in(graph, model) if name not in left]


def matrices_in(graph: Any, model: JEPA) -> list[str]:  # noqa: ANN401
    """The linear layers whose weights are constants of `graph`, and of no other layer."""
    there = {key for key, _ in _constants(graph)}
    keys: dict[bytes, list[str]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            keys.setdefault(_key(layer.weight.detach().numpy()), []).append(name)
    return [names[0] for key, names in keys.items() if key in there and len(names) == 1]


def with_matrices(graph: Any, model: JEPA, new: Matrices) -> Any:  # noqa: ANN401
    """A copy of `graph` (OpenVINO or ONNX, fp32) with `new` in place of the model's weights."""
    wanted = {
        _key(layer.weight.detach().numpy()): new[name]
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name in new
    }
    copied = copy.deepcopy(graph) if hasattr(graph, "graph") else graph.clone()
    for key, replace in list(_constants(copied)):
        if key in wanted:
            replace(wanted[key])
    return copied


def _constants(graph: Any) -> Any:  # noqa: ANN401
    """(content, replace) of each matrix; `replace` takes the new weight `[out, in]`."""
    if hasattr(graph, "graph"):
        from onnx import numpy_helper

        for init in graph.graph.initializer:
            if len(init.dims) == 2 and init.data_type == 1:
                array = numpy_helper.to_array(init)
                yield _key(array), _replace_initializer(init, array)
        return
    import openvino.opset13 as ops

    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 2:
            array = np.array(node.data)
            if array.dtype == np.float32:
                yield _key(array), _replace_constant(ops, node, array)


def _replace_initializer(init: Any, array: FloatArray) -> Callable[[FloatArray], None]:  # noqa: ANN401
    from onnx import numpy_helper

    def replace(new: FloatArray) -> None:
        init.CopyFrom(numpy_helper.from_array(_laid(new, array), init.name))

    return replace


def _replace_constant(ops: Any, node: Any, array: FloatArray) -> Callable[[FloatArray], None]:  # noqa: ANN401
    def replace(new: FloatArray) -> None:
        made = ops.constant(_laid(new, array))
        made.set_friendly_name(node.get_friendly_name())
        for port in node.output(0).get_target_inputs():
            port.replace_source_output(made.output(0))

    return replace


def _laid(new: FloatArray, old: FloatArray) -> FloatArray:
    """`new [out, in]` in the layout of `old`, which is the old weight or its transpose."""
    if new.shape != old.shape:
        return np.ascontiguousarray(new.T)
    if new.shape[0] != new.shape[1]:
        return new
    turned = np.abs(new.T - old).sum() < np.abs(new - old).sum()
    return np.ascontiguousarray(new.T) if turned else new


def _key(array: FloatArray) -> bytes:
    """The same for a matrix and its transpose; other matrices have another."""
    short, long = sorted(array.shape)
    values = np.sort(array.astype(np.float32).ravel())
    return f"{short}x{long}".encode() + values[:: max(1, values.size // 64)].tobytes()


def _batch(model: JEPA, clips: Sequence[Clip], random: np.random.Generator) -> list[Any]:
    """Video, audio, actions of `BATCH` windows."""
    window, senses = model.config.window, model.config.senses
    videos, audios = [], []
    for index in random.integers(0, len(clips), BATCH):
        clip = clips[int(index)]
        steps = clip.video.shape[1] // 2 if clip.video is not None else window
        start = int(random.integers(0, steps - window + 1))
        if clip.video is not None:
            videos.append(clip.video[:, 2 * start : 2 * (start + window)])
        if clip.audio is not None:
            mels = senses.mel_frames_per_step
            audios.append(clip.audio[..., mels * start : mels * (start + window)])
    action = model.config.action
    actions = None
    if action:
        shape = (BATCH, action.horizon, action.action_dim)
        actions = torch.from_numpy(random.uniform(-1, 1, shape).astype(np.float32))
    return [
        torch.from_numpy(np.stack(videos)) if videos else None,
        torch.from_numpy(np.stack(audios)) if audios else None,
        actions,
    ]


def _outputs(model: JEPA, batch: list[Any]) -> list[Tensor]:
    """All that a controller consumes, each from the model's own latents."""
    video, audio, actions = batch
    latents, pooled = model(video, audio)
    found = [latents, pooled]
    if model.predictor is not None:
        found += list(model.predict(latents))
    if actions is not None and model.action_predictor is not None:
        assert model.config.action
        found.append(model.rollout(pooled[:, -model.config.action.history :], actions))
    return found


def unexplained(ours: Tensor, wanted: Tensor) -> Tensor:
    """Squared error as a share of how much `wanted [..., D]` differs from token to token.

    Not of its size: what all tokens have in common tells a planner nothing, and it is most of a
    pooled latent.
    """
    spread = (wanted - wanted.flatten(0, -2).mean(0)).square().mean()
    return (ours - wanted).square().mean() / spread.clamp(min=1e-6)
