"""Horseshoe inference on rows of weights, and on single weights: shrinkage learned by variational inference.

Ghosh, Yao, Doshi-Velez, ICML 2018 (arXiv 1806.05975), in the mean-field form to which Marković, Friston, Kiebel
(arXiv 2309.12095) compare model reduction: w_ij = γ_i ŵ_ij with the scales of `horseshoe_prior`.

Formula: w_ij = γ_i ŵ_ij,  γ_i² = τ² λ_i² c² / (c² + τ² λ_i²)
Paper: ghosh2018structured, markovic2023bayesian
Deviations: the papers prune by hand-picked thresholds or not at all; the rules `bmr`, `kappa`, `row` and `snr` are
    this suite's. The divergence is tempered (`kl`), as the whole one runs away from few data (`preset: authors`).
Oracle: test_horseshoe.py::test_moments_of_scales_are_two_dimensional_integrals,
    test_horseshoe.py::test_the_divergence_from_a_gamma_prior_is_the_integral
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from ..architectures.units.prunable import held_transposed
from ..datasets.errors import UsageError
from .closed_forms.posteriors import Scaled
from .pruner import Pruner, State, register
from .reduction.decision import Population, kept, present, summary
from .scores.signal_to_noise import log_signal
from .variational.horseshoe_prior import horseshoe_prior
from .variational.noncentred import Initial, NonCentred
from .variational.scale_factors import Layer, Prior
from .variational.weight_noise import Draws

SHRINKAGE = 0.5
SIGNAL = 1.0

# As Marković et al. train it: all of the divergence from the start, one draw for a batch, uniform initial means.
AUTHORS: Mapping[str, Any] = MappingProxyType({"kl": 1.0, "warm_up": 0.0, "draws": "minibatch", "initial": "uniform"})

ShrinkageRule = Literal["bmr", "kappa", "row", "snr"]


@dataclass
class Horseshoe(NonCentred):
    """The regularised horseshoe over rows, and over single weights if `local`.

    Attributes:
        scale: τ0, of hidden layers.
        local: whether each weight of a hidden layer has a scale of its own too.
    """

    scale: float = 1e-2
    local: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < float("inf"):
            raise UsageError(f"the scale τ0 must be positive and finite, got {self.scale!r}")

    def layer_prior(self, layer: Layer) -> Prior:
        """As `horseshoe_prior`."""
        return horseshoe_prior(layer, self.scale, self.local)


# ---------------------------------------------------------------------- what leaves


def signal_to_noise(state: State[Scaled]) -> Tensor:
    """log E[w]² - log Var[w]; of units of several weights, of the sums of both; shape (units.n,)."""
    return log_signal(state.units, state.posterior.weights(), torch.finfo(torch.float64).tiny)


def shrunk(state: State[Scaled]) -> Tensor:
    """Units whose shrinkage factors κ = 1 / (1 + γ² h) = s² exceed ½ on average; boolean, (units.n,)."""
    return state.units.gather({name: v - SHRINKAGE for name, v in state.posterior.variance.items()}) > 0


def small_rows(state: State[Scaled]) -> Tensor:
    """Units whose log scales lie, on average, below the widest gap among those of their layer's rows; (units.n,)."""
    logs = {name: log for name, log in state.posterior.log_scale.items() if log.dim() > 1}
    held = {name: held_transposed(state.network, name) for name in logs}
    distances = {name: split_at(log.mT if held[name] else log) - log for name, log in logs.items()}
    return state.units.gather(distances) > 0


def split_at(log_scale: Tensor) -> Tensor:
    """The middle of the widest gap between rows' E[log γ], sorted; below all where they are equal.

    A scalar, in nats.
    """
    rows = log_scale.flatten(1).mean(1).sort().values
    if len(rows) < 2 or not (gaps := rows.diff()).max() > 0:
        return rows[0] - 1
    at = gaps.argmax()
    return rows[at] + gaps[at] / 2


def noisy(state: State[Scaled]) -> Tensor:
    """Units with |E w| below the standard deviation of w; boolean, (units.n,)."""
    return signal_to_noise(state) < 2 * math.log(SIGNAL)


REMOVED: dict[str, Callable[[State[Scaled]], Tensor]] = {"kappa": shrunk, "row": small_rows, "snr": noisy}


def _kept(state: State[Scaled], rule: str) -> Tensor:
    return ~REMOVED[rule](state)


# ---------------------------------------------------------------------- the methods


@register("horseshoe")
def horseshoe(
    rule: ShrinkageRule = "bmr", scale: float = 1e-2, kl: float = 0.1, warm_up: tuple[int, int] | float = 0.5,
    initial: Initial = "network", draws: Draws = "local", population: Population = "live",
    preset: Literal["authors"] | None = None,
) -> Pruner[Scaled]:  # fmt: skip
    """Regularised horseshoe over rows of weights (Ghosh et al. 2018); the rules that prune by it are this suite's.

    `preset: authors` trains it as Marković et al. (2024) do.
    """
    return _pruner(
        rule, population, preset, kl=kl, warm_up=warm_up, draws=draws, initial=initial, scale=scale, local=False
    )


@register("local-horseshoe")
def local_horseshoe(
    rule: ShrinkageRule = "bmr", scale: float = 1e-2, kl: float = 0.1, warm_up: tuple[int, int] | float = 0.5,
    initial: Initial = "network", draws: Draws = "local", population: Population = "live",
    preset: Literal["authors"] | None = None,
) -> Pruner[Scaled]:  # fmt: skip
    """Regularised horseshoe with scales of rows and of single weights; the rules that prune by it are this suite's.

    `preset: authors` trains it as Marković et al. (2024) do.

    Formula: w_ij = γ_i γ_ij ŵ_ij, the scales of rows and of weights half-Cauchy
    """
    return _pruner(
        rule, population, preset, kl=kl, warm_up=warm_up, draws=draws, initial=initial, scale=scale, local=True
    )


def _pruner(rule: str, population: Population, preset: str | None, **options: Any) -> Pruner[Scaled]:
    inference = partial(Horseshoe, **({**options, **AUTHORS} if preset == "authors" else options))
    if rule == "bmr":
        told = {"rule": "vb4", "population": population}
        return Pruner(inference, signal_to_noise, decide=partial(kept, **told), report=partial(summary, **told))
    return Pruner(inference, signal_to_noise, decide=partial(_kept, rule=rule), report=partial(shares, rule=rule))


def shares(state: State[Scaled], rule: str) -> dict[str, object]:
    """The share of present units that leave by the rule, and the effective number of weights Σ (1 - κ)."""
    effective = sum((1 - v).clamp_min(0).sum().item() for v in state.posterior.variance.values())
    return {"pruned": REMOVED[rule](state)[present(state)].double().mean().item(), "effective": effective, "rule": rule}
