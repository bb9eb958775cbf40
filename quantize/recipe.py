"""How a graph is quantized, as typed data."""

from __future__ import annotations

import msgspec


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """W8A8 settings.

    `symmetric` activations are what TensorRT's parser takes (zero points of 0). `smooth_alpha`
    moves outliers from activations to weights (SmoothQuant, arXiv:2211.10438). With
    `float_embeddings` patch embeddings stay in floating point, as do the nodes whose names match
    one of the regular expressions `float_patterns`.
    """

    symmetric: bool
    smooth_alpha: float = 0.5
    float_embeddings: bool = True
    float_patterns: tuple[str, ...] = ()
    samples: int = 128
