"""Draws from truncated log-normal distributions, with gradients, at the speed of single precision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.special import erfcx, log_ndtr, ndtri

from .truncated_lognormal import density_ratio, folded, standardised, where_free

_ROOT_HALF_PI = math.sqrt(math.pi / 2)

# Where both bounds are so far below the mean, the argument of the inverse error function is next to -1...
_NEAR = -3.0
# ...and from here on, lower-tail probabilities underflow: they end at Φ(-37.5) in float64, at Φ(-13) in float32.
_UNDERFLOW = {torch.float64: -30.0, torch.float32: -10.0}


def draw(mu: Tensor, log_sigma: Tensor, uniform: Tensor, *, a: float = -20.0, b: float = 0.0) -> Tensor:
    """θ, one draw for every number of `uniform` in [0, 1), whose last axes are those of μ; in the dtype of `uniform`.

    Differentiable in μ and log s by implicit reparametrisation (Figurnov et al., NeurIPS 2018, arXiv 1805.08498).
    What is computed for each draw is computed in the dtype of `uniform`, float32 or float64; the rest in float64.
    """
    return _Draw.apply(mu, log_sigma, uniform, a, b)  # pyright: ignore[reportReturnType]


class _Draw(torch.autograd.Function):
    """exp(μ + s z) with Φ(z) = (1 - u) Φ(α) + u Φ(β), so that dz = ((1 - u) φ(α) dα + u φ(β) dβ) / φ(z).

    Where the nearer bound is α, everything is computed for -z, and u counts from the other end. What is kept of z is
    w, its distance from the nearer bound: x is that bound plus s w, and far outside w is all that z adds to it.
    """

    @staticmethod
    def forward(ctx: Any, mu: Tensor, log_sigma: Tensor, uniform: Tensor, a: float, b: float) -> Tensor:
        s, low, high = standardised(mu, log_sigma, a, b)
        mirrored = low + high > 0
        far, near = folded(low, high)
        w = _below_near(far, near, uniform)
        signed = torch.where(mirrored, -s, s)
        theta = torch.addcmul(torch.where(mirrored, a, b).to(w), w, signed.to(w)).exp_()
        ctx.save_for_backward(log_sigma, signed, far, near, uniform, w, theta)
        return theta

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        log_sigma, signed, far, near, u, w, theta = ctx.saved_tensors
        to_x = gradients[0] * theta
        density = torch.add(near.to(w), w, alpha=0.5).mul_(w).exp_().mul_(to_x)  # times φ(near) / φ(z)
        plain, distance, both, nearer = (
            value.sum_to_size(near.shape).double() for value in (to_x, to_x * w, density, density * u)
        )
        # Over ±s, as μ moves both standardised bounds by -1 / s.
        to_near, to_far = nearer - plain, density_ratio(far, near) * (both - nearer)
        to_log_sigma = signed * (distance - near * to_near - far * to_far)
        return -(to_near + to_far), where_free(log_sigma, to_log_sigma), None, None, None


def _below_near(far: Tensor, near: Tensor, u: Tensor) -> Tensor:
    """z - near with Φ(z) = (1 - u) Φ(far) + u Φ(near), where |near| <= |far| and far < 0."""
    low, high = (torch.erf(bound / math.sqrt(2)) for bound in (far, near))
    almost = 1 - torch.finfo(u.dtype).eps  # at 1, a derivative is 0 times infinity
    z = torch.addcmul(low.to(u), u, (high - low).to(u)).clamp_(-almost, almost).erfinv_()
    w = z.mul_(math.sqrt(2)).sub_(near.to(u))
    outside = near < _NEAR
    if bool(outside.any()):
        w[..., outside] = _below_outside(far[outside], near[outside], u[..., outside])
    return w.clamp_max_(0).clamp_min_((far - near).to(u))


def _below_outside(far: Tensor, near: Tensor, u: Tensor) -> Tensor:
    """The same where the mean is outside of the bounds, by lower-tail probabilities."""
    u = u.clamp_min(0.5 * torch.finfo(u.dtype).eps)
    p_far, p_near = (0.5 * torch.erfc(-bound / math.sqrt(2)) for bound in (far, near))  # torch.special.ndtr is 0 at -9
    w = ndtri(torch.addcmul(p_far.to(u), u, (p_near - p_far).to(u))) - near.to(u)
    tail = near < _UNDERFLOW[u.dtype]
    if bool(tail.any()):
        w[..., tail] = _below_tail(far[tail], near[tail], u[..., tail].double()).to(u)
    return w


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
