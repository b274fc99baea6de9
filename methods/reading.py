"""Where a network reads its structures: multiply what is read there, or the weights that read it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..architectures.slices import Elementwise, Group, Slice
from ..architectures.units import Units
from ..datasets.registry import UsageError

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
        if self._run is not None:
            return values[..., self._run]
        return torch.cat([values, values.new_ones(*values.shape[:-1], 1)], -1).index_select(-1, self.owner)

    def last(self, x: Tensor) -> Tensor:
        """A view of what the reader gets with the axis of the positions last."""
        return x.movedim(-1 - self.spatial, -1)

    def multiplied(self, x: Tensor, noise: Tensor) -> Tensor:
        """What the reader gets, times `noise`: shape (1 or examples, width), or that of `last(x)`.

        Raises UsageError where a reader does not get the examples along its first axis.
        """
        values = self.last(x)
        if noise.dim() < values.dim():
            noise = noise.view(len(noise), *[1] * (values.dim() - 2), -1)
        if len(noise) not in (1, len(values)):
            raise UsageError(
                f"{self.reader!r} is called on {len(values)} rows for {len(noise)} examples, so that they cannot have "
                "noise of their own: choose draws: minibatch"
            )
        return (values * noise.to(x.dtype)).movedim(-1, -1 - self.spatial)

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
    def _run(self) -> slice | None:
        """The structures read, where they are consecutive and each owns one position: a view does then."""
        first, width = int(self.owner[0]), len(self.owner)
        consecutive = torch.arange(first, first + width, device=self.owner.device)
        inside = first + width <= self.structures
        return slice(first, first + width) if inside and torch.equal(self.owner, consecutive) else None


def readings(network: nn.Module, units: Units) -> list[Reading]:
    """Every module that reads some of the structures `units`; what reads several groups comes once.

    Raises UsageError for a group that no linear layer or ungrouped convolution reads.
    """
    found: dict[str, Tensor] = {}
    offset = 0
    for group in units.groups:
        pieces = _pieces(network, group)
        if not pieces:
            raise UsageError(f"no linear layer or convolution reads the group {group.name!r}: it cannot carry noise")
        for reader, piece in pieces.items():
            blank = piece.index.new_full((piece.shape[piece.axis],), units.n)
            structures = torch.arange(offset, offset + group.size, device=piece.index.device)
            found.setdefault(reader, blank)[piece.index] = structures.unsqueeze(1)
        offset += group.size
    modules = {name: network.get_submodule(name) for name in found}
    return [
        Reading(name, found[name], units.n, len(getattr(module, "kernel_size", ())), _input_axis(module))
        for name, module in modules.items()
    ]


def _pieces(network: nn.Module, group: Group) -> dict[str, Slice]:
    """The slices of a group that are inputs of a weight, by the name of the module."""
    return {p.name.rpartition(".")[0]: p for p in group.slices if _reads(network, p) and isinstance(p, Slice)}


def _reads(network: nn.Module, piece: Slice | Elementwise) -> bool:
    path, _, leaf = piece.name.rpartition(".")
    module = network.get_submodule(path)
    ungrouped = isinstance(module, Reader) and getattr(module, "groups", 1) == 1
    return ungrouped and leaf == "weight" and isinstance(piece, Slice) and piece.axis == _input_axis(module)


def _input_axis(module: nn.Module) -> int:
    return 0 if getattr(module, "transposed", False) else 1
