"""The activations a `transformers` configuration may name, from their published formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from jepa_edge.contract import InputError

Function = Callable[[Tensor], Tensor]


def _tanh_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _clipped_gelu(x: Tensor) -> Tensor:
    return torch.clip(functional.gelu(x), -10.0, 10.0)


def _squared_relu(x: Tensor) -> Tensor:
    return functional.relu(x).square()


def _accurate_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _laplace(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


ACTIVATIONS: dict[str, Function] = {
    "gelu": functional.gelu,
    "gelu_python": functional.gelu,
    "gelu_10": _clipped_gelu,
    "gelu_accurate": _accurate_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_python_tanh": _tanh_gelu,
    "hardswish": functional.hardswish,
    "laplace": _laplace,
    "leaky_relu": functional.leaky_relu,
    "linear": lambda x: x,
    "mish": functional.mish,
    "quick_gelu": _quick_gelu,
    "relu": functional.relu,
    "relu2": _squared_relu,
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "sqrtsoftplus": lambda x: functional.softplus(x).sqrt(),
    "swish": functional.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Function:
    """The function called `name`. Raises `InputError` listing the known ones."""
    if name not in ACTIVATIONS:
        raise InputError(f"hidden_act {name!r} is not supported; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
