"""A model as hard to quantize as trained transformers are."""

import torch

INJECTED = {"encoder.blocks.2.attn.qkv": "norm1", "encoder.blocks.4.mlp.fc1": "norm2"}
CHANNELS = (7, 60, 101)
GAIN = 300.0


def outliers(model):
    """The same function in fp32, with a few channels of two LayerNorms `GAIN` times as large.

    What the norm gains, the matrix behind it loses: trained transformers grow such channels by
    themselves (Dettmers et al., arXiv:2208.07339).
    """
    with torch.no_grad():
        for layer, norm in INJECTED.items():
            index = int(layer.split(".")[2])
            block = model.encoder.blocks[index]
            matrix = block.attn.qkv if norm == "norm1" else block.mlp.fc1
            for channel in CHANNELS:
                getattr(block, norm).weight[channel] *= GAIN
                getattr(block, norm).bias[channel] *= GAIN
                matrix.weight[:, channel] /= GAIN
    return model
