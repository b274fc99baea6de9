"""Bayesian compression with a normal-Jeffreys prior: scales of structures, and weights as precise as they need to be.

Louizos, Ullrich, Welling, "Bayesian compression for deep learning", NIPS 2017, arXiv 1705.08665. A weight is w = z v:
of a structure's scale z ~ N(μ_z, σ_z²) under p(z) ∝ 1/|z| only α = σ_z²/μ_z² counts; v ~ N(μ, σ²) has the prior
N(0, 1). Structures of more noise than signal leave. What is left of the noise says how many bits the weights are worth
(`bits: true` of a matrix).

Formula: s_i = -log α_i,  α_i = σ_z²/μ_z²;  stays if α < 1;  penalty Σ KL(α_i) + Σ KL(N(μ, σ²) ‖ N(0, 1))
Paper: louizos2017bayesian
Deviations: one threshold for all layers, where theirs were set by hand for each; scales are where structures are read;
    the divergence is exact instead of a fit, and rises over half of the training; scales learn faster than weights
    (`lr_factor`); variances are not clipped; biases are points.
Oracle: test_compression.py::test_the_divergence_is_a_quadrature,
    test_compression.py::test_products_have_the_moments_of_their_draws
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .pruner import Pruner, State, register
from .structured_dropout.factored import Ties
from .structured_dropout.groups import GroupVariationalDropout
from .structured_dropout.structures import combined
from .structured_dropout.worth import minus_log_alpha
from .variational.inference import equal_log_sigma, gradient

LOG_VARIANCE = -9.0  # of v before training (published code)


@dataclass
class NormalJeffreys(GroupVariationalDropout):
    """Scales of structures under a log-uniform prior, and Gaussian weights under N(0, 1); `start` is log σ²."""

    def initial_log_sigma(self, network: nn.Module) -> Tensor:
        """The same for all; shape (P,)."""
        start = LOG_VARIANCE if self.start is None else self.start
        return equal_log_sigma(self.named_weights(network), 0.5 * start)

    def divergence(self, network: nn.Module) -> Tensor:
        """Σ ½ (μ² + σ² - 1) - log σ of the weights, and KL(α) of the scales; a scalar, in nats."""
        mean, log_sigma = self.flat_mean(network), self.log_sigma
        spread = 0.5 * (mean.square() + (2 * log_sigma).exp() - 1) - log_sigma
        return self._of_present(spread).sum() + self.divergence_of_factors()

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """In closed form for the weights, from the variance of the forward pass of the very step."""
        if not (weighted := scale * self.beta):
            return lambda: None
        parameters = [network.get_parameter(name) for name in self.names]

        def add() -> None:
            with torch.no_grad():
                for parameter in parameters:
                    gradient(parameter).add_(parameter, alpha=weighted)
                present = 1.0 if self.present is None else self.present
                gradient(self.log_sigma).add_(self.variance - present, alpha=weighted)
            (weighted * self.divergence_of_factors()).backward()

        return add

    @torch.no_grad()
    def detach(self, network: nn.Module) -> None:
        """The network keeps μ_z μ; draws are made around μ."""
        self.unscaled = {name: weight.detach().clone() for name, weight in self.named_weights(network).items()}
        super().detach(network)

    @torch.no_grad()
    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of z v, by name."""
        mean, log_sigma = self.factors
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean)
        scales = self.by_structure(mean + self.alive * log_sigma.exp() * noise)
        weights = {}
        for name, variance in self.variances().items():
            noise = torch.randn(variance.shape, generator=generator, dtype=variance.dtype).to(variance)
            weights[name] = self.unscaled[name] + variance.sqrt() * noise
        for structure in self.noisy:
            weights = combined(weights, structure.scaled, scales[structure.name], torch.mul)
        return weights


@register("compression-gnj")
def compression_gnj(
    threshold: float = 0.0, kl: float = 1.0, warm_up: tuple[int, int] | float = 0.5, lr_factor: float = 10.0,
    start: float | None = None, ties: Ties = "example", preset: Literal["authors"] | None = None,
) -> Pruner[Any]:  # fmt: skip
    """Scales of structures by variational dropout, Gaussian weights behind them (Bayesian compression, Louizos 2017).

    `preset: authors` has the whole divergence from the first epoch on, and scales that learn as fast as weights.
    """
    if preset == "authors":
        kl, warm_up, lr_factor = 1.0, 0.0, 1.0
    inference = partial(NormalJeffreys, kl, warm_up, start=start, ties=ties, lr_factor=lr_factor)
    return Pruner(inference, noise_of_scales, keep_above=threshold)


def noise_of_scales(state: State[Any]) -> Tensor:
    """-log α of structures; of single weights log E[w]²/Var[w], α_w = α + α_z + α α_z; (units.n,)."""
    posterior = state.posterior
    factors = minus_log_alpha(posterior.factors)
    if state.units.removable:
        return torch.cat([factors[group.name] for group in state.units.groups])
    worth = minus_log_alpha(posterior)
    for structure in posterior.structures:
        worth = combined(worth, structure.scaled, factors[structure.name], _of_product)
    return torch.cat([worth[group.name].flatten() for group in state.units.groups])


def _of_product(one: Tensor, other: Tensor) -> Tensor:
    return -torch.logaddexp(torch.logaddexp(-one, -other), -one - other)
