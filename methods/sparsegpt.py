"""SparseGPT: columns of inputs leave from left to right, and those to come make up for them.

Frantar, Alistarh, "SparseGPT: massive language models can be accurately pruned in one-shot", ICML 2023, arXiv
2301.00774. Of each block of 128 columns the weights of least w²/U_jj² leave, at the values that earlier columns have
left them with, H⁻¹ = U'U; of the pattern 2:4 two of four, when the sweep is there (`closed_forms.column_sweep`). One
factor serves all rows, where obc needs an inverse for each: columns that are behind no longer move.

Formula: s_j = w_j² / (2 U_jj²),  w_k ← w_k - w_j U_jk / U_jj  for k ≥ j,  (A + δI)⁻¹ = U'U
Paper: frantar2023sparsegpt
Deviations: all layers see the inputs that they have in the dense network; theirs those behind what is pruned already.
    Inputs that are always 0 have the damping's precision, in place of weights that are set to 0. Counts are exact.
    `update: joint` moves all survivors for the mask, to where obc's are.
Oracle: test_sparsegpt.py::test_the_sweep_is_the_surgeon_on_columns_to_come,
    test_sparsegpt.py::test_blocks_choose_at_the_values_they_have_then
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ..architectures.units.mask import Mask
from .closed_forms.column_sweep import swept, upper_root
from .closed_forms.flat import flat
from .closed_forms.posteriors import Laplace
from .closed_forms.quota import Quota
from .conditioning.adjust import settled
from .conditioning.reads import entries
from .laplace.layer_errors import LayerErrors, Rows, rows_of
from .pruner import Adjusted, Pruner, State, register


@register("sparsegpt")
def sparsegpt_pruner(
    examples: PositiveInt | None = 1024, damping: PositiveFloat = 0.01, precision: float = 1.0,
    block: PositiveInt = 128, update: Literal["sweep", "joint"] = "sweep",
) -> Pruner[Laplace]:  # fmt: skip
    """One sweep over each layer's columns: least output error, later columns adjust (SparseGPT, Frantar & Alistarh)."""
    inference = partial(LayerErrors, precision, examples=examples, damping=damping)
    moves: Any = partial(sweep, block) if update == "sweep" else "condition"
    return Pruner(inference, sparsegpt, allocation="layerwise", adjust=moves, reselect=partial(reselect, block))


def sparsegpt(state: State[Laplace]) -> Tensor:
    """½ w_j²/U_jj² of the weights as they are before the sweep, summed over a unit's weights; shape (units.n,)."""
    weights, worth = state.weights(), dict[str, Tensor]()
    for name, rows in rows_of(state):
        scale = state.posterior.precision[name]
        if rows is not None:
            roots = torch.stack([root.diagonal() for root in _roots(rows)])
            costs = roots.square().reciprocal().unsqueeze(1).expand_as(rows.weights)
            scale = rows.back(costs).view(scale.shape)
        worth[name] = 0.5 * weights[name].double().square() * scale
    return state.units.gather(worth)


def sweep(block: int, state: State[Laplace], mask: Mask) -> Adjusted:
    """Later columns make up for what the mask takes of earlier ones."""
    mean, moved = state.posterior.mean, dict(state.posterior.mean)
    kept = entries(state.units, mask.kept, mean)
    parts = dict(zip(mean, kept.split([t.numel() for t in mean.values()]), strict=True))
    for name, rows in rows_of(state):
        if rows is not None:
            there = zip(rows.weights, _roots(rows), rows.laid(parts[name]), strict=True)
            moved[name] = rows.back(torch.stack([swept(*one, block) for one in there])).view(mean[name].shape)
    before = flat(mean)
    return settled(state, flat(moved).masked_fill(~kept, 0), before, kept, {})


def reselect(block: int, state: State[Laplace], kept: Tensor, cells: Tensor) -> Tensor:
    """As many of every cell, evenly from its blocks of columns, chosen when the sweep has come to them; (units.n,)."""
    chosen, units = [], state.units
    for (_, rows), own, cell in zip(rows_of(state), units.split(kept), units.split(cells), strict=True):
        if rows is not None:
            laid = rows.laid(cell.to(rows.weights.device))
            own = rows.back(_chosen(rows, rows.laid(own.to(laid.device)), laid, block))
        chosen.append(own.cpu())
    return torch.cat(chosen)


def _chosen(rows: Rows, kept: Tensor, cell: Tensor, block: int) -> Tensor:
    quota, stays = Quota.of(cell, kept, block), cell >= 0
    for group, root in enumerate(_roots(rows)):

        def decide(j: int, w: Tensor, group: int = group, root: Tensor = root) -> None:
            part = slice(j, (j // block + 1) * block)
            due = quota.due(group, j, part.stop)
            costs = (w[:, part] / root.diagonal()[part]).square()[due]
            stays[group][:, part][due] = quota.best(quota.part[group][:, part][due], costs)

        swept(rows.weights[group], root, stays[group], block, decide)
    return stays


def _roots(rows: Rows) -> list[Tensor]:
    return [upper_root(values, q) for values, q in zip(rows.values, rows.vectors, strict=True)]
