"""LeNet-300-100 and LeNet-5 (LeCun et al., 1998, Gradient-based learning applied to document recognition).

Paper: lecun1998gradient
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..datasets.errors import UsageError
from . import register
from .checks import flat, image, positive
from .declared.groups import groups, parallel
from .mlp import ACTIVATIONS, MLP, Activation
from .units.slices import Group

Pooling = Literal["max", "average"]
POOLINGS: dict[Pooling, Callable[[Tensor, int], Tensor]] = {"max": F.max_pool2d, "average": F.avg_pool2d}

SMALL = 20  # below this side, 5x5 kernels without padding would leave next to nothing


@register("lenet-300-100")
def lenet_300_100(input_shape: tuple[int, ...], outputs: int, /) -> nn.Module:
    """LeNet-300-100: a perceptron with 300 and 100 hidden neurons."""
    return MLP((flat("lenet-300-100", input_shape), 300, 100, outputs))


class LeNet5(nn.Module):
    """Two convolutions with activation and 2x2 pooling, then linear layers with the activation between them.

    `widths` are the filters of both convolutions and the neurons of each hidden layer.
    """

    def __init__(
        self, input_shape: tuple[int, int, int], outputs: int, widths: Sequence[int], padding: int | None,
        activation: Activation = "relu", pooling: Pooling = "max",
    ) -> None:  # fmt: skip
        super().__init__()
        self.activation, self.pool = ACTIVATIONS[activation](), POOLINGS[pooling]
        channels, *sides = input_shape
        kernel, paddings = _kernel(min(sides), padding)
        for pad in paddings:
            sides = [(side + 2 * pad - kernel + 1) // 2 for side in sides]
        if min(sides) < 1:
            raise UsageError(f"architecture 'lenet5' needs images of at least 4x4, got shape {input_shape}")
        first, second, *hidden = widths
        self.conv1 = nn.Conv2d(channels, first, kernel, padding=paddings[0])
        self.conv2 = nn.Conv2d(first, second, kernel, padding=paddings[1])
        sizes = (second * math.prod(sides), *hidden, outputs)
        self.linear = [f"fc{i}" for i in range(1, len(sizes))]
        for name, pair in zip(self.linear, itertools.pairwise(sizes), strict=True):
            self.add_module(name, nn.Linear(*pair))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape (N, outputs), of images of shape (N, channels, height, width)."""
        x = self.pool(self.activation(self.conv1(x)), 2)
        x = self.pool(self.activation(self.conv2(x)), 2).flatten(1)
        *hidden, last = (self.get_submodule(name) for name in self.linear)
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)


def _kernel(side: int, padding: int | None) -> tuple[int, tuple[int, int]]:
    """Kernel size and the padding of both convolutions, for images of this side."""
    if side < SMALL:
        return 3, (1, 1) if padding is None else (padding, 0)
    return 5, ((0 if side >= 32 else 2) if padding is None else padding, 0)


@groups.register
def lenet5_groups(network: LeNet5) -> tuple[Group, ...]:
    """Filters of both convolutions (k columns of fc1 belong to each of conv2) and neurons of the hidden layers."""
    layers = ["conv1", "conv2", *network.linear]
    kinds = ["filter", "filter", *["neuron"] * len(network.linear)]
    return tuple(
        parallel(network, f"{a} {kind}s", kind, writes=[a], reads=[b])
        for kind, (a, b) in zip(kinds, itertools.pairwise(layers), strict=False)
    )


@register("lenet5")
def lenet5(
    input_shape: tuple[int, ...],
    outputs: int,
    /,
    widths: tuple[int, ...] = (6, 16, 120, 84),
    padding: int | None = None,
    activation: Activation = "relu",
    pooling: Pooling = "max",
) -> nn.Module:
    """LeNet-5, by default with ReLU and max pooling; 3x3 kernels for images smaller than 20 pixels.

    Images of 32 pixels and more enter as in the paper; smaller ones (28) are padded by 2 first, or by `padding`.
    Images below 20 pixels, such as the 8x8 digits, get 3x3 kernels that keep the size, with the same numbers of
    filters and neurons. `widths: [20, 50, 500], padding: 0` is the variant of Caffe; `activation: tanh,
    pooling: average` is nearer to the network of 1998.
    """
    if len(widths) < 3:
        raise UsageError(f"architecture 'lenet5' needs widths of two convolutions and a linear layer, got {widths!r}")
    for width in widths:
        positive("lenet5", widths=width)
    return LeNet5(image("lenet5", input_shape), outputs, widths, padding, activation, pooling)
