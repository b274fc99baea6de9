"""Truncated log-normal distributions: mass, divergence, moments and draws, in log space and float64.

θ > 0 is log-normal, truncated: x = log θ is normal with mean μ and scale s between the log bounds a and b. Its
standardised bounds are α = (a - μ) / s and β = (b - μ) / s, its mass Z = Φ(β) - Φ(α). With φ / Z, the hazards at
both bounds, everything here has a closed form, and so do all gradients; far outside of the bounds the hazards are
ratios of scaled error functions, because φ and Z underflow long before their ratio loses a digit. (Of the divergence,
digits are lost from about 10⁴ standard deviations outside.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.special import erfcx, log_ndtr, ndtri

# Beyond, s is 0 or infinite in effect: the whole range of x is 20 by default.
LOG_SIGMA_RANGE = (-20.0, 5.0)

_ROOT_HALF_PI = math.sqrt(math.pi / 2)
_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


def standardised(mu: Tensor, log_sigma: Tensor, a: float, b: float) -> tuple[Tensor, Tensor, Tensor]:
    """(s, α, β), float64; log s is clamped to LOG_SIGMA_RANGE."""
    s = log_sigma.double().clamp(*LOG_SIGMA_RANGE).exp()
    return s, (a - mu.double()) / s, (b - mu.double()) / s


def log_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Φ(high) - Φ(low)) for low < high, in either tail to full relative precision."""
    return _Mass.apply(low, high)[0]  # pyright: ignore[reportOptionalSubscript]


