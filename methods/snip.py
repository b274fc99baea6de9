"""SNIP: single-shot network pruning (Lee, Ajanthan, Torr, ICLR 2019, arXiv 1810.02340).

The sensitivity of the loss to a connection's multiplicative mask c at c = 1 is |∂L/∂c_j| = |θ_j ∂L/∂θ_j|
(equation 4 up to its normaliser, which does not change the order), measured on one mini-batch at
initialisation. Gradients are summed over the batch before the absolute value is taken.

Formula: s_j = |θ_j ∂L/∂θ_j|
Paper: lee2019snip
Deviations: networks keep their own initialisation, and BatchNorm is in evaluation mode unless `batch_norm` says
    otherwise.
Oracle: test_methods.py::test_snip_is_the_derivative_with_respect_to_the_mask
"""

from __future__ import annotations

from functools import partial

from pydantic import PositiveInt
from torch import Tensor

from .closed_forms.likelihood import mean_loss
from .closed_forms.posteriors import Laplace
from .laplace.map import MAP
from .pruner import Pruner, State, register
from .scores.scratch import BatchNormMode, gradients_of, scoring_batch, scratch


@register("snip")
def snip_pruner(
    examples: PositiveInt = 128, batch_norm: BatchNormMode = "eval", precision: float = 1.0
) -> Pruner[Laplace]:
    """Connection sensitivity |θ·∂L/∂θ| at initialisation (SNIP, Lee et al. 2019)."""
    return Pruner(partial(MAP, precision), partial(snip, examples=examples, batch_norm=batch_norm), when="before")


def snip(state: State, examples: int, batch_norm: BatchNormMode) -> Tensor:
    """|θ ∂L/∂θ|, summed over a unit's weights; shape (units.n,)."""
    batch = scoring_batch(state, examples)
    with scratch(state.network, batch_norm) as (network, weights):
        gradients = gradients_of(mean_loss(network(batch.x), batch.y, batch.likelihood), list(weights.values()))
    return state.units.gather({n: (w * g).detach().abs() for (n, w), g in zip(weights.items(), gradients, strict=True)})
