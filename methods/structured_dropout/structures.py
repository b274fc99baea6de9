"""Structures by the weights that they scale and own: what factors multiply, and what leaves with a unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...architectures.units.slices import Slice

Kind = Literal["group", "word", "input", "neuron", "gate"]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Structure:
    """Units of one kind in one layer.

    Attributes:
        name: that of the group of the architecture, where it has one of the same units.
        kind: of the units.
        scaled: the weights that a unit's factor multiplies; without them it has no effect.
        owned: the weights that go when the unit goes.
    """

    name: str
    kind: Kind
    scaled: tuple[Slice, ...]
    owned: tuple[Slice, ...]

    @property
    def size(self) -> int:
        """Number of units."""
        return self.scaled[0].size

    def best(self, values: Weights) -> Tensor:
        """The largest value among the weights that each unit scales, shape (size,)."""
        return torch.stack([_largest(part, values[part.name]) for part in self.scaled]).amax(0)


def combined(
    weights: Weights, slices: tuple[Slice, ...], values: Tensor, operation: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """`weights` with every entry of `slices` combined with its unit's value; `values` has shape (size,)."""
    found = dict(weights)
    for part in slices:
        found[part.name] = _combined(part, found[part.name], values, operation)
    return found


def _combined(part: Slice, entries: Tensor, values: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    index = part.index.to(entries.device)
    planes = entries.movedim(part.axis, 0).clone()
    of_planes = values.to(entries).repeat_interleave(index.shape[1]).view(-1, *[1] * (entries.dim() - 1))
    planes[index.flatten()] = operation(planes[index.flatten()], of_planes)
    return planes.movedim(0, part.axis)


def _largest(part: Slice, values: Tensor) -> Tensor:
    others = [axis for axis in range(values.dim()) if axis != part.axis]
    return values.amax(others)[part.index.to(values.device)].amax(1)
