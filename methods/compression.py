"""Bayesian compression: scales of structures, and weights as precise as they need to be.

Louizos, Ullrich, Welling, "Bayesian compression for deep learning", NIPS 2017, arXiv 1705.08665. A weight is w = z v,
where v ~ N(μ, σ²) has the prior N(0, 1). With a normal-Jeffreys prior, of a structure's scale z ~ N(μ_z, σ_z²) under
p(z) ∝ 1/|z| only α = σ_z²/μ_z² counts, and structures of more noise than signal leave. With a group horseshoe z is
log-normal, a half-Cauchy variable of the structure times one of all structures beside it, and those of small scales
leave. What is left of the noise says how many bits the weights are worth (`bits: true` of a matrix).

Paper: louizos2017bayesian
Deviations: one threshold for all layers, where theirs were set by hand for each; scales are where structures are read;
    the divergence is exact instead of a fit, and rises over half of the training; scales learn faster than weights
    (`lr_factor`); variances are not clipped; biases are points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..architectures.units.vector import Units
from ..datasets.errors import UsageError
from ..datasets.examples import Examples
from .closed_forms.lognormal import kl_to_gamma
from .horseshoe import split_at
from .pruner import Pruner, State, register
from .structured_dropout.factored import Ties
from .structured_dropout.groups import GroupVariationalDropout
from .structured_dropout.structures import combined
from .structured_dropout.worth import minus_log_alpha
from .variational.horseshoe_prior import HALF, group_horseshoe
from .variational.inference import equal_log_sigma, gradient
from .variational.scale_factors import LOG_SPREAD, by_factor, expanded

LOG_VARIANCE = -9.0  # of v before training (published code)
AUTHORS = 1.0, 0.0, 1.0  # weight and warm-up of the divergence, learning rate of scales over that of weights


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
        scales = self.by_structure(self.scales(generator))
        weights = {}
        for name, variance in self.variances().items():
            noise = torch.randn(variance.shape, generator=generator, dtype=variance.dtype).to(variance)
            weights[name] = self.unscaled[name] + variance.sqrt() * noise
        for structure in self.noisy:
            weights = combined(weights, structure.scaled, scales[structure.name], torch.mul)
        return weights

    def scales(self, generator: torch.Generator) -> Tensor:
        """One draw of z, (factors,)."""
        mean, log_sigma = self.factors
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean)
        return mean + self.alive * log_sigma.exp() * noise


@dataclass
class GroupHorseshoe(NormalJeffreys):
    """Scales of structures under a horseshoe prior, z_i² = τ0² (z0 v_i)/(z1 u_i) of log-normal factors.

    Attributes:
        scale: τ0, of the half-Cauchy variable that all structures of a group share.
    """

    scale: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale < float("inf"):
            raise UsageError(f"the scale τ0 must be positive and finite, got {self.scale!r}")

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `NormalJeffreys`; what is trained of the scales are m and log t of the factors' logs."""
        super().attach(network, units, train)
        priors = [group_horseshoe(s.name, s.size, self.scale) for s in self.noisy]
        self.variables = {name: factor for factors, _ in priors for name, factor in factors.items()}
        self.made_of = [scale for _, scale in priors]
        start = expanded(self.variables, lambda factor: factor.start, self.steps)
        self.origin = torch.stack([start, torch.full_like(start, LOG_SPREAD)])
        self.steps = nn.Parameter(torch.zeros_like(self.origin))

    @property
    def logs(self) -> Tensor:
        """m and log t of every factor's log, shape (2, F)."""
        return self.origin + self.lr_factor * self.steps

    @property
    def factors(self) -> Tensor:
        """E[z] and the log standard deviation of every scale z, shape (2, scales)."""
        means, log_deviations = self.logs
        m, t2 = by_factor(self.variables, means), by_factor(self.variables, (2 * log_deviations).exp())
        log = torch.cat([0.5 * scale.log_square(m) for scale in self.made_of])
        variance = torch.cat([0.25 * scale.log_variance(t2) for scale in self.made_of])
        log_mean = log + 0.5 * variance
        return torch.stack([log_mean.exp(), log_mean + 0.5 * variance.expm1().log()])

    def _of(self, logs: Tensor) -> Tensor:
        """z of a draw of the factors' logs (F,), shape (scales,)."""
        parts = by_factor(self.variables, logs)
        return torch.cat([scale.log(parts) for scale in self.made_of]).exp()

    def draw(self, examples: int, training: bool) -> Tensor:
        """z, shape (examples or 1, scales): drawn in training mode, else E[z]."""
        if not training:
            return super().draw(examples, training)
        mean, log_deviation = self.logs
        noise = mean.new_empty(examples if self.ties == "example" else 1, len(mean)).normal_()
        return torch.vmap(self._of)(mean + log_deviation.exp() * noise)

    def scales(self, generator: torch.Generator) -> Tensor:
        """One draw of z, (scales,)."""
        mean, log_deviation = self.logs
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean)
        return self._of(mean + log_deviation.exp() * noise)

    def divergence_of_factors(self) -> Tensor:
        """Σ KL from Gamma(½, 1) of the factors whose structures still scale something; a scalar, in nats."""
        mean, log_deviation = self.logs
        parts = self.by_structure(self.alive).values()
        counted = torch.cat([torch.cat([part.new_ones(2), part, part]) for part in parts])
        return (kl_to_gamma(mean, log_deviation, *HALF) * counted).sum()