def log_mass_and_hazards(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Z with Z = Φ(high) - Φ(low), and φ(low) / Z, φ(high) / Z."""
    return _Mass.apply(low, high)  # pyright: ignore[reportReturnType]


class _Mass(torch.autograd.Function):
    """d log Z = h_b dβ - h_a dα; dh_b = -h_b (β + h_b) dβ + h_a h_b dα, and its mirror image."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = torch.broadcast_tensors(low, high)
        mirrored = low + high > 0
        far, near = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
        log_z, hazard_far, hazard_near = _mass_below(far, near)
        hazard_low = torch.where(mirrored, hazard_near, hazard_far)
        hazard_high = torch.where(mirrored, hazard_far, hazard_near)
        ctx.save_for_backward(low, high, hazard_low, hazard_high)
        return log_z, hazard_low, hazard_high

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        low, high, h_low, h_high = ctx.saved_tensors
        g_mass, g_low, g_high = gradients
        both = h_low * h_high
        to_low = -g_mass * h_low + g_low * h_low * (h_low - low) + g_high * both
        to_high = g_mass * h_high - g_high * h_high * (h_high + high) - g_low * both
        return to_low, to_high


def _mass_below(far: Tensor, near: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Z and the hazards where |near| <= |far|, far < 0: `near` is the bound closer to the mean, or beyond it."""
    inside = near > 0
    ratio = (0.5 * (near - far) * (near + far)).exp()  # φ(far) / φ(near)
    below = near.clamp_max(0)
    scaled = _ROOT_HALF_PI * (erfcx(-below / math.sqrt(2)) - erfcx(-far / math.sqrt(2)) * ratio)  # Z / φ(near)
    around = 0.5 * (torch.erf(near / math.sqrt(2)) - torch.erf(far / math.sqrt(2)))
    log_z = torch.where(inside, around.log(), scaled.log() - 0.5 * below.square() - _LOG_ROOT_2PI)
    density = (-0.5 * near.square() - _LOG_ROOT_2PI).exp()
    hazard = torch.where(inside, density / around, scaled.reciprocal())
    return log_z, hazard * ratio, hazard


def kl_to_loguniform(mu: Tensor, log_sigma: Tensor, *, a: float = -20.0, b: float = 0.0) -> Tensor:
    """KL(q‖p) in nats of the truncated log-normal q to the log-uniform p on the same bounds; elementwise.

    log(b - a) - ½ log(2πe) - log s - log Z - (α φ(α) - β φ(β)) / 2Z (Neklyudov et al. 2017, arXiv 1705.07283).
    """
    s, alpha, beta = standardised(mu, log_sigma, a, b)
    log_z, hazard_a, hazard_b = log_mass_and_hazards(alpha, beta)
    entropy = 0.5 + _LOG_ROOT_2PI + s.log() + log_z + 0.5 * (alpha * hazard_a - beta * hazard_b)
    return math.log(b - a) - entropy


def log_moment(mu: Tensor, log_sigma: Tensor, k: float, *, a: float = -20.0, b: float = 0.0) -> Tensor:
    """log E[θᵏ] = kμ + ½ k²s² + log(Φ(β - ks) - Φ(α - ks)) - log Z; elementwise."""
    s, alpha, beta = standardised(mu, log_sigma, a, b)
    tilted = log_mass(alpha - k * s, beta - k * s)
    return k * mu.double() + 0.5 * (k * s).square() + tilted - log_mass(alpha, beta)


def noise_mean(mu: Tensor, log_sigma: Tensor, *, a: float = -20.0, b: float = 0.0) -> Tensor:
    """E[θ]; elementwise."""
    return log_moment(mu, log_sigma, 1, a=a, b=b).exp()


# ---------------------------------------------------------------------- signal to noise

# Below these scales R is integrated, inside the bounds and from so many s outside: as a difference of logarithms it
# would keep few of its digits.
_SMALL, _SMALL_OUTSIDE, _OUTSIDE = 0.02, 0.3, 3.0
# With so many standard deviations between the bounds, only the nearer one shapes the distribution.
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
    first, second = (log_mass(alpha - k * s, beta - k * s) for k in (1, 2))
    ratio = s.square() + second + log_mass(alpha, beta) - 2 * first
    outside = torch.maximum(alpha, -beta) > _OUTSIDE
    small = (s < torch.where(outside, _SMALL_OUTSIDE, _SMALL)) & (s * _APART < b - a)
    if bool(small.any()):
        ratio = ratio.masked_scatter(small, _integrated(s[small], alpha[small], beta[small]))
    return ratio.expm1().rsqrt()


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
    """
    near, far = t.clamp(-12, _TAIL), t.clamp_min(_TAIL)
    hazard = 1 / (_ROOT_HALF_PI * erfcx(near / math.sqrt(2)))
    epsilon = torch.zeros_like(far)
    for level in range(_LEVELS, 1, -1):
        epsilon = level / (far + epsilon)
    delta = 1 / (far + epsilon)
    return torch.where(t < _TAIL, 1 - hazard * (hazard - near), delta * (epsilon - delta))


# ---------------------------------------------------------------------- draws

# Lower-tail probabilities end at Φ(-37.5) in float64, at Φ(-13) in float32.
_UNDERFLOW = {torch.float64: -30.0, torch.float32: -10.0}


def draw(mu: Tensor, log_sigma: Tensor, uniform: Tensor, *, a: float = -20.0, b: float = 0.0) -> Tensor:
    """θ, one draw for every number of `uniform` in [0, 1), whose last axes are those of μ; in the dtype of `uniform`.

    Differentiable in μ and log s by implicit reparametrisation (Figurnov et al., NeurIPS 2018, arXiv 1805.08498).
    What is computed for each draw is computed in the dtype of `uniform`, float32 or float64; the rest in float64.
    """
    s, alpha, beta = standardised(mu, log_sigma, a, b)
    theta: Tensor = _Draw.apply(s, alpha, beta, uniform, a, b)  # pyright: ignore[reportAssignmentType]
    return theta


class _Draw(torch.autograd.Function):
    """exp(μ + s z) with Φ(z) = (1 - u) Φ(α) + u Φ(β), so that dz = ((1 - u) φ(α) dα + u φ(β) dβ) / φ(z).

    Where the nearer bound is α, everything is computed for -z, and u counts from the other end. What is kept of z is
    w, its distance from the nearer bound: x is that bound plus s w, and far outside w is all that z adds to it.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, low: Tensor, high: Tensor, uniform: Tensor, a: float, b: float) -> Tensor:
        mirrored = low + high > 0
        far, near = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
        u = uniform.clamp_min(0.5 * torch.finfo(uniform.dtype).eps)  # at 0, a derivative is 0 times infinity
        w = _below_near(far, near, u)
        signed = torch.where(mirrored, -s, s)
        theta = torch.addcmul(torch.where(mirrored, near.new_tensor(a), b).to(u), w, signed.to(u)).exp_()
        ctx.save_for_backward(mirrored, signed, far, near, u, w, theta)
        return theta

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        mirrored, signed, far, near, u, w, theta = ctx.saved_tensors
        to_x = gradients[0] * theta
        density = torch.addcmul(near.to(w), w, w.new_tensor(0.5)).mul_(w).exp_().mul_(to_x)  # φ(near) / φ(z)
        plain, distance, both, nearer = (
            value.sum_to_size(near.shape).double() for value in (to_x, to_x * w, density, density * u)
        )
        ratio = (0.5 * (near - far) * (near + far)).exp()
        to_near, to_far = signed * (nearer - plain), signed * ratio * (both - nearer)
        to_low, to_high = torch.where(mirrored, -to_near, to_far), torch.where(mirrored, -to_far, to_near)
        return torch.where(mirrored, -distance, distance), to_low, to_high, None, None, None


def _below_near(far: Tensor, near: Tensor, u: Tensor) -> Tensor:
    """z - near with Φ(z) = (1 - u) Φ(far) + u Φ(near), where |near| <= |far| and far < 0."""
    p_far, p_near = (0.5 * torch.erfc(-bound / math.sqrt(2)) for bound in (far, near))  # torch.special.ndtr is 0 at -9
    w = ndtri(torch.addcmul(p_far.to(u), u, (p_near - p_far).to(u))) - near.to(u)
    tail = near < _UNDERFLOW[u.dtype]
    if bool(tail.any()):
        w = torch.where(tail, _below_tail(far, near.clamp_max(_UNDERFLOW[u.dtype]), u.double()).to(u), w)
    return w.clamp_((far - near).to(u), torch.zeros_like(near).to(u))


def _below_tail(far: Tensor, near: Tensor, u: Tensor) -> Tensor:
    """The same far in the tail: Newton's method on log Φ(z) = log Φ(near) + log v, from the leading term, -½ z²."""
    log_v = (u + (1 - u) * (log_ndtr(far) - log_ndtr(near)).exp()).log()
    w = 2 * log_v / ((near.square() - 2 * log_v).sqrt() - near)  # -√(near² - 2 log v) - near
    for _ in range(3):
        z = near + w
        scaled = erfcx(-z / math.sqrt(2))  # log Φ(z) - log Φ(near), without what both have in common
        excess = (scaled / erfcx(-near / math.sqrt(2))).log() - w * (near + 0.5 * w) - log_v
        w = w - excess * _ROOT_HALF_PI * scaled
    return w
