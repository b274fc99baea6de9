"""Units: the smallest things removed as a whole, as one flat vector over the network.

A unit is a single weight, or a neuron, filter, channel or head with all its slices. Scores and masks are
vectors over units: `gather` sums per-weight values into units, `scatter` turns kept units into boolean
masks per tensor, and unstructured pruning is the case of units of one weight.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ...datasets.errors import UsageError
from .slices import Group, Slice

# What is a unit: a single weight; any structure that can leave; only attention heads or feed-forward hidden units; or
# what layers add to a residual stream.
Granularity = Literal["weights", "groups", "head", "ffn_hidden", "residual_out"]


@dataclass(frozen=True, eq=False)
class Units:
    """All units of a network, in a fixed order: group after group, in each the order of its slices."""

    groups: tuple[Group, ...]

    def __post_init__(self):
        repeated = [name for name, count in Counter(self.layer_names).items() if count > 1]
        if repeated:
            raise ValueError(f"two groups are called {repeated[0]!r}")

    @functools.cached_property
    def n(self) -> int:
        """Number of units."""
        return sum(self.layer_sizes)

    @functools.cached_property
    def layer_sizes(self) -> tuple[int, ...]:
        """Number of units of each group."""
        return tuple(group.size for group in self.groups)

    @functools.cached_property
    def layer_names(self) -> tuple[str, ...]:
        """Name of each group."""
        return tuple(group.name for group in self.groups)

    @functools.cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of every tensor, parameter or buffer, that a unit owns a part of."""
        return {part.name: part.shape for group in self.groups for part in (*group.slices, *group.buffers)}

    @property
    def removable(self) -> bool:
        """Whether the units can be cut out physically; single weights can only be masked."""
        return all(isinstance(part, Slice) for group in self.groups for part in group.slices)

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Views of `flat`, shape (n,), one per group."""
        return torch.split(flat, list(self.layer_sizes))

    def gather(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sum per-weight values into units: shape (n,), float64.

        `values` maps parameter names to tensors of the parameters' shapes. Names that no unit owns are
        ignored; a group may be given only in part (without its biases, say). An entry that two slices of
        one unit share counts twice.

        Raises UsageError for a wrong shape, or when no tensor of a group is given.
        """
        for name in values.keys() & self.shapes.keys():
            _check_shape(name, values[name].shape, self.shapes[name])
        return torch.cat([_gather(group, values) for group in self.groups])

    def scatter(self, kept: Tensor) -> dict[str, Tensor]:
        """Boolean mask per parameter: an entry stays if every unit that owns it is `kept`, shape (n,).

        Raises UsageError unless `kept` is boolean and of that shape.
        """
        _check_shape("kept", kept.shape, torch.Size([self.n]))
        if kept.dtype != torch.bool:
            raise UsageError(f"kept must be a boolean vector, got {kept.dtype}")
        masks: dict[str, Tensor] = {}
        for group, part in zip(self.groups, self.split(kept), strict=True):
            for piece in group.slices:
                mask = piece.mask(part)
                masks[piece.name] = masks[piece.name] & mask if piece.name in masks else mask
        return {name: mask.contiguous() for name, mask in masks.items()}

    def to(self, device: torch.device | str) -> Units:
        """The same units with their indices on `device`."""
        return replace(self, groups=tuple(group.to(device) for group in self.groups))


def _gather(group: Group, values: Mapping[str, Tensor]) -> Tensor:
    sums = [part.sum(values[part.name]) for part in group.slices if part.name in values]
    if not sums:
        names = ", ".join(part.name for part in group.slices)
        raise UsageError(f"no values for group {group.name!r}; give at least one of {names}")
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


def _check_shape(name: str, got: torch.Size, expected: torch.Size) -> None:
    if got != expected:
        raise UsageError(f"{name} has shape {tuple(got)}, expected {tuple(expected)}")
