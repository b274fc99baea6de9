"""Random pruning, the control: any units, or any units at the layer densities of another method.

Frankle et al., "Pruning neural networks at initialization: why are we missing the mark?" (ICLR 2021, arXiv
2009.08576): a method that is not better than its own mask shuffled within layers chooses only densities.

Formula: s_k ~ U(0, 1)
Paper: frankle2021pruning
Deviations: none known.
Oracle: test_methods.py::test_random_like_takes_over_everything_but_the_choice_inside_layers,
    test_methods.py::test_shuffling_keeps_the_layer_counts_and_nothing_else
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ..datasets.errors import UsageError
from . import registry
from .laplace.map import MAP
from .pruner import Pruner, State, register


@register("random")
def random_pruner(like: str | None = None, precision: float | Literal["tuned"] = 1.0) -> Pruner[Any]:
    """Random units; `like: METHOD` keeps that method's layer densities and shuffles within layers."""
    if like is None:
        return Pruner(partial(MAP, precision), random)
    other: Pruner = registry.build(like)
    if precision != 1.0:
        raise UsageError(f"random: like={like!r} takes its inference from there; leave precision={precision!r} out")
    return replace(other, keep_above=None, decide=None, report=None, shuffle=True)


def random(state: State) -> Tensor:
    """Uniform noise from the state's generator; shape (units.n,)."""
    return torch.rand(state.units.n, generator=state.generator, dtype=torch.float64)
