"""Where noise on structures sits: on what a layer reads from them, or on what it writes to a residual stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...architectures.layers.axes import channel_axis, input_axis, is_reader, output_axis
from ...architectures.units.slices import Elementwise, Group, Slice
from ...architectures.units.vector import Units
from ...datasets.errors import NotApplicable, UsageError


@dataclass(frozen=True, eq=False)
class Carrier(ABC):
    """A layer on whose inputs or outputs the noise of structures sits.

    Attributes:
        layer: name of the module.
        owner: the structure that owns each position, shape (width,); `structures` where there is none.
        structures: their number in the network.
        channels: the axis of the positions in what carries the noise.
    """

    layer: str
    owner: Tensor
    structures: int
    channels: int

    @abstractmethod
    def hook(self, network: nn.Module, noise: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Multiply what carries the noise by `noise` of it, at every call of the layer."""

    @abstractmethod
    def parts(self, network: nn.Module) -> list[tuple[Tensor, int]]:
        """The parameters of the layer that noise may fold into, each with the axis of the positions.

        A grouped convolution has one column for the positions at the same place of all its groups.
        """

    def fold(self, network: nn.Module, values: Tensor) -> None:
        """Multiply, in place, those parameters by the value of each structure; `values`: (structures,)."""
        for parameter, axis in self.parts(network):
            self._scale(parameter, values, axis)

    def sums(self, network: nn.Module, of: Callable[[Tensor], Tensor]) -> Tensor:
        """Sums of `of` those parameters, elementwise, over what belongs to each structure; (structures,), float64."""
        total = torch.zeros(self.structures + 1, dtype=torch.float64, device=self.owner.device)
        for parameter, axis in self.parts(network):
            rows = of(parameter).movedim(axis, 0).flatten(1).sum(1)
            total = total.index_add(0, self.owner[: len(rows)], rows.double())
        return total[:-1]

    def positions(self, values: Tensor) -> Tensor:
        """`values` of the structures, shape (..., structures), for every position; 1 where no structure owns it."""
        if self.run is not None:
            return values[..., slice(*self.run)]
        return torch.cat([values, values.new_ones(*values.shape[:-1], 1)], -1).index_select(-1, self.owner)

    def last(self, x: Tensor) -> Tensor:
        """A view of what carries the noise with the axis of the positions last; shape (N, ..., width)."""
        return x.movedim(self.channels, -1)

    def multiplied(self, x: Tensor, noise: Tensor) -> Tensor:
        """What carries the noise, times `noise`: shape (1 or examples, width), or that of `last(x)`.

        Raises UsageError where a layer does not get the examples along its first axis.
        """
        if len(noise) not in (1, len(x)):
            raise UsageError(
                f"{self.layer!r} is called on {len(x)} rows for {len(noise)} examples, so that they cannot have "
                "noise of their own: choose draws: minibatch (ties: minibatch for group-variational-dropout)"
            )
        if noise.dim() < x.dim():
            shape = [len(noise), *[1] * (x.dim() - 1)]
            shape[self.channels] = -1
            noise = noise.view(shape)
        elif self.channels not in (-1, x.dim() - 1):
            noise = noise.movedim(-1, self.channels)
        return x * noise.to(x.dtype)

    def _scale(self, parameter: Tensor, values: Tensor, axis: int) -> None:
        shape = [-1 if i == axis else 1 for i in range(parameter.dim())]
        each = self.positions(values)[: parameter.shape[axis]]
        parameter.data.mul_(each.to(parameter.dtype).view(shape))

    @cached_property
    def owned(self) -> Tensor:
        """Whether a structure owns the position; boolean, shape (width,)."""
        return self.owner < self.structures

    @cached_property
    def run(self) -> tuple[int, int] | None:
        """First structure and the one behind the last, where consecutive structures own one position each."""
        first, width = int(self.owner[0]), len(self.owner)
        consecutive = torch.arange(first, first + width, device=self.owner.device)
        inside = first + width <= self.structures
        return (first, first + width) if inside and torch.equal(self.owner, consecutive) else None


