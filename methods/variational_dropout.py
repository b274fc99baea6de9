"""Variational dropout: the divergence from the log-uniform prior, exact and as published.

Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017 (arXiv 1701.05369);
Kingma, Salimans, Welling, "Variational dropout and the local reparameterization trick", NIPS 2015 (arXiv
1506.02557). A weight's posterior is N(θ, σ²) with α = σ²/θ², its prior p(log |w|) is constant, and KL depends on
α alone. The prior is improper: KL is defined up to a constant, chosen so that KL → 0 as α → ∞.

With u = 1/√(2α) and Dawson's integral D,

    KL = 2 ∫₀ᵘ D(x) dx,    dKL / d log α = - u D(u).

In s = x / (x + c), x = u², the derivative is s (½ + (1 - s) P(s)) with P smooth on [0, 1] (from u D(u) ~ x at 0 and
½ + 1/(4x) at infinity), so that KL = ½ log(1 + x/c) + ∫₀ˢ P: the shape of the published fit, a softplus and a function
of a sigmoid, with a polynomial that makes it exact.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.polynomial.chebyshev import Chebyshev, cheb2poly
from scipy.special import dawsn
from torch import Tensor
from torch.nn.functional import softplus

from ..datasets.registry import UsageError, unknown

Form = Literal["exact", "molchanov", "kingma"]

# Euler's constant; KL → ½ (γ + log 2) - ½ log α as α → 0.
EULER = 0.57721566490153286
LIMIT = 0.5 * (EULER + math.log(2))

# c: where the sigmoid is ½. This one gives polynomials whose coefficients are small, and soon vanish.
SCALE = 12.0
DEGREE = 48
# Chebyshev coefficients below which a series ends; higher powers would only add rounding.
TOLERANCE = {torch.float64: 1e-13}
# Beyond it the asymptotic series of u D(u) is exact.
LARGE = 40.0


def kl(log_alpha: Tensor, form: Form = "exact") -> Tensor:
    """KL(N(θ, α θ²) ‖ log-uniform) of each weight, in nats, in the shape and type of `log_alpha`; differentiable.

    Args:
        log_alpha: log σ² - log θ², any real number; of a weight with θ = 0 it is inf, and KL is 0.
        form: "exact", to rounding. "molchanov": the fit of Molchanov et al., within 0.0094 where |log α| ≤ 10.
            "kingma": the cubic of Kingma et al., for α ≤ 1, within 0.041 (0.0203 up to a constant).

    Raises UsageError for an unknown form, and for "kingma" where log α > 0.
    """
    if form not in FORMS:
        raise unknown("form of the divergence", form, FORMS)
    return FORMS[form](log_alpha)


def molchanov(log_alpha: Tensor) -> Tensor:
    """k₁ - k₁ sigmoid(k₂ + k₃ log α) + ½ log(1 + 1/α)."""
    return 0.63576 * torch.sigmoid(-1.87320 - 1.48695 * log_alpha) + 0.5 * softplus(-log_alpha)


def kingma(log_alpha: Tensor) -> Tensor:
    """C - ½ log α - 1.16145124 α + 1.50204118 α² - 0.58629921 α³, with the exact C of α → 0."""
    if log_alpha.numel() and log_alpha.detach().max() > 0:
        raise UsageError("the form 'kingma' holds for log_alpha <= 0 only: clamp log_alpha, or use the form 'exact'")
    alpha = log_alpha.exp()
    return LIMIT - 0.5 * log_alpha - alpha * (1.16145124 - alpha * (1.50204118 - 0.58629921 * alpha))


def exact(log_alpha: Tensor) -> Tensor:
    """2 ∫₀ᵘ D(x) dx."""
    return _Exact.apply(log_alpha)  # pyright: ignore[reportReturnType]


FORMS: dict[str, Callable[[Tensor], Tensor]] = {"exact": exact, "molchanov": molchanov, "kingma": kingma}


# ---------------------------------------------------------------------- the exact form


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
    value = torch.full_like(y, coefficients[0])
    for c in y.new_tensor(coefficients[1:]):
        torch.addcmul(c, value, y, out=value)
    return value


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
