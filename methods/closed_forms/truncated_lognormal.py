"""Truncated log-normal distributions: mass, divergence and moments, in log space and float64.

θ > 0 is log-normal, truncated: x = log θ is normal with mean μ and scale s between the log bounds a and b. Its
standardised bounds are α = (a - μ) / s and β = (b - μ) / s, its mass Z = Φ(β) - Φ(α). With φ / Z, the hazards at
both bounds, everything here has a closed form, and so do all gradients; far outside of the bounds the hazards are
ratios of scaled error functions, because φ and Z underflow long before their ratio loses a digit. (Of the divergence,
digits are lost from about 10⁴ standard deviations outside.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.special import erfcx

# Beyond, s is 0 or infinite in effect: the whole range of x is 20 by default.
LOG_SIGMA_RANGE = (-20.0, 5.0)

# From here on, both bounds being below the mean, or above it, differences of Φ lose digits.
_OUTSIDE = -2.0

_ROOT_HALF_PI = math.sqrt(math.pi / 2)
_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


def standardised(mu: Tensor, log_sigma: Tensor, a: float, b: float) -> tuple[Tensor, Tensor, Tensor]:
    """(s, α, β), float64; log s is clamped to LOG_SIGMA_RANGE."""
    s = log_sigma.double().clamp(*LOG_SIGMA_RANGE).exp()
    return s, (a - mu.double()) / s, (b - mu.double()) / s


def log_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Φ(high) - Φ(low)) for low < high, in either tail to full relative precision; elementwise."""
    return _LogMass.apply(low, high)  # pyright: ignore[reportReturnType]


class _LogMass(torch.autograd.Function):
    """d log Z = h_b dβ - h_a dα, with h the hazards φ / Z."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(low, high)
        far, near = folded(*torch.broadcast_tensors(low, high))
        outside = near < _OUTSIDE
        return _piecewise(outside, _log_mass_outside, lambda far, near: _mass(far, near).log(), far, near)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hazard_low, hazard_high = hazards(*torch.broadcast_tensors(*ctx.saved_tensors))
        return -gradients[0] * hazard_low, gradients[0] * hazard_high


def hazards(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """φ(low) / Z and φ(high) / Z, Z = Φ(high) - Φ(low), in either tail to full relative precision; no gradients.

    Elementwise.
    """
    far, near = folded(low, high)
    hazard_near = _piecewise(near < _OUTSIDE, _hazard_outside, _hazard, far, near)
    hazard_far = hazard_near * density_ratio(far, near)
    mirrored = low + high > 0
    return torch.where(mirrored, hazard_near, hazard_far), torch.where(mirrored, hazard_far, hazard_near)


def folded(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The farther bound from the mean and the nearer one, reflected so that the farther one is below it.

    Elementwise.
    """
    return torch.minimum(low, -high), torch.minimum(high, -low)


