"""What a built plan really runs: precisions layer by layer, and whether attention is one kernel."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import msgspec

from jepa_edge.contract import InputError

TYPES = {
    "half": "fp16",
    "float": "fp32",
    "int8": "int8",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "fp8": "fp8",
    "fp16": "fp16",
    "fp32": "fp32",
}
FUSED = re.compile(r"mha|fmha|attention|flash", re.IGNORECASE)
SOFTMAX = re.compile(r"soft_?max", re.IGNORECASE)
HEAVY = re.compile(r"gemm|matmul|matrix_?multiply|conv|mha|attention|linear", re.IGNORECASE)


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """Counts over a plan's layers.

    Attributes:
        layers: all of them.
        heavy: matrix products and attention by the type of what goes into them.
        attention_fused: layers that are whole attention kernels.
        attention_open: softmaxes that run alone: attention that was torn apart.
        reformats: layers that only copy or change layout.
    """

    layers: int
    heavy: dict[str, int]
    attention_fused: list[str]
    attention_open: list[str]
    reformats: int

    @property
    def warnings(self) -> list[str]:
        """What makes a plan slower than it should be."""
        found = []
        if self.attention_open:
            found.append(
                f"{len(self.attention_open)} attention blocks are not fused: "
                f"{', '.join(self.attention_open[:4])}"
            )
        if self.reformats > self.layers // 4:
            found.append(f"{self.reformats} of {self.layers} layers only reformat tensors")
        return found

    def missing(self, precision: str) -> list[str]:
        """What says that the plan does not run the precision it was built for."""
        wanted = {"int8w": "fp16", "int4w": "fp16", "mixed": "int8"}.get(precision, precision)
        if self.heavy and wanted not in self.heavy:
            ran = ", ".join(f"{count} {kind}" for kind, count in sorted(self.heavy.items()))
            return [f"no matrix product runs in {wanted}: {ran}"]
        return []


def audit_from(information: str) -> Audit:
    """The audit of an engine inspector's JSON (``LayerInformationFormat.JSON``, detailed).

    Raises `InputError` if it is not that.
    """
    try:
        layers = msgspec.json.decode(information)["Layers"]
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise InputError("the engine's layer information is no JSON with layers") from error
    heavy: Counter[str] = Counter()
    fused, alone, reformats = [], [], 0
    for layer in layers:
        name, kind = _named(layer)
        if kind.lower() in ("reformat", "noop") or "reformat" in name.lower():
            reformats += 1
        elif FUSED.search(f"{name} {kind}"):
            fused.append(name)
        elif SOFTMAX.search(f"{name} {kind}"):
            alone.append(name)
        if HEAVY.search(f"{name} {kind}"):
            heavy[_type_of(layer)] += 1
    return Audit(
        layers=len(layers),
        heavy=dict(heavy),
        attention_fused=fused,
        attention_open=alone,
        reformats=reformats,
    )


def _named(layer: Any) -> tuple[str, str]:  # noqa: ANN401
    """Name and kind; without detailed profiling a layer is its name alone."""
    if isinstance(layer, str):
        return layer, ""
    kernel = layer.get("TacticName", "")
    return str(layer.get("Name", "")), f"{layer.get('LayerType', '')} {kernel}".strip()


def _type_of(layer: Any) -> str:  # noqa: ANN401
    """The smallest type among a layer's inputs: a dequantized fp16 neighbour does not hide int8."""
    if isinstance(layer, str):
        return "unknown"
    order = ("int8", "fp8", "fp16", "bf16", "fp32")
    told = [str(port.get("Format/Datatype", "")) for port in layer.get("Inputs", [])]
    words = {word for text in told for word in re.split(r"[^a-z0-9]+", text.lower())}
    found = {TYPES[word] for word in words if word in TYPES}
    return next((kind for kind in order if kind in found), "unknown")
