"""Multi-layer perceptron, for tables and for flattened images."""

from __future__ import annotations

import itertools
from typing import Literal

from torch import Tensor, nn

from . import register
from .checks import flat, positive
from .declared.groups import groups, parallel
from .units.slices import Group

Activation = Literal["relu", "tanh", "gelu", "silu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class MLP(nn.Module):
    """Linear layers of the given sizes (input, hidden ..., output) with an activation between them."""

    def __init__(self, sizes: tuple[int, ...], activation: Activation = "relu", bias: bool = True):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, bias) for a, b in itertools.pairwise(sizes))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape (N, sizes[-1]), of inputs of shape (N, ...) with sizes[0] values each."""
        *hidden, last = self.layers
        x = x.flatten(1)
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)


@groups.register
def mlp_groups(network: MLP) -> tuple[Group, ...]:
    """The neurons of every hidden layer: incoming row, bias and outgoing column."""
    names = [f"layers.{i}" for i in range(len(network.layers))]
    return tuple(
        parallel(network, f"{a} neurons", "neuron", writes=[a], reads=[b]) for a, b in itertools.pairwise(names)
    )


@register("mlp")
def mlp(
    input_shape: tuple[int, ...],
    outputs: int,
    /,
    widths: tuple[int, ...] = (100, 100),
    activation: Activation = "relu",
    bias: bool = True,
) -> nn.Module:
    """Multi-layer perceptron of any widths and activation, with biases or without."""
    for width in widths:
        positive("mlp", widths=width)
    return MLP((flat("mlp", input_shape), *widths, outputs), activation, bias)
