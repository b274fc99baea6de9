"""Which moment of a Gaussian posterior ranks weights: its mean, its precision, or what a method makes of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from ..pruner import State

Moment = Literal["both", "mean", "precision"]


def magnitude(state: State[Any]) -> Tensor:
    """|θ|, summed over a unit's weights; shape (units.n,)."""
    return state.units.gather({name: weight.abs() for name, weight in state.weights().items()})


def precision_only(state: State[Any]) -> Tensor:
    """Λ_kk, summed over a unit's weights; shape (units.n,)."""
    return state.units.gather(state.posterior.precision)


ALONE: Mapping[str, Callable[[State[Any]], Tensor]] = {"mean": magnitude, "precision": precision_only}


def ranking(by: Moment, both: Callable[[State[Any]], Tensor]) -> Callable[[State[Any]], Tensor]:
    """The score of a method that ranks by `both` moments, or by one of them alone."""
    return ALONE.get(by, both)
