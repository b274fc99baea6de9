"""The axes of weights and of activations along which a layer reads its inputs."""

from __future__ import annotations

from torch import nn

Convolution = nn.modules.conv._ConvNd


def is_transposed(module: nn.Module) -> bool:
    """Whether this is Hugging Face's `Conv1D`, a linear layer whose weight is (in, out), as in GPT-2."""
    return any(kind.__name__ == "Conv1D" and hasattr(module, "nf") for kind in type(module).__mro__)


def is_reader(module: nn.Module) -> bool:
    """Whether this is a linear layer or convolution: its weight has an axis of what it reads."""
    return isinstance(module, nn.Linear | Convolution) or is_transposed(module)


def input_axis(module: nn.Module) -> int:
    """The axis of a linear layer's or convolution's weight along which it reads."""
    return 0 if getattr(module, "transposed", False) or is_transposed(module) else 1


def output_axis(module: nn.Module) -> int:
    """The axis of the weight that counts what the layer computes."""
    return 1 - input_axis(module)


def channel_axis(module: nn.Module) -> int:
    """The axis that counts features in what a layer reads and writes."""
    if isinstance(module, Convolution):
        return -1 - len(module.kernel_size)  # of single images too, which have no axis of examples
    return -1 if is_reader(module) else 1
