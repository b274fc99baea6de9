"""What structures are worth, for the units that are scored: themselves, or the single weights that they are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ...architectures.units.slices import Slice
from ...architectures.units.vector import Units
from ..pruner import State


def of_units(worth: Tensor, structures: Units, state: State) -> Tensor:
    """Worths of structures, positive to be kept, as worths of the units that are scored."""
    return worth if state.units.removable else _shared_out(worth, structures, state)


def _shared_out(worth: Tensor, structures: Units, state: State) -> Tensor:
    """Worths of single weights: each has that share of its structure's worth that it has of its squared norm.

    A weight belongs to the structure that it helps to compute and to the one that it reads; the lower worth counts,
    so that it leaves with either. Weights of no structure share, in each tensor, the worth of the best one.
    """
    squares = {name: weight.double().square() for name, weight in state.weights().items()}
    norms = structures.gather(squares)
    per_square = torch.where(norms > 0, worth / norms, 0)
    lowest = {name: torch.full_like(square, torch.inf) for name, square in squares.items()}
    for group, values in zip(structures.groups, structures.split(per_square), strict=True):
        for piece in group.slices:
            if piece.name in lowest and isinstance(piece, Slice):
                lowest[piece.name] = torch.minimum(lowest[piece.name], _along(piece, values))
    best = worth.max()
    shares = [_share(square, lowest[name], best) for name, square in squares.items()]
    return torch.cat([share.flatten() for share in shares])


def _along(piece: Slice, values: Tensor) -> Tensor:
    """One value per unit, on the positions that it owns of the piece's axis; elsewhere infinity."""
    line = values.new_full((piece.shape[piece.axis],), torch.inf)
    line[piece.index] = values.unsqueeze(1)
    return line.view([-1 if axis == piece.axis else 1 for axis in range(len(piece.shape))])


def _share(square: Tensor, per_square: Tensor, best: Tensor) -> Tensor:
    """The shares of one tensor's weights; those of no structure, where `per_square` is infinite, share `best`."""
    free = per_square.isinf()
    norm = (square * free).sum()
    return square * torch.where(free, torch.where(norm > 0, best / norm, 0), per_square)