class Reading(Carrier):
    """A linear layer or convolution that reads structures; values fold into the columns of its weight."""

    def hook(self, network: nn.Module, noise: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Multiply the inputs."""

        def multiply(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return self.multiplied(inputs[0], noise(inputs[0])), *inputs[1:]

        return network.get_submodule(self.layer).register_forward_pre_hook(multiply)

    def parts(self, network: nn.Module) -> list[tuple[Tensor, int]]:
        """The weight, whose columns read the structures."""
        module = network.get_submodule(self.layer)
        return [(module.get_parameter("weight"), input_axis(module))]


class Writing(Carrier):
    """A layer or norm that writes to a residual stream; values fold into the rows of its weight and its bias."""

    def hook(self, network: nn.Module, noise: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Multiply the outputs."""

        def multiply(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            return self.multiplied(output, noise(output))

        return network.get_submodule(self.layer).register_forward_hook(multiply)

    def parts(self, network: nn.Module) -> list[tuple[Tensor, int]]:
        """The rows of the weight, and the bias."""
        module = network.get_submodule(self.layer)
        rows = output_axis(module) if is_reader(module) else 0
        axes = ((module.weight, rows), (module.bias, 0))
        return [(parameter, axis) for parameter, axis in axes if isinstance(parameter, Tensor)]


def carriers(network: nn.Module, units: Units) -> list[Carrier]:
    """Every layer that reads some of the structures `units`, or writes those that leave on that side only.

    What reads several groups comes once. Raises NotApplicable for a group that no linear layer or convolution reads,
    or a recurrent layer too.
    """
    found: dict[tuple[type[Carrier], str], Tensor] = {}
    offset = 0
    for group in units.groups:
        kind, pieces = (Writing, _written(group)) if group.spread else (Reading, _read(network, group))
        for layer, piece in pieces.items():
            blank = piece.index.new_full((piece.shape[piece.axis],), units.n)
            structures = torch.arange(offset, offset + group.size, device=piece.index.device)
            found.setdefault((kind, layer), blank)[piece.index] = structures.unsqueeze(1)
        offset += group.size
    modules = {layer: network.get_submodule(layer) for _, layer in found}
    return [
        kind(layer, owner.repeat(_times(kind, modules[layer])), units.n, channel_axis(modules[layer]))
        for (kind, layer), owner in found.items()
    ]


def _times(kind: type[Carrier], module: nn.Module) -> int:
    """How many positions of what is read share a column of the weight: those at the same place of all groups."""
    return getattr(module, "groups", 1) if kind is Reading else 1


def _read(network: nn.Module, group: Group) -> dict[str, Slice]:
    """The slices of a group that are inputs of a weight, by the name of the module."""
    pieces = {p.name.rpartition(".")[0]: p for p in group.slices if isinstance(p, Slice) and carries(network, p)}
    if not pieces or _recurrent(network, group):
        what = "a recurrent layer" if pieces else "no linear layer or convolution"
        raise NotApplicable(f"{what} reads the group {group.name!r}: it cannot carry this noise")
    return pieces


def _written(group: Group) -> dict[str, Slice]:
    """The rows of the layer behind which the group's units become zeros, by its name."""
    name = f"{group.spread}.weight"
    return {group.spread: next(p for p in group.slices if p.name == name and isinstance(p, Slice))}


def _recurrent(network: nn.Module, group: Group) -> bool:
    modules = (network.get_submodule(piece.name.rpartition(".")[0]) for piece in group.slices)
    return any(isinstance(module, nn.RNNBase) for module in modules)


def is_read(network: nn.Module, piece: Slice | Elementwise) -> bool:
    """Whether the piece is an input of the weight of a linear layer or ungrouped convolution."""
    module = network.get_submodule(piece.name.rpartition(".")[0])
    return carries(network, piece) and getattr(module, "groups", 1) == 1


def carries(network: nn.Module, piece: Slice | Elementwise) -> bool:
    """Whether noise on what the layer reads there is noise on the units: the piece holds columns of its weight.

    Of a grouped transposed convolution whole groups leave, with what they write: noise sits on what reads that.
    """
    path, _, leaf = piece.name.rpartition(".")
    module = network.get_submodule(path)
    if not (is_reader(module) and leaf == "weight" and isinstance(piece, Slice) and piece.axis == input_axis(module)):
        return False
    return getattr(module, "groups", 1) == 1 or not getattr(module, "transposed", False)
