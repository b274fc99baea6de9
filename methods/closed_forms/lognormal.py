"""Log-normal posteriors of positive variables under Gamma priors, and of the scales that they make up.

With y = log x ~ N(m, t²) and the prior x ~ Gamma(a, rate b),

    KL = - ln t - ½ ln 2πe - a m - a ln b + ln Γ(a) + b exp(m + t²/2)

in nats (Louizos, Ullrich, Welling, "Bayesian compression for deep learning", NIPS 2017, arXiv 1705.08665, use it with
the ratio of two Gamma(½) variables, the square of a half-Cauchy one).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .quadrature import hermite

# Nodes of the quadrature over one Gaussian; 1e-8 relative where its standard deviation is below 3.
NODES = 32


def kl_to_gamma(mean: Tensor, log_deviation: Tensor, shape: Tensor | float, rate: Tensor | float) -> Tensor:
    """KL(LogNormal(m, t²) ‖ Gamma(a, b)) from m and log t, elementwise, in nats."""
    a, b = (torch.as_tensor(v, dtype=mean.dtype, device=mean.device) for v in (shape, rate))
    constant = torch.lgamma(a) - a * b.log() - 0.5 * math.log(2 * math.pi * math.e)
    return constant - log_deviation - a * mean + b * _expected(mean, log_deviation)


def kl_gradients(
    mean: Tensor, log_deviation: Tensor, shape: Tensor | float, rate: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Derivatives of `kl_to_gamma` in m and in log t: b E[x] - a, and t² b E[x] - 1; elementwise."""
    expected = rate * _expected(mean, log_deviation)
    return expected - shape, (2 * log_deviation).exp() * expected - 1


def _expected(mean: Tensor, log_deviation: Tensor) -> Tensor:
    return (mean + 0.5 * (2 * log_deviation).exp()).exp()


def regularised(log_square: Tensor, log_inverse_slab: Tensor | None) -> Tensor:
    """log γ of γ² = c²τ² / (c² + τ²), from log τ² and log c⁻²; without a slab c is infinite; elementwise."""
    if log_inverse_slab is None:
        return 0.5 * log_square
    return -0.5 * torch.logaddexp(-log_square, log_inverse_slab)


@dataclass(frozen=True)
class Moments:
    """E[log γ], E[γ] and E[γ²] of positive scales, in one shape."""

    log: Tensor
    mean: Tensor
    square: Tensor


def moments(mean: Tensor, variance: Tensor, slab: tuple[Tensor, Tensor] | None = None) -> Moments:
    """Of γ, where log τ² ~ N(mean, variance) and log c⁻² ~ N(slab), independently; see `regularised`.

    With d = log τ² + log c⁻², γ² is τ² / (1 + e^d), and log τ² given d is Gaussian again: what is
    left is one Gaussian integral over d, by Gauss-Hermite quadrature.
    """
    if slab is None:
        return Moments(0.5 * mean, (0.5 * mean + variance / 8).exp(), (mean + 0.5 * variance).exp())
    return _with_slab(*torch.broadcast_tensors(mean, variance, *slab))


def _with_slab(a: Tensor, a_variance: Tensor, b: Tensor, b_variance: Tensor) -> Moments:
    total = a_variance + b_variance
    share = a_variance / total
    rest = a_variance * (1 - share)  # Var[log τ² | d]
    log, mean, square = (torch.zeros_like(a) for _ in range(3))
    for node, weight in hermite(NODES):
        step = total.sqrt() * node
        given, damping = a + share * step, torch.nn.functional.softplus(a + b + step)
        log.add_(0.5 * (given - damping), alpha=weight)
        mean.add_((0.5 * (given - damping) + rest / 8).exp(), alpha=weight)
        square.add_((given - damping + 0.5 * rest).exp(), alpha=weight)
    return Moments(log, mean, square)
