"""SET and RigL: sparse training whose weights are exchanged, at random or by the gradient of the absent ones.

Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity", Nature
Communications 9 (2018); Evci, Gale, Menick, Castro, Elsen, "Rigging the lottery", ICML 2020, arXiv 1911.11134. Kept
weights of the smallest magnitude leave; grown ones start at 0. Layers have the densities of Erdős-Rényi-Kernel. The
schedule is the engine's (`bench.pruning.dynamic`): the ends of epochs stand for the papers' every 100 steps.

Deviations: weights are exchanged at the ends of epochs, not every 100 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ..architectures.units.mask import Mask
from .closed_forms.likelihood import mean_loss
from .closed_forms.posteriors import Laplace
from .laplace.map import MAP
from .magnitude import magnitude
from .pruner import Pruner, State, register
from .scores.scratch import gradients_of, scoring_batch, scratch


@register("set")
def set_pruner(regrow: PositiveFloat = 0.3, precision: float = 1.0) -> Pruner[Laplace]:
    """Sparse evolutionary training: the smallest leave, random ones grow (SET, Mocanu et al. 2018).

    Formula: leave: the smallest |θ_k|;  grow: at random
    Paper: mocanu2018scalable
    Oracle: test_hooks.py::test_weights_are_exchanged_and_counts_stay
    """
    return _dynamic(at_random, regrow, precision)


@register("rigl")
def rigl_pruner(regrow: PositiveFloat = 0.3, examples: PositiveInt = 256, precision: float = 1.0) -> Pruner[Laplace]:
    """Sparse training: the smallest leave, those of the largest gradient grow (RigL, Evci et al. 2020).

    Formula: leave: the smallest |θ_k|;  grow: the largest |∂L/∂θ_k|
    Paper: evci2020rigging
    Oracle: test_hooks.py::test_the_gradient_of_absent_weights_is_the_losss
    """
    return _dynamic(partial(by_gradient, examples=examples), regrow, precision)


def at_random(state: State, mask: Mask) -> Tensor:
    """Uniform numbers, shape (units.n,)."""
    return torch.rand(state.units.n, generator=state.generator, dtype=torch.float64)


def by_gradient(state: State, mask: Mask, examples: int, drawn: bool = False) -> Tensor:
    """|∂L/∂w| of a batch at the sparse network, absent weights included, or at a draw of its posterior; (units.n,)."""
    batch = scoring_batch(state, examples)
    with scratch(state.network, "eval") as (network, weights):
        for name, draw in state.inference.sample(state.network, state.generator).items() if drawn else ():
            network.get_parameter(name).data.copy_(draw)
        gradients = gradients_of(mean_loss(network(batch.x), batch.y, batch.likelihood), list(weights.values()))
    return state.units.gather({n: g.detach().abs() for n, g in zip(weights, gradients, strict=True)})


def _dynamic(grow: Callable[[State, Mask], Tensor], regrow: float, precision: float) -> Pruner[Laplace]:
    return Pruner(partial(MAP, precision), magnitude, when="dynamic", allocation="erk", grow=grow, regrow=regrow)
