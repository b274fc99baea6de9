"""SS-GL and SS-GHS: nodes behind gates, whose weights share a scale under a group lasso or a group horseshoe.

Jantre, Bhattacharya, Maiti, "Spike-and-slab shrinkage priors for structurally sparse Bayesian neural networks", IEEE
Transactions on Neural Networks and Learning Systems 2024, arXiv 2308.09104. With k weights of a node, bias included, a
Laplace prior of all of them at once is N(0, s₁² τ) under τ ~ Γ((k + 1)/2, λ²/2); λ² is the layer's. A horseshoe has
τ² = τ0² (z0 v)/(z1 u) of half-Cauchy variables of the layer and the node, and weights are bounded by the slab c of the
layer. Both are fitted by log-normal factors, see `variational.gate_scales`.

Paper: jantre2024spike
Deviations: the divergence is tempered (`kl`) and rises over half of the training, gates learn faster than weights, and
    a node is in with a prior probability of 0.1: theirs is the whole of it from the start, at 1e-4 (`preset: authors`).
    A closed gate has its scale's prior for a posterior, so that φ multiplies the divergence of scales too. What leaves
    has φ < ½, not a gate that was closed in one draw; log odds stay below 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from ..architectures.units.slices import Group
from ..architectures.units.vector import Units
from ..datasets.examples import Examples
from .closed_forms.arguments import positive
from .closed_forms.lognormal import kl_to_gamma
from .closed_forms.spike_slab import logit
from .pip_gates import gate_log_odds
from .pruner import Pruner, register
from .scores.inclusion import pip_pruner
from .variational.gate_scales import ScaledIndicators
from .variational.gates import Gated
from .variational.horseshoe_prior import SLAB, group_horseshoe
from .variational.scale_factors import Factor, Scale

# Of λ², (shape, rate).
LAMBDA = (4.0, 2.0)
# The prior of nodes, the start of log odds and log σ, and the whole divergence from the first epoch on.
AUTHORS: Mapping[str, Any] = MappingProxyType(
    {"kl": 1.0, "warm_up": 0.0, "inclusion": 1e-4, "lr_factor": 1.0, "start": (logit(0.99), -6.0)}
)


@dataclass
class SpikeSlabGroupLasso(ScaledIndicators):
    """γ² = τ ~ Γ((k + 1)/2, rate λ²/2), λ² ~ Γ(4, 2): given λ, the k weights of a node are a multivariate Laplace."""

    def scale_prior(self, group: Group, weights: int) -> tuple[dict[str, Factor], Scale]:
        """τ of every node starts at 1, and λ² of the group where that is its mean; the rate of τ is a variable."""
        shape = (weights + 1) / 2
        penalty = Factor(torch.Size(), *LAMBDA, math.log(2 * shape))
        factors = {f"{group.name} λ²": penalty, group.name: Factor(torch.Size([group.size]), shape, math.nan)}
        return factors, Scale(1, 0.0, (group.name,), ())

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `ScaledIndicators`."""
        super().attach(network, units, train)
        first = (self.place == self.count).nonzero().squeeze(1)  # λ² comes before the τ that it is of
        self.penalties = first[(self.place == self.count).cumsum(0) - 1]

    def of_factors(self, means: Tensor, log_deviations: Tensor) -> Tensor:
        """KL of τ expected over λ²: at E[λ²]/2, and a (log E[λ²] - E[log λ²]), half the variance of log λ² times a."""
        mean, variance = means[self.penalties], (2 * log_deviations[self.penalties]).exp()
        of_scale = self.place < self.count
        rate = torch.where(of_scale, 0.5 * (mean + 0.5 * variance).exp(), self.b)
        return kl_to_gamma(means, log_deviations, self.a, rate) + 0.5 * self.a * variance * of_scale


@dataclass
class SpikeSlabGroupHorseshoe(ScaledIndicators):
    """γ² = c² τ² / (c² + τ²), τ² = τ0² (z0 v)/(z1 u), all Γ(½, 1), and c⁻² ~ Γ(2, 6) of the group.

    Attributes:
        scale: τ0.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("scale", self.scale)

    def scale_prior(self, group: Group, weights: int) -> tuple[dict[str, Factor], Scale]:
        """As `group_horseshoe`, with a slab."""
        factors, scale = group_horseshoe(group.name, group.size, self.scale)
        slab = f"{group.name} c"
        factors[slab] = Factor(torch.Size(), *SLAB, -math.log(3))
        return factors, Scale(1, scale.offset, scale.plus, scale.minus, slab)


@register("ss-gl")
def ss_gl(
    inclusion: float = 0.1, slab_variance: PositiveFloat = 1.0, kl: float = 0.02,
    warm_up: tuple[int, int] | float = 0.5, lr_factor: PositiveFloat = 5.0, start: tuple[float, float] = (3.0, -5.0),
    preset: Literal["authors"] | None = None,
) -> Pruner[Gated]:  # fmt: skip
    """Inclusion probability of nodes under a spike and a group lasso (SS-GL, Jantre, Bhattacharya, Maiti 2024).

    `preset: authors` has their prior of nodes, start, and whole divergence.

    Formula: PIP_j = φ_j,  w_j = z_j τ_j^½ ŵ_j,  τ_j ~ Γ((k + 1)/2, λ²/2);  stays if φ_j > ½
    Oracle: test_spike_slab_nodes.py::test_divergences_of_scales_are_quadratures,
        test_spike_slab_nodes.py::test_the_divergence_is_that_of_draws
    """
    given = {"kl": kl, "warm_up": warm_up, "inclusion": inclusion, "lr_factor": lr_factor, "start": start}
    return _nodes(SpikeSlabGroupLasso, given, preset, slab_variance=slab_variance)


@register("ss-ghs")
def ss_ghs(
    inclusion: float = 0.1, slab_variance: PositiveFloat = 1.0, scale: PositiveFloat = 1.0, kl: float = 0.02,
    warm_up: tuple[int, int] | float = 0.5, lr_factor: PositiveFloat = 5.0, start: tuple[float, float] = (3.0, -5.0),
    preset: Literal["authors"] | None = None,
) -> Pruner[Gated]:  # fmt: skip
    """Inclusion probability of nodes under a spike and a group horseshoe (SS-GHS, Jantre, Bhattacharya, Maiti 2024).

    `preset: authors` has their prior of nodes, start, and whole divergence.

    Formula: PIP_j = φ_j,  w_j = z_j γ_j ŵ_j,  γ_j² = c² τ_j² / (c² + τ_j²);  stays if φ_j > ½
    Oracle: test_spike_slab_nodes.py::test_divergences_of_scales_are_quadratures,
        test_spike_slab_nodes.py::test_the_divergence_is_that_of_draws
    """
    given = {"kl": kl, "warm_up": warm_up, "inclusion": inclusion, "lr_factor": lr_factor, "start": start}
    return _nodes(SpikeSlabGroupHorseshoe, given, preset, slab_variance=slab_variance, scale=scale)


def _nodes(kind: type[ScaledIndicators], given: Mapping[str, Any], preset: str | None, **prior: Any) -> Pruner[Gated]:
    training = dict(given if preset is None else AUTHORS)
    log_odds, log_sigma = training.pop("start")
    inference = partial(kind, log_odds_start=log_odds, log_sigma_start=log_sigma, **training, **prior)
    return pip_pruner(inference, gate_log_odds, features=None)  # gates of nodes say nothing of what these read