@register("compression-gnj")
def compression_gnj(
    threshold: float = 0.0, kl: float = 1.0, warm_up: tuple[int, int] | float = 0.5, lr_factor: float = 10.0,
    start: float | None = None, ties: Ties = "example", preset: Literal["authors"] | None = None,
) -> Pruner[Any]:  # fmt: skip
    """Scales of structures by variational dropout, Gaussian weights behind them (Bayesian compression, Louizos 2017).

    `preset: authors` has the whole divergence from the first epoch on, and scales that learn as fast as weights.

    Formula: s_i = -log α_i,  α_i = σ_z²/μ_z²;  stays if α < 1;  penalty Σ KL(α_i) + Σ KL(N(μ, σ²) ‖ N(0, 1))
    Oracle: test_compression.py::test_the_divergence_is_a_quadrature,
        test_compression.py::test_products_have_the_moments_of_their_draws
    """
    if preset == "authors":
        kl, warm_up, lr_factor = AUTHORS
    inference = partial(NormalJeffreys, kl, warm_up, start=start, ties=ties, lr_factor=lr_factor)
    return Pruner(inference, noise_of_scales, keep_above=threshold)


@register("compression-ghs")
def compression_ghs(
    threshold: float | None = None, scale: float = 1e-5, kl: float = 1.0, warm_up: tuple[int, int] | float = 0.5,
    lr_factor: float = 10.0, start: float | None = None, ties: Ties = "example",
    preset: Literal["authors"] | None = None,
) -> Pruner[Any]:  # fmt: skip
    """Scales of structures under a group horseshoe, Gaussian weights behind them (Bayesian compression, Louizos 2017).

    `preset: authors` has the whole divergence from the first epoch on, and scales that learn as fast as weights.

    Formula: s_i = m_i - t_i² of log z_i ~ N(m_i, t_i²), the log of the mode;  stays above its layer's widest gap;
        penalty Σ KL(z0, z1, v_i, u_i ‖ Γ(½, 1)) + Σ KL(N(μ, σ²) ‖ N(0, 1)),  z_i² = τ0² (z0 v_i)/(z1 u_i)
    Deviations: the papers' thresholds, set by hand for each layer, are in the middle of the widest gap between modes
        unless one is given; scales are where structures are read; the divergence rises over half of the training;
        scales learn faster than weights (`lr_factor`); biases are points.
    Oracle: test_compression_horseshoe.py::test_the_divergence_is_a_quadrature,
        test_compression_horseshoe.py::test_scales_have_the_moments_of_their_draws
    """
    if preset == "authors":
        kl, warm_up, lr_factor = AUTHORS
    inference = partial(GroupHorseshoe, kl, warm_up, start=start, ties=ties, lr_factor=lr_factor, scale=scale)
    if threshold is None:
        return Pruner(inference, log_modes, decide=above_gaps)
    return Pruner(inference, log_modes, keep_above=threshold)


def log_modes(state: State[Any]) -> Tensor:
    """m - t² of structures' scales; of single weights log E[w]²/Var[w], as `noise_of_scales`; (units.n,)."""
    if not state.units.removable:
        return noise_of_scales(state)
    factors = state.posterior.factors
    modes = {name: _log_mode(mean, factors.precision[name]) for name, mean in factors.mean.items()}
    return torch.cat([modes[group.name] for group in state.units.groups])


def above_gaps(state: State[Any]) -> Tensor:
    """Structures above the widest gap between modes in their layer; weights of more signal than noise; (units.n,)."""
    scores = log_modes(state)
    if not state.units.removable:
        return scores > 0
    return torch.cat([part > split_at(part.unsqueeze(1)) for part in state.units.split(scores)])


def _log_mode(mean: Tensor, precision: Tensor) -> Tensor:
    """Of a log-normal variable: t² = log(1 + Var/E²), and its log has the mean log E - ½ t²."""
    return mean.log() - 1.5 * torch.log1p(1 / (precision * mean.square()))


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
