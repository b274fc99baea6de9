"""Where a network reads its structures: multiply what is read there, or the weights that read it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..architectures.slices import Elementwise, Group, Slice
from ..architectures.units import Units
from ..datasets.registry import NotApplicable, UsageError

Reader = nn.Linear | nn.modules.conv._ConvNd


@dataclass(frozen=True, eq=False)
class Reading:
    """A linear layer or convolution that reads structures.

    Attributes:
        reader: name of the module.
        owner: the structure that owns each position read, shape (width,); `structures` where there is none.
        structures: their number in the network.
        spatial: dimensions behind the axis of the positions: 0 for a linear layer.
        axis: input axis of the weight.
    """

    reader: str
    owner: Tensor
    structures: int
    spatial: int
    axis: int

    def positions(self, values: Tensor) -> Tensor:
        """`values` of the structures, shape (..., structures), for every position; 1 where no structure owns it."""
        if self.run is not None:
            return values[..., slice(*self.run)]
        return torch.cat([values, values.new_ones(*values.shape[:-1], 1)], -1).index_select(-1, self.owner)

    def last(self, x: Tensor) -> Tensor:
        """A view of what the reader gets with the axis of the positions last."""
        return x.movedim(-1 - self.spatial, -1)

    def multiplied(self, x: Tensor, noise: Tensor) -> Tensor:
        """What the reader gets, times `noise`: shape (1 or examples, width), or that of `last(x)`.

        Raises UsageError where a reader does not get the examples along its first axis.
        """
        if len(noise) not in (1, len(x)):
            raise UsageError(
                f"{self.reader!r} is called on {len(x)} rows for {len(noise)} examples, so that they cannot have "
                "noise of their own: choose draws: minibatch (ties: minibatch for group-variational-dropout)"
            )
        if noise.dim() < x.dim():
            between = [1] * (x.dim() - 2 - self.spatial)
            noise = noise.view(len(noise), *between, -1, *[1] * self.spatial)
        elif self.spatial:
            noise = noise.movedim(-1, -1 - self.spatial)
        return x * noise.to(x.dtype)

    def fold(self, network: nn.Module, values: Tensor) -> None:
        """Multiply, in place, the weights that read each structure by its value; `values`: (structures,)."""
        weight = network.get_submodule(self.reader).get_parameter("weight").data
        shape = [-1 if axis == self.axis else 1 for axis in range(weight.dim())]
        weight.mul_(self.positions(values).to(weight.dtype).view(shape))

    @cached_property
    def owned(self) -> Tensor:
        """Whether a structure owns the position; boolean, shape (width,)."""
        return self.owner < self.structures

    @cached_property
    def run(self) -> tuple[int, int] | None:
        """First structure read and the one behind the last, where consecutive structures own one position each."""
        first, width = int(self.owner[0]), len(self.owner)
        consecutive = torch.arange(first, first + width, device=self.owner.device)
        inside = first + width <= self.structures
        return (first, first + width) if inside and torch.equal(self.owner, consecutive) else None


class Noise:
    """The noise of one pass, shape (1 or examples, structures), cut into groups at once.

    A view of each group on its own would have a gradient of the size of the whole.
    """

    def __init__(self, values: Tensor, units: Units):
        self.values = values
        ends = [*itertools.accumulate(units.layer_sizes)]
        self.groups = dict(zip(zip([0, *ends], ends, strict=False), values.split(units.layer_sizes, 1), strict=True))

    def read(self, reading: Reading) -> Tensor:
        """What multiplies every position that is read."""
        group = self.groups.get(reading.run) if reading.run else None
        return reading.positions(self.values) if group is None else group


class ReadingNoise:
    """Hooks that multiply what a network reads from its structures, until `remove`; a copy takes them along.

    Args:
        network: gets the hooks.
        units: its structures.
        drawn: told a number of examples and whether the network is training, gives the noise of a pass, shape (1 or
            examples, structures); or None, where every reading draws for itself.
        elementwise: that draw, of the shape of `reading.last(x)`.

    Raises NotApplicable where structures are not read in a way that can carry noise.
    """

    def __init__(
        self, network: nn.Module, units: Units, drawn: Callable[[int, bool], Tensor | None],
        elementwise: Callable[[Reading, Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self._units, self._drawn, self._elementwise = units, drawn, elementwise
        self._noise: Noise | None = None
        self.readings = readings(network, units)
        # Functions, not bound methods: these would be copied with the network, and the noise with only some of them.
        self._handles: list[RemovableHandle] = [
            network.register_forward_pre_hook(lambda *call: self._enter(*call)),
            network.register_forward_hook(lambda *_: self._leave(), always_call=True),
            *(network.get_submodule(r.reader).register_forward_pre_hook(self._multiplier(r)) for r in self.readings),
        ]

    def remove(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = self._drawn(len(inputs[0]), network.training)
        self._noise = None if values is None else Noise(values, self._units)

    def _leave(self) -> None:
        self._noise = None  # and with it the graph of the pass

    def _multiplier(self, reading: Reading) -> Callable[..., tuple[Any, ...]]:
        def multiply(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return reading.multiplied(inputs[0], self._of(reading, inputs[0])), *inputs[1:]

        return multiply

    def _of(self, reading: Reading, x: Tensor) -> Tensor:
        if self._noise is not None:
            return self._noise.read(reading)
        assert self._elementwise is not None
        return self._elementwise(reading, x)


def readings(network: nn.Module, units: Units) -> list[Reading]:
    """Every module that reads some of the structures `units`; what reads several groups comes once.

    Raises NotApplicable for a group that no linear layer or ungrouped convolution reads, or a recurrent layer too.
    """
    found: dict[str, Tensor] = {}
    offset = 0
    for group in units.groups:
        pieces = _pieces(network, group)
        if not pieces or _recurrent(network, group):
            what = "a recurrent layer" if pieces else "no linear layer or convolution"
            raise NotApplicable(f"{what} reads the group {group.name!r}: it cannot carry this noise")
        for reader, piece in pieces.items():
            blank = piece.index.new_full((piece.shape[piece.axis],), units.n)
            structures = torch.arange(offset, offset + group.size, device=piece.index.device)
            found.setdefault(reader, blank)[piece.index] = structures.unsqueeze(1)
        offset += group.size
    modules = {name: network.get_submodule(name) for name in found}
    return [
        Reading(name, found[name], units.n, len(getattr(module, "kernel_size", ())), input_axis(module))
        for name, module in modules.items()
    ]


def _pieces(network: nn.Module, group: Group) -> dict[str, Slice]:
    """The slices of a group that are inputs of a weight, by the name of the module."""
    return {p.name.rpartition(".")[0]: p for p in group.slices if is_read(network, p) and isinstance(p, Slice)}


def _recurrent(network: nn.Module, group: Group) -> bool:
    modules = (network.get_submodule(piece.name.rpartition(".")[0]) for piece in group.slices)
    return any(isinstance(module, nn.RNNBase) for module in modules)


def is_read(network: nn.Module, piece: Slice | Elementwise) -> bool:
    """Whether the piece is an input of the weight of a linear layer or ungrouped convolution."""
    path, _, leaf = piece.name.rpartition(".")
    module = network.get_submodule(path)
    ungrouped = isinstance(module, Reader) and getattr(module, "groups", 1) == 1
    return ungrouped and leaf == "weight" and isinstance(piece, Slice) and piece.axis == input_axis(module)


def input_axis(module: nn.Module) -> int:
    """The axis of a linear layer's or convolution's weight along which it reads."""
    return 0 if getattr(module, "transposed", False) else 1
