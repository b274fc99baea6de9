"""The divergence of N(θ, α θ²) from the log-uniform prior, to rounding, by Dawson's integral D.

With u = 1/√(2α),

    KL = 2 ∫₀ᵘ D(x) dx,    dKL / d log α = - u D(u).

In s = x / (x + c), x = u², the derivative is s (½ + (1 - s) P(s)) with P smooth on [0, 1] (from u D(u) ~ x at 0 and
½ + 1/(4x) at infinity), so that KL = ½ log(1 + x/c) + ∫₀ˢ P: the shape of the published fit, a softplus and a function
of a sigmoid, with a polynomial that makes it exact.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.polynomial.chebyshev import Chebyshev, cheb2poly
from scipy.special import dawsn
from torch import Tensor

# c: where the sigmoid is ½. This one gives polynomials whose coefficients are small, and soon vanish.
SCALE = 12.0
DEGREE = 48
# Chebyshev coefficients below which a series ends; higher powers would only add rounding.
TOLERANCE = {torch.float64: 1e-13}
# Beyond it the asymptotic series of u D(u) is exact.
LARGE = 40.0


def exact(log_alpha: Tensor) -> Tensor:
    """2 ∫₀ᵘ D(x) dx, in the shape and type of `log_alpha`; differentiable once."""
    return _Exact.apply(log_alpha)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def slope(square: Tensor, variance: Tensor, most: float) -> Tensor:
    """- dKL / d log α = s (½ + (1 - s) P(s)) from θ² and σ², elementwise in their type; 0 where log α > `most`.

    Neither a logarithm nor an exponential is needed, as s = θ² / (θ² + 2cσ²). 0 where both are 0.
    """
    s = torch.add(square, variance, alpha=2 * SCALE).add_(torch.finfo(square.dtype).tiny)
    torch.div(square, s, out=s)
    rest = 1 - s
    value = _horner(_polynomials(TOLERANCE.get(square.dtype, 1e-6))[1], s - rest)
    value.mul_(rest).add_(0.5).mul_(s)
    return torch.ops.aten.threshold_backward(value, s, 1 / (1 + 2 * SCALE * math.exp(most)))


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_alpha: Tensor) -> Tensor:
        v = log_alpha.to(torch.float64, copy=True).neg_().sub_(math.log(2 * SCALE))  # log(x / c)
        s = torch.sigmoid(v)
        rest = 1 - s
        buffer = torch.minimum(s, rest)  # memory is what takes time here
        softplus_v = v.clamp_min_(0).sub_(buffer.neg_().log1p_())
        y = torch.sub(s, rest, out=buffer)
        integral, integrand = _polynomials(TOLERANCE.get(log_alpha.dtype, 1e-8))
        if ctx.needs_input_grad[0]:
            slope = _horner(integrand, y).mul_(rest).add_(0.5).mul_(s).neg_()
            ctx.save_for_backward(slope.to(log_alpha.dtype))
        return softplus_v.mul_(0.5).addcmul_(_horner(integral, y), s).to(log_alpha.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return g * ctx.saved_tensors[0]


def _horner(coefficients: tuple[float, ...], y: Tensor) -> Tensor:
    """A polynomial from its coefficients, that of the highest power first."""
    first, second, *others = _scalars(coefficients, y.dtype, y.device)
    value = torch.addcmul(second, first, y)
    for c in others:
        torch.addcmul(c, value, y, out=value)
    return value


@functools.cache
def _scalars(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return torch.tensor(values, dtype=dtype, device=device).unbind()


@functools.cache
def _polynomials(tolerance: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """1/s ∫₀ˢ P and P(s), in powers of y = 2s - 1: dividing by s keeps the tail α → ∞ right in relative terms."""
    integrand = Chebyshev.interpolate(_integrand, DEGREE, domain=[0, 1])
    nodes, weights = np.polynomial.legendre.leggauss(DEGREE)

    def mean_below(s: np.ndarray) -> np.ndarray:
        """∫₀¹ P(s t) dt."""
        return integrand(s[:, None] * (nodes + 1) / 2) @ weights / 2

    integral = Chebyshev.interpolate(mean_below, DEGREE, domain=[0, 1])
    return _powers(integral, tolerance), _powers(integrand, tolerance)


def _integrand(s: np.ndarray) -> np.ndarray:
    """P(s) = (G/s - ½) / (1 - s), G = u D(u) = ½ + e, arranged so that nothing cancels as x → ∞."""
    x = SCALE * s / (1 - s)
    root = np.sqrt(x)
    e = np.where(x < LARGE, root * dawsn(root) - 0.5, _series(np.maximum(x, LARGE)))
    return (e * x + (0.5 + e) * SCALE) * (x + SCALE) / (x * SCALE)


def _series(x: np.ndarray) -> np.ndarray:
    """u D(u) - ½ = Σ_k (2k-1)!! / (2^(k+1) x^k), asymptotically."""
    terms = np.cumprod([(2 * k - 1) / (2 * x) for k in range(1, 30)], axis=0)
    return terms.sum(axis=0) / 2


def _powers(series: Chebyshev, tolerance: float) -> tuple[float, ...]:
    """A Chebyshev series, less its negligible end, in powers: the highest first."""
    degree = int(np.nonzero(np.abs(series.coef) > tolerance)[0].max())
    return tuple(float(c) for c in cheb2poly(series.coef[: degree + 1])[::-1])
