"""LeNet-300-100 and LeNet-5 (LeCun et al., 1998, Gradient-based learning applied to document recognition)."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from ..datasets.registry import UsageError
from . import register
from .checks import image
from .groups import groups, parallel
from .mlp import MLP
from .slices import Group

SMALL = 20  # below this side, 5x5 kernels without padding would leave next to nothing


@register("lenet-300-100")
def lenet_300_100(input_shape: tuple[int, ...], outputs: int, /) -> nn.Module:
    """LeNet-300-100: a perceptron with 300 and 100 hidden neurons."""
    return MLP((math.prod(input_shape), 300, 100, outputs))


class LeNet5(nn.Module):
    """Two convolutions with ReLU and 2x2 max pooling, then three linear layers."""

    def __init__(self, input_shape: tuple[int, int, int], outputs: int):
        super().__init__()
        channels, *sides = input_shape
        kernel, paddings = _kernel(min(sides))
        for padding in paddings:
            sides = [(side + 2 * padding - kernel + 1) // 2 for side in sides]
        if min(sides) < 1:
            raise UsageError(f"architecture 'lenet5' needs images of at least 4x4, got shape {input_shape}")
        self.conv1 = nn.Conv2d(channels, 6, kernel, padding=paddings[0])
        self.conv2 = nn.Conv2d(6, 16, kernel, padding=paddings[1])
        self.fc1 = nn.Linear(16 * math.prod(sides), 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape (N, outputs), of images of shape (N, channels, height, width)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


def _kernel(side: int) -> tuple[int, tuple[int, int]]:
    """Kernel size and the padding of both convolutions, for images of this side."""
    if side < SMALL:
        return 3, (1, 1)
    return 5, (0 if side >= 32 else 2, 0)


@groups.register
def lenet5_groups(network: LeNet5) -> tuple[Group, ...]:
    """Filters of both convolutions (16 x k columns of fc1 belong to conv2) and neurons of fc1 and fc2."""
    return (
        parallel(network, "conv1 filters", "filter", writes=["conv1"], reads=["conv2"]),
        parallel(network, "conv2 filters", "filter", writes=["conv2"], reads=["fc1"]),
        parallel(network, "fc1 neurons", "neuron", writes=["fc1"], reads=["fc2"]),
        parallel(network, "fc2 neurons", "neuron", writes=["fc2"], reads=["fc3"]),
    )


@register("lenet5")
def lenet5(input_shape: tuple[int, ...], outputs: int, /) -> nn.Module:
    """LeNet-5 with ReLU and max pooling; 3x3 kernels for images smaller than 20 pixels.

    Images of 32 pixels and more enter as in the paper; smaller ones (28) are padded by 2 first. Images
    below 20 pixels, such as the 8x8 digits, get 3x3 kernels that keep the size, with the same numbers of
    filters and neurons.
    """
    return LeNet5(image("lenet5", input_shape), outputs)
