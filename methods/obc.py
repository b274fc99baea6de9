"""Optimal brain compression: weights leave row by row, one at a time, and the others make up for them.

Frantar, Alistarh, "Optimal brain compression", NeurIPS 2022, arXiv 2208.11580 (ExactOBS). On the squared error of a
layer's outputs rows are independent: in each the weight of least w²/(2 [A⁻¹]_qq) leaves, the others move, and A⁻¹ loses
a row and a column by a rank-one update. What a weight cost when it left, and no less than those before it, is its
worth; rows are merged by it. The engine then conditions on the whole mask, where these moves end, in whatever order.

Cost: out · in³ multiplications for a weight (out, in).

Formula: s_q = w_q² / (2 [A⁻¹]_qq),  A = Σ x xᵀ,  one weight after the other
Paper: frantar2022optimal
Deviations: what stays is moved once, by the whole mask, instead of with each weight; both end at the same place.
Oracle: test_layer_errors.py::test_leaving_costs_are_those_of_one_at_a_time,
    test_conditioning.py::test_one_after_the_other_is_all_at_once
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ..datasets.errors import NotApplicable
from .closed_forms.posteriors import Laplace
from .laplace.layer_errors import LayerErrors, Rows, rows_of
from .pruner import Pruner, State, register

# Inputs of a layer beyond which its inverse is too large, and numbers of the inverses held at a time.
MOST = 1_500
HELD = 1 << 24


@register("obc")
def obc_pruner(
    examples: PositiveInt | None = 1024, damping: PositiveFloat = 0.01, precision: float = 1.0
) -> Pruner[Laplace]:
    """Greedy optimal brain surgeon on each layer's output error (OBC, Frantar & Alistarh 2022)."""
    inference = partial(LayerErrors, precision, examples=examples, damping=damping)
    return Pruner(inference, obc, allocation="layerwise", adjust="condition")


def obc(state: State[Laplace]) -> Tensor:
    """What each weight costs when it leaves its row, summed over a unit's weights; shape (units.n,).

    Raises NotApplicable for layers of more than 1,500 inputs.
    """
    posterior, weights = state.posterior, state.weights()
    worth: dict[str, Tensor] = {}
    for name, rows in rows_of(state):
        alone = 0.5 * weights[name].double().square() * posterior.precision[name]
        worth[name] = alone if rows is None else _worth(name, rows).view(alone.shape)
    return state.units.gather(worth)


def _worth(name: str, rows: Rows) -> Tensor:
    inputs = rows.weights.shape[2]
    if inputs > MOST:
        raise NotApplicable(f"obc holds an inverse of {inputs:,} inputs of {name!r}, more than {MOST:,}: choose obs")
    found = torch.empty_like(rows.weights)
    for group, (q, values, w) in enumerate(zip(rows.vectors, rows.values, rows.weights, strict=True)):
        inverse = (q / values) @ q.T
        parts = w.split(max(1, HELD // inputs**2))
        found[group] = torch.cat([leaving_costs(part, inverse) for part in parts])
    return rows.back(found)


def leaving_costs(rows: Tensor, inverse: Tensor) -> Tensor:
    """Costs of the weights of `rows` (n, in) in the order in which they leave, never falling; A⁻¹ is (in, in)."""
    w, live = rows.clone(), torch.ones_like(rows, dtype=torch.bool)
    left, costs = inverse.expand(len(w), -1, -1).clone(), torch.zeros_like(rows)
    every, highest = torch.arange(len(w), device=w.device), torch.zeros(len(w), dtype=w.dtype, device=w.device)
    change = torch.empty_like(left)  # held: to ask for such a matrix at each step takes longer than to fill it
    for _ in range(rows.shape[1]):
        diagonal = left.diagonal(dim1=1, dim2=2)
        cost = (0.5 * w.square() / diagonal).masked_fill(~live, torch.inf)
        at = cost.argmin(1)
        highest = torch.maximum(highest, cost[every, at])
        costs[every, at] = highest
        column, pivot = left[every, :, at], diagonal[every, at].clone()
        w.sub_(column * (w[every, at] / pivot).unsqueeze(1))
        left.sub_(torch.mul(column.unsqueeze(2), (column / pivot.unsqueeze(1)).unsqueeze(1), out=change))
        live[every, at] = False
        left[every, at, at] = 1.0  # a number that no division by it is harmed by
        w[every, at] = 0.0
    return costs
