"""Wanda: weights times the norms of their inputs, compared within the rows of a layer.

Sun, Liu, Bair, Kolter, "A simple and effective pruning approach for large language models", ICLR 2024, 2306.11695:
|w_ij| ‖x_j‖, the root of what leaving alone does to the layer's output, and each output keeps the same share of its
inputs. No gradient and no label decides.

Formula: s_ij = |w_ij| ‖x_j‖₂
Paper: sun2024simple
Deviations: all layers are scored at once, of the dense network; theirs one after the other, behind those that are
    pruned already.
Oracle: test_layer_errors.py::test_wanda_is_weights_times_norms_of_inputs
"""

from __future__ import annotations

from functools import partial

from pydantic import PositiveInt
from torch import Tensor

from .closed_forms.posteriors import Laplace
from .laplace.layer_errors import LayerErrors
from .pruner import Pruner, State, register


@register("wanda")
def wanda_pruner(examples: PositiveInt | None = 1024, precision: float = 1.0) -> Pruner[Laplace]:
    """Weights times the norms of their inputs, row by row (Wanda, Sun et al. 2024)."""
    return Pruner(partial(LayerErrors, precision, examples=examples), wanda, allocation="rowwise")


def wanda(state: State[Laplace]) -> Tensor:
    """|w_ij| ‖x_j‖, summed over a unit's weights; shape (units.n,)."""
    mean = state.posterior.mean
    return state.units.gather({n: mean[n].abs() * h.clamp_min(0).sqrt() for n, h in state.posterior.curvature.items()})