def _piecewise(where: Tensor, one: Callable[..., Tensor], other: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """`one` where `where`, elsewhere `other`, each computed at its own places only."""
    count = int(where.sum())
    if count in (0, where.numel()):
        return (one if count else other)(*values)
    found = torch.empty_like(values[0]).flatten()
    for chosen, function in ((where, one), (~where, other)):
        index = chosen.flatten().nonzero().squeeze(1)
        found = found.index_copy(0, index, function(*(value.flatten()[index] for value in values)))
    return found.view(where.shape)


def _mass(far: Tensor, near: Tensor) -> Tensor:
    return 0.5 * (torch.erf(near / math.sqrt(2)) - torch.erf(far / math.sqrt(2)))


def _scaled_mass(far: Tensor, near: Tensor) -> Tensor:
    """Z / φ(near), which does not underflow."""
    outside = erfcx(-far / math.sqrt(2)) * density_ratio(far, near)
    return _ROOT_HALF_PI * (erfcx(-near / math.sqrt(2)) - outside)


def density_ratio(far: Tensor, near: Tensor) -> Tensor:
    """φ(far) / φ(near); elementwise."""
    return (0.5 * (near - far) * (near + far)).exp()


def _log_mass_outside(far: Tensor, near: Tensor) -> Tensor:
    return _scaled_mass(far, near).log() - 0.5 * near.square() - _LOG_ROOT_2PI


def _hazard(far: Tensor, near: Tensor) -> Tensor:
    return (-0.5 * near.square() - _LOG_ROOT_2PI).exp() / _mass(far, near)


def _hazard_outside(far: Tensor, near: Tensor) -> Tensor:
    return _scaled_mass(far, near).reciprocal()


def kl_to_loguniform(mu: Tensor, log_sigma: Tensor, *, a: float = -20.0, b: float = 0.0) -> Tensor:
    """KL(q‖p) in nats of the truncated log-normal q to the log-uniform p on the same bounds; elementwise.

    log(b - a) - ½ log(2πe) - log s - log Z - (α φ(α) - β φ(β)) / 2Z (Neklyudov et al. 2017, arXiv 1705.07283).
    """
    return _Divergence.apply(mu, log_sigma, a, b)  # pyright: ignore[reportReturnType]


class _Divergence(torch.autograd.Function):
    """One node with its derivatives in closed form, where a graph would have sixty."""

    @staticmethod
    def forward(ctx: Any, mu: Tensor, log_sigma: Tensor, a: float, b: float) -> Tensor:
        ctx.save_for_backward(mu, log_sigma)
        ctx.bounds = a, b
        s, alpha, beta = standardised(mu, log_sigma, a, b)
        hazard_a, hazard_b = hazards(alpha, beta)
        entropy = 0.5 + _LOG_ROOT_2PI + s.log() + log_mass(alpha, beta) + 0.5 * (alpha * hazard_a - beta * hazard_b)
        return math.log(b - a) - entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        to_mu, to_log_sigma = kl_gradient(*ctx.saved_tensors, *ctx.bounds)
        return gradients[0] * to_mu, gradients[0] * to_log_sigma, None, None


def kl_gradient(mu: Tensor, log_sigma: Tensor, a: float, b: float) -> tuple[Tensor, Tensor]:
    """Derivatives of `kl_to_loguniform` in μ and log s.

    With h the hazards and D = α h_a - β h_b, ∂KL/∂α = ½ h_a (1 + α² - D) and ∂KL/∂β = -½ h_b (1 + β² - D).
    """
    s, alpha, beta = standardised(mu, log_sigma, a, b)
    hazard_a, hazard_b = hazards(alpha, beta)
    rest = 1 - alpha * hazard_a + beta * hazard_b
    to_alpha = 0.5 * hazard_a * (rest + alpha.square())
    to_beta = -0.5 * hazard_b * (rest + beta.square())
    return -(to_alpha + to_beta) / s, where_free(log_sigma, -1 - alpha * to_alpha - beta * to_beta)


def where_free(log_sigma: Tensor, derivative: Tensor) -> Tensor:
    """A derivative in log s, which is 0 where log s is clamped; elementwise."""
    return derivative * ((log_sigma >= LOG_SIGMA_RANGE[0]) & (log_sigma <= LOG_SIGMA_RANGE[1]))


def log_moment(mu: Tensor, log_sigma: Tensor, k: float, *, a: float = -20.0, b: float = 0.0) -> Tensor:
    """log E[θᵏ] = kμ + ½ k²s² + log(Φ(β - ks) - Φ(α - ks)) - log Z; elementwise."""
    s, alpha, beta = standardised(mu, log_sigma, a, b)
    tilted = log_mass(alpha - k * s, beta - k * s)
    return k * mu.double() + 0.5 * (k * s).square() + tilted - log_mass(alpha, beta)


def noise_mean(mu: Tensor, log_sigma: Tensor, *, a: float = -20.0, b: float = 0.0) -> Tensor:
    """E[θ]; elementwise."""
    return log_moment(mu, log_sigma, 1, a=a, b=b).exp()


# ---------------------------------------------------------------------- signal to noise

# Below these scales R is integrated, inside the bounds and from this many s outside: as a difference of logarithms it
# would keep few of its digits.
_SMALL, _SMALL_BEYOND, _BEYOND = 0.02, 0.3, 3.0
# With this many standard deviations between the bounds, only the nearer one shapes the distribution.
_APART = 40.0
# From here on, the variance of a normal's tail is computed by its continued fraction, 16 levels of it.
_TAIL = 8.0
_LEVELS = 16


def noise_snr(mu: Tensor, log_sigma: Tensor, *, a: float = -20.0, b: float = 0.0) -> Tensor:
    """E[θ] / √Var[θ] = 1 / √(exp(R) - 1), R = log E[θ²] - 2 log E[θ]; elementwise.

    With κ(k) = log E[θᵏ], R is the second difference of κ. For large s it is taken as such, with μ cancelled by
    hand; for small s, R = ∫₀² (1 - |k - 1|) κ''(k) dk, κ''(k) being s² times the variance of a standard normal
    between α - ks and β - ks: a sum of positive terms.
    """
    s, alpha, beta = standardised(mu, log_sigma, a, b)
    beyond = torch.maximum(alpha, -beta) > _BEYOND
    small = (s < torch.where(beyond, _SMALL_BEYOND, _SMALL)) & (s * _APART < b - a)
    return _piecewise(small, _integrated, _differences, s, alpha, beta).expm1().rsqrt()


def _differences(s: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """R for large s."""
    first, second = (log_mass(alpha - k * s, beta - k * s) for k in (1, 2))
    return s.square() + second + log_mass(alpha, beta) - 2 * first


def _integrated(s: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """R for small s, the bounds being far apart."""
    nodes, weights = _TRIANGLE
    total = torch.zeros_like(s)
    for k, weight in zip(nodes, weights, strict=True):
        total = total + weight * tail_variance(torch.maximum(alpha - k * s, k * s - beta))
    return s.square() * total


def _triangle(points: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of a Gauss-Legendre rule for ∫₀² (1 - |k - 1|) f(k) dk, `points` on each half."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    rise = 0.5 * (nodes + 1)
    return [*rise, *(2 - rise)], [*(0.5 * weights * rise)] * 2


_TRIANGLE = _triangle(4)


def tail_variance(t: Tensor) -> Tensor:
    """Variance of a standard normal above t.

    1 - h (h - t), with h = φ(t) / Φ(-t) = t + 1/(t + 2/(t + 3/(t + ...))) (Laplace). With δ = h - t = 1/(t + ε) it
    is also δ (ε - δ), which keeps its digits where h (h - t) is nearly 1.

    Elementwise.
    """
    return _piecewise(t < _TAIL, _variance_above, _variance_far_above, t)


def _variance_above(t: Tensor) -> Tensor:
    t = t.clamp_min(-12)
    hazard = 1 / (_ROOT_HALF_PI * erfcx(t / math.sqrt(2)))
    return 1 - hazard * (hazard - t)


def _variance_far_above(t: Tensor) -> Tensor:
    epsilon = torch.zeros_like(t)
    for level in range(_LEVELS, 1, -1):
        epsilon = level / (t + epsilon)
    delta = 1 / (t + epsilon)
    return delta * (epsilon - delta)
