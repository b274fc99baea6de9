"""Norms of structures: those whose incoming weights are short go first, the baseline of structured pruning.

Li et al., "Pruning filters for efficient ConvNets", ICLR 2017, arXiv 1608.08710, by the norm of Wright et al. (2024),
who cut one global ranking of unnormalised norms at the number of structures that BMRS removes. Layers of many inputs
have long rows, so that such a ranking may take a whole layer: `allocation: layerwise` and `normalise: fan-in` do not.

Formula: s_g = (Σ {w² : w computes structure g})^½
Paper: li2017pruning, wright2024bmrs
Deviations: Li et al. take the sum of absolute values, and a share of each layer that is chosen by hand.
Oracle: test_bmrs_pruning.py::test_norms_are_those_of_rows_and_filters
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ..architectures.layers.axes import input_axis
from ..architectures.units.prunable import prunable
from ..architectures.units.slices import Elementwise, Group, Slice
from ..architectures.units.vector import Units
from ..datasets.errors import UsageError
from .closed_forms.posteriors import Laplace
from .laplace.map import MAP
from .pruner import Pruner, State, register

Normalise = Literal["none", "fan-in"]


@register("l2-group")
def l2_group_pruner(normalise: Normalise = "none", precision: float | Literal["tuned"] = 1.0) -> Pruner[Laplace]:
    """Norm ‖w‖₂ of the weights that compute a structure, without biases, after MAP training (Li et al. 2017)."""
    return Pruner(partial(MAP, precision), partial(l2_group, normalise=normalise))


def l2_group(state: State, normalise: Normalise = "none") -> Tensor:
    """‖w‖₂ over the weights that compute a unit; by "fan-in", over the root of their number; shape (units.n,).

    A single weight computes itself: its norm is its magnitude.
    """
    weights = state.weights()
    writers = Units(tuple(_written(group, state.network) for group in state.units.groups))
    squares = writers.gather({name: weight.double().square() for name, weight in weights.items()})
    if normalise == "none":
        return squares.sqrt()
    return (squares / writers.gather({name: torch.ones_like(weight) for name, weight in weights.items()})).sqrt()


def _written(group: Group, network: nn.Module) -> Group:
    """The group with nothing but the weights that compute its units; raises UsageError where there are none."""
    weights = prunable(network)
    slices = tuple(piece for piece in group.slices if piece.name in weights and _writes(piece, network))
    if not slices:
        raise UsageError(f"no weight that may be pruned computes the units of {group.name!r}: they have no norm")
    return Group(group.name, group.kind, slices)


def _writes(piece: Slice | Elementwise, network: nn.Module) -> bool:
    if isinstance(piece, Elementwise):
        return True
    return piece.axis != input_axis(network.get_submodule(piece.name.rpartition(".")[0]))
