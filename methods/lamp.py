"""LAMP: layer-adaptive magnitude-based pruning (Lee, Park, Mo, Ahn, Shin, ICLR 2021, arXiv 2010.07611).

Within a layer the score of a weight is its square over the sum of all squares at least as large
(equation 1), so that one global ranking by the score adapts the layers' densities. The largest weight
of a layer scores exactly 1: no layer empties before every other weight of the network has gone.

Formula: s_u = θ_u² / Σ {θ_v² : θ_v² >= θ_u²}
Paper: lee2021layer
Deviations: none in the score, which is computed in double precision.
Oracle: test_methods.py::test_lamp_equals_brute_force
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from .closed_forms.posteriors import Laplace
from .laplace.map import MAP
from .pruner import Pruner, State, register


@register("lamp")
def lamp_pruner(precision: float | Literal["tuned"] = 1.0) -> Pruner[Laplace]:
    """Layer-adaptive magnitude (LAMP) after MAP training (Lee et al. 2021)."""
    return Pruner(partial(MAP, precision), lamp)


def lamp(state: State) -> Tensor:
    """LAMP scores, summed over a unit's weights; shape (units.n,)."""
    return state.units.gather({name: lamp_scores(weight) for name, weight in state.weights().items()})


def lamp_scores(weight: Tensor) -> Tensor:
    """θ_u² / Σ {θ_v² : θ_v² >= θ_u²} within one layer, float64, in the weight's shape; 0 where θ is 0.

    The sums run from the largest square down, so that nothing is subtracted and nothing cancels. Equal
    weights are ordered by their position.
    """
    squares, order = weight.double().square().flatten().sort(descending=True, stable=True)
    tails = squares.cumsum(0)
    ratios = torch.where(tails == 0, 0.0, squares / tails)
    return torch.empty_like(ratios).scatter_(0, order, ratios).view_as(weight)
