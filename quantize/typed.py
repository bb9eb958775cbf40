"""An fp32 ONNX graph → one whose every tensor is typed fp16 or bf16, with fp32 islands.

TensorRT 11 is strongly typed only, and 10.3 can be: the types of the graph are the types that run.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from jepa_edge.contract import CheckFailedError
from jepa_edge.quantize.recipe import Island

Half = Literal["f16", "bf16"]
KINDS: dict[Half, int] = {"f16": int(TensorProto.FLOAT16), "bf16": int(TensorProto.BFLOAT16)}
FLOAT = int(TensorProto.FLOAT)

ISLAND_OPERATORS: dict[str, Island] = {"LayerNormalization": "norm", "Softmax": "softmax"}
STAYS_FLOAT = {("Resize", 1), ("Resize", 2)}
"""Inputs that ONNX types as fp32 whatever the tensor: (operator, place)."""


def typed_graph(
    graph: onnx.ModelProto, half: Half, islands: tuple[Island, ...] = ()
) -> onnx.ModelProto:
    """`graph` (fp32, left as it is) with its floats in `half`, and casts around the fp32 `islands`.

    fp16 graphs take and give fp16; bf16 ones fp32, as numpy has no bf16. Q/DQ scales follow their
    tensor (legal from opset 19).

    Args:
        graph: fp32, perhaps with int8 Q/DQ; fixed shapes.
        half: the type of all that is no island.
        islands: what is computed in fp32: LayerNorms, softmaxes, the sums of the residual stream.

    Raises `CheckFailedError` for a constant that fp16 cannot hold.
    """
    return _Typing(graph, half, islands).done()


def emulated_bf16(graph: onnx.ModelProto, islands: tuple[Island, ...] = ()) -> onnx.ModelProto:
    """The bf16 graph's numbers on an engine without bf16 kernels: fp32, rounded to bf16 each time.

    What a real bf16 kernel computes differs only by the order of its sums.
    """
    typed = typed_graph(graph, "bf16", islands)
    body = onnx.GraphProto()
    body.CopyFrom(typed.graph)
    del body.node[:], body.initializer[:], body.value_info[:]
    rounded = {init.name for init in typed.graph.initializer if init.data_type == KINDS["bf16"]}
    body.initializer.extend(_as_float(init) for init in typed.graph.initializer)
    kinds = _kinds(typed) | dict.fromkeys(rounded, KINDS["bf16"])
    for node in typed.graph.node:
        halves = [name for name in node.output if kinds.get(name) == KINDS["bf16"]]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "Cast":
            _set_attribute(copy, "to", FLOAT if node.attribute[0].i == KINDS["bf16"] else None)
        for place, name in enumerate(copy.output):
            if name in halves:
                copy.output[place] = f"{name}/exact"
        body.node.append(copy)
        for name in halves:
            small = f"{name}/bf16"
            body.node.append(helper.make_node("Cast", [f"{name}/exact"], [small], to=KINDS["bf16"]))
            body.node.append(helper.make_node("Cast", [small], [name], to=FLOAT))
    model = helper.make_model(
        body, opset_imports=list(typed.opset_import), ir_version=typed.ir_version
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Typing:
    """The conversion: which type each tensor has now, and the casts made so far."""

    def __init__(self, graph: onnx.ModelProto, half: Half, islands: tuple[Island, ...]) -> None:
        self.half, self.islands, self.kind = half, islands, KINDS[half]
        self.border = self.kind if half == "f16" else FLOAT
        self.source = shape_inference.infer_shapes(graph, data_prop=True)
        self.was = _kinds(self.source)
        self.weights = {init.name: init for init in self.source.graph.initializer}
        self.is_now: dict[str, int] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, onnx.TensorProto] = {}
        self.cast: dict[tuple[str, int], str] = {}

    def done(self) -> onnx.ModelProto:
        body = self.source.graph
        for port in body.input:
            if self.was[port.name] == FLOAT:
                port.type.tensor_type.elem_type = self.border
                self.is_now[port.name] = self.border
        for node in body.node:
            self._convert(node)
        for port in body.output:
            if self.was[port.name] == FLOAT:
                self._give(port)
        del body.node[:], body.initializer[:], body.value_info[:]
        body.node.extend(self.nodes)
        body.initializer.extend(self.made.values())
        model = helper.make_model(
            body, opset_imports=list(self.source.opset_import), ir_version=self.source.ir_version
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _convert(self, node: onnx.NodeProto) -> None:
        is_island = self._island(node) in self.islands or not self._takes_half(node)
        kind = FLOAT if is_island else self.kind
        if node.op_type == "Cast" and node.attribute[0].i == FLOAT:
            _set_attribute(node, "to", kind)
        if node.op_type in ("Constant", "ConstantOfShape"):
            self._constant(node, kind)
        else:
            for place, name in enumerate(node.input):
                if name:
                    wanted = FLOAT if (node.op_type, place) in STAYS_FLOAT else kind
                    node.input[place] = self._as(name, wanted)
        for name in node.output:
            if self.was.get(name) == FLOAT:
                self.is_now[name] = kind
        self.nodes.append(node)

    def _island(self, node: onnx.NodeProto) -> str:
        if node.op_type in ISLAND_OPERATORS:
            return ISLAND_OPERATORS[node.op_type]
        streams = [name for name in node.input if name not in self.weights]
        return "residual" if node.op_type == "Add" and len(streams) > 1 else ""

    def _takes_half(self, node: onnx.NodeProto) -> bool:
        """Whether ONNX types the operator for `half` (Conv has no bf16 before opset 22)."""
        opset = next(entry.version for entry in self.source.opset_import if not entry.domain)
        schema = onnx.defs.get_schema(node.op_type, opset)
        letters = {
            entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints
        }
        named = f"tensor({'float16' if self.half == 'f16' else 'bfloat16'})"
        return all(
            named in letters.get(port.type_str, [named])
            for port, name in zip([*schema.inputs, *schema.outputs], node.input, strict=False)
            if self.was.get(name) == FLOAT
        )

    def _constant(self, node: onnx.NodeProto, kind: int) -> None:
        for attribute in node.attribute:
            if attribute.t.data_type == FLOAT and attribute.name == "value":
                attribute.t.CopyFrom(self._rounded(attribute.t, kind))

    def _as(self, name: str, kind: int) -> str:
        """The name under which tensor `name` is there as `kind`."""
        if name in self.weights:
            return self._weight(name, kind)
        now = self.is_now.get(name)
        if now is None or now == kind:
            return name
        if (name, kind) not in self.cast:
            self.cast[name, kind] = f"{name}/as_{_letters(kind)}"
            self.nodes.append(
                helper.make_node(
                    "Cast", [name], [self.cast[name, kind]], to=kind, name=self.cast[name, kind]
                )
            )
        return self.cast[name, kind]

    def _weight(self, name: str, kind: int) -> str:
        weight = self.weights[name]
        if weight.data_type != FLOAT:
            self.made[name] = weight
            return name
        typed = f"{name}/f32" if kind == FLOAT else name
        if typed not in self.made:
            self.made[typed] = self._rounded(weight, kind)
            self.made[typed].name = typed
        return typed

    def _rounded(self, weight: onnx.TensorProto, kind: int) -> onnx.TensorProto:
        if kind == FLOAT:
            return weight
        array = numpy_helper.to_array(weight)
        if self.half == "f16":
            largest = float(np.abs(array).max(initial=0.0))
            if np.isfinite(largest) and largest > float(np.finfo(np.float16).max):
                raise CheckFailedError(
                    f"constant {weight.name} reaches {largest:.3g}, more than fp16 can hold "
                    "(65504); use bf16"
                )
        array = array.astype(helper.tensor_dtype_to_np_dtype(kind))
        return numpy_helper.from_array(array, weight.name)

    def _give(self, port: onnx.ValueInfoProto) -> None:
        """An output of the border's type under its own name."""
        name, now = port.name, self.is_now[port.name]
        port.type.tensor_type.elem_type = self.border
        if now == self.border:
            return
        inner = f"{name}/inner"
        for node in self.nodes:
            node.output[:] = [inner if out == name else out for out in node.output]
            node.input[:] = [inner if given == name else given for given in node.input]
        self.nodes.append(helper.make_node("Cast", [inner], [name], to=self.border))


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Element types by tensor."""
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    ports = [*inferred.input, *inferred.output, *inferred.value_info]
    kinds = {port.name: port.type.tensor_type.elem_type for port in ports}
    return kinds | {init.name: init.data_type for init in inferred.initializer}


def _as_float(weight: onnx.TensorProto) -> onnx.TensorProto:
    if weight.data_type != KINDS["bf16"]:
        return weight
    array = numpy_helper.to_array(weight).astype(np.float32)
    return numpy_helper.from_array(array, weight.name)


def _set_attribute(node: onnx.NodeProto, name: str, value: int | None) -> None:
    if value is None:
        return
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.i = value


def _letters(kind: int) -> str:
    return {FLOAT: "f32", KINDS["f16"]: "f16", KINDS["bf16"]: "bf16"}[kind]
