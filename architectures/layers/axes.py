"""The axes of weights and of activations along which a layer reads its inputs."""

from __future__ import annotations

from torch import nn

Reader = nn.Linear | nn.modules.conv._ConvNd


def input_axis(module: nn.Module) -> int:
    """The axis of a linear layer's or convolution's weight along which it reads."""
    return 0 if getattr(module, "transposed", False) else 1


def output_axis(module: nn.Module) -> int:
    """The axis of the weight that counts what the layer computes."""
    return 1 - input_axis(module)


def channel_axis(module: nn.Module) -> int:
    """The axis that counts features in what a layer reads and writes."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return -1 - len(module.kernel_size)  # of single images too, which have no axis of examples
    return -1 if isinstance(module, nn.Linear) else 1
