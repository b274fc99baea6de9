"""From log odds that weights are in the model to the odds of units, and to the units that are selected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ...architectures.units.features import feature_units
from ...architectures.units.vector import Units
from ...datasets.errors import UsageError
from ..closed_forms.spike_slab import false_discovery_selection
from ..pruner import Inference, Pruner, State

Posterior = TypeVar("Posterior")
Select = Literal["median", "fdr"]

# Features that a record lists one by one, at most.
FEATURES = 10_000
# Log odds below which a probability leaves float64.
IMPOSSIBLE = -700.0


def unit_log_odds(units: Units, log_odds: Mapping[str, Tensor]) -> Tensor:
    """Log odds that at least one weight of a unit is in, 1 - Π (1 - PIP): noisy or; shape (units.n,), float64.

    Args:
        units: whose weights are taken for independent.
        log_odds: of each weight, by parameter name.
    """
    if not units.removable:
        return units.gather(log_odds)
    absent = {name: logsigmoid(-odds.double().clamp_min(IMPOSSIBLE)) for name, odds in log_odds.items()}
    none = units.gather(absent)
    return (-torch.expm1(none)).log() - none


def pip_pruner(
    inference: Callable[[], Inference[Posterior]],
    score: Callable[[State[Posterior]], Tensor],
    select: Select = "median",
    rate: float = 0.05,
    **facts: Any,
) -> Pruner[Posterior]:
    """A method whose score is the log odds of inclusion.

    Args:
        inference: makes a fresh inference.
        score: log odds, shape (units.n,).
        select: "median", PIP > ½ (Barbieri & Berger 2004); or "fdr", the largest set whose mean 1 - PIP is at most...
        rate: ...this, in (0, 1).
        facts: to report beside, or instead of, parts of `summary`.

    Raises UsageError for a rate outside (0, 1).
    """
    if not 0 < rate < 1:
        raise UsageError(f"rate must be an expected share of false discoveries above 0 and below 1, got {rate!r}")

    def report(state: State[Posterior]) -> dict[str, Any]:
        return {**summary(state, score), **facts}

    if select == "median":
        return Pruner(inference, score, keep_above=0.0, report=report)
    return Pruner(inference, score, decide=partial(discoveries, score=score, rate=rate), report=report)


def discoveries(state: State[Posterior], score: Callable[[State[Posterior]], Tensor], rate: float) -> Tensor:
    """The largest set of units whose expected share of false discoveries is at most `rate`; boolean, (units.n,)."""
    return false_discovery_selection(score(state).sigmoid(), rate)


def summary(state: State[Posterior], score: Callable[[State[Posterior]], Tensor]) -> dict[str, Any]:
    """The share of units that the posterior is in doubt about, and the PIP of every input feature of a small table.

    A network whose first layer is no linear layer has no such features.
    """
    return {"uncertain": uncertain_share(score(state)), **_features(state, score)}


def _features(state: State[Posterior], score: Callable[[State[Posterior]], Tensor]) -> dict[str, list[float]]:
    try:
        parts = feature_units(state.network)
    except UsageError:
        return {}
    if parts.n > FEATURES:
        return {}
    twin = replace(state, units=parts)
    twin.posterior = state.posterior
    return {"features": [round(pip, 4) for pip in score(twin).sigmoid().tolist()]}


def uncertain_share(log_odds: Tensor) -> float:
    """Share of units with a PIP strictly between 0.1 and 0.9: few, where the probabilities are bimodal."""
    pip = log_odds.sigmoid()
    return ((pip > 0.1) & (pip < 0.9)).double().mean().item()
