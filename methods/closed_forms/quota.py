"""How many weights of each cell and block of columns stay, where they are chosen block by block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Quota:
    """The parts into which blocks of columns divide the cells of a weight (groups, out, in).

    Attributes:
        part: of each weight, int64 (groups, out, in); -1 of none.
        stays: of each part, how many weights; of a cell's they sum to the cell's number, in even shares.
        first: column of each part.
    """

    part: Tensor
    stays: Tensor
    first: Tensor

    @classmethod
    def of(cls, cell: Tensor, kept: Tensor, block: int) -> Quota:
        """As many of every cell, int64 (groups, out, in), -1 for none, as are `kept`."""
        there, (groups, _, width) = cell >= 0, cell.shape
        columns, blocks = torch.arange(width, device=cell.device), (width - 1) // block + 1
        group = torch.arange(groups, device=cell.device).view(-1, 1, 1)
        key = ((cell * groups + group) * blocks + columns // block)[there]
        keys, part, sizes = key.unique(return_inverse=True, return_counts=True)
        owner, offset = cell[there], keys // (groups * blocks)
        number = owner.bincount(minlength=int(owner.max()) + 1)[offset]
        keep = owner[kept[there]].bincount(minlength=int(owner.max()) + 1)[offset]
        so_far = sizes.cumsum(0)
        before = so_far - sizes
        start = before[torch.searchsorted(offset, offset)]  # of the cell
        stays = _share(so_far - start, keep, number) - _share(before - start, keep, number)
        first = columns.new_full((len(keys),), width)
        first.scatter_reduce_(0, part, columns.expand_as(cell)[there], "amin")
        return cls(cell.new_full(cell.shape, -1).masked_scatter_(there, part), stays, first)

    def due(self, group: int, column: int, stop: int) -> Tensor:
        """Which weights of the columns from this one on, up to `stop`, are of parts that begin here; boolean."""
        part = self.part[group, :, column:stop]
        return (part >= 0) & (self.first[part] == column)

    def best(self, part: Tensor, worth: Tensor) -> Tensor:
        """Of weights of these parts, (n,), those of most worth, as many as stay of each; boolean, (n,)."""
        return best_of_parts(part, worth, self.stays)


def best_of_parts(part: Tensor, worth: Tensor, stays: Tensor) -> Tensor:
    """Those of most worth, as many of every part, int64 (n,), as `stays` says by its number; boolean, (n,)."""
    order = worth.argsort(descending=True, stable=True)
    order = order[part[order].argsort(stable=True)]
    ranked = part[order]
    place = torch.arange(len(part), device=part.device) - torch.searchsorted(ranked, ranked)
    return torch.empty_like(part, dtype=torch.bool).index_put_((order,), place < stays[ranked])


def _share(count: Tensor, keep: Tensor, number: Tensor) -> Tensor:
    """keep · count / number, rounded half up."""
    return (2 * keep * count + number) // (2 * number)
