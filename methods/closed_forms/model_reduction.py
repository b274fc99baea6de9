"""The change of evidence under a reduced prior, in closed form for Gaussians: Bayesian model reduction.

Friston, Penny, "Post hoc Bayesian model selection", NeuroImage 56 (2011); Marković, Friston, Kiebel, "Bayesian
sparsification of deep neural networks with Bayesian model reduction", arXiv 2309.12095. With a posterior q
under the prior p, and the same likelihood under a reduced prior p̃,

    ΔF = log p̃(D) - log p(D) = log ∫ q(w) p̃(w) / p(w) dw,

in nats: ΔF > 0 means that the reduced model has more evidence. Where p̃ is a spike, a point mass at 0, it is
the Savage-Dickey ratio log q(0) - log p(0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from ...datasets.errors import UsageError
from .arguments import finite, non_negative, positive
from .eigen import eigh

# Numbers that a step of elementwise arithmetic takes at a time: 256 KiB.
BLOCK = 1 << 15


# ---------------------------------------------------------------------- independent weights


def delta_f(
    mean: Tensor | float, variance: Tensor | float, prior_mean: Tensor | float, prior_variance: Tensor | float,
    reduced_mean: Tensor | float, reduced_variance: Tensor | float,
) -> Tensor:  # fmt: skip
    """ΔF of independent Gaussians, elementwise, in nats, float64.

    With posterior N(μ, s²), prior N(m, σ²) and reduced prior N(m̃, γ²),

        V = s² + γ² - s² γ² / σ²,    2 ΔF = log(σ² / V) + [s² (m̃-m)² / σ² + γ² (m-μ)² / σ² - (m̃-μ)²] / V,

    in which neither a vanishing γ² nor precisions of any size need a case of their own.

    Args:
        mean: μ.
        variance: s², positive. It may exceed σ², as that of a variational posterior does.
        prior_mean: m.
        prior_variance: σ², positive.
        reduced_mean: m̃.
        reduced_variance: γ² ≥ 0; 0 is the spike at m̃. It may exceed σ².

    Raises UsageError, naming the argument, for what is not finite or not positive, and where s² and γ² exceed
    σ² by so much that q p̃ / p cannot be integrated.
    """
    operands = (
        finite("mean", mean),
        positive("variance", variance),
        finite("prior_mean", prior_mean),
        positive("prior_variance", prior_variance),
        finite("reduced_mean", reduced_mean),
        non_negative("reduced_variance", reduced_variance),
    )
    return _blockwise(_delta_f, operands)


def _delta_f(mu: Tensor, s2: Tensor, m: Tensor, sigma2: Tensor, m_: Tensor, gamma2: Tensor) -> Tensor:
    v = _combined(s2, gamma2, sigma2)
    squares = s2 / sigma2 * (m_ - m).square() + gamma2 / sigma2 * (m - mu).square() - (m_ - mu).square()
    return 0.5 * (sigma2.log() - v.log() + squares / v)


def spike_delta_f(mean: Tensor, precision: Tensor, prior_precision: Tensor) -> Tensor:
    """ΔF of setting each weight to 0 under a prior of mean 0, elementwise, in nats, float64; tensors of one shape.

    ½ log(π/δ) - ½ π μ², of which `delta_f` is the general form; raises UsageError as that does.
    """
    operands = [torch.as_tensor(tensor, dtype=torch.float64) for tensor in (mean, precision, prior_precision)]
    change = torch.empty_like(operands[0], memory_format=torch.contiguous_format)
    scratch = torch.empty_like(change.view(-1)[:BLOCK])
    blocks = [tensor.reshape(-1).split(BLOCK) for tensor in (*operands, change) if tensor.numel()]
    least, total = math.inf, 0.0
    for mu, pi, delta, out in zip(*blocks, strict=True):
        squares = torch.square(mu, out=scratch[: len(mu)])
        torch.div(pi, delta, out=out).log_().addcmul_(squares, pi, value=-1).mul_(0.5)
        least, total = min(least, float(pi.min())), total + float(out.sum())
    if not (least > 0 and math.isfinite(total)):
        _refuse(*operands)
    return change


def _refuse(mean: Tensor, precision: Tensor, prior_precision: Tensor) -> NoReturn:
    """Says what is wrong; looked for only where something is."""
    finite("mean", mean)
    positive("precision", precision)
    positive("prior_precision", prior_precision)
    raise UsageError("mean and precision over prior_precision are too large for double precision: the fit diverged")


def _combined(s2: Tensor, gamma2: Tensor, sigma2: Tensor) -> Tensor:
    """V: a sum of positive terms unless both s² and γ² exceed σ²."""
    small, large = torch.minimum(s2, gamma2), torch.maximum(s2, gamma2)
    v = small + large * (1 - small / sigma2)
    if v.numel() and not v.min() > 0:
        raise UsageError(
            "reduced_variance is too far above prior_variance where variance is above it too: the reduced posterior "
            "has no finite variance; lower reduced_variance to at most prior_variance"
        )
    return v


def _blockwise(function: Callable[..., Tensor], operands: Sequence[Tensor]) -> Tensor:
    """An elementwise function of operands that broadcast, on blocks small enough for a processor's cache."""
    shape = torch.broadcast_shapes(*(operand.shape for operand in operands))
    count = -(-math.prod(shape) // BLOCK)
    if count < 2:
        return function(*operands)
    parts = [[o] * count if o.dim() == 0 else o.expand(shape).reshape(-1).split(BLOCK) for o in operands]
    return torch.cat([function(*block) for block in zip(*parts, strict=True)]).view(shape)


# ---------------------------------------------------------------------- correlated weights


def delta_f_multivariate(
    mean: Tensor, covariance: Tensor, prior_mean: Tensor, prior_covariance: Tensor,
    reduced_mean: Tensor, reduced_covariance: Tensor,
) -> Tensor:  # fmt: skip
    """ΔF of correlated Gaussians, a scalar in nats, float64; means have shape (P,), covariances (P, P).

    The reduced covariance may be singular: what it does not span is fixed at the reduced mean. Its root R,
    R R' = Σ̃, turns the integral into one over standard normal z, with w = m̃ + R z.

    Raises UsageError, naming the argument, for a covariance that is not positive definite (the reduced: has
    negative eigenvalues), and where q p̃ / p cannot be integrated.
    """
    mu, m, m_ = finite("mean", mean), finite("prior_mean", prior_mean), finite("reduced_mean", reduced_mean)
    factors = _cholesky("covariance", covariance), _cholesky("prior_covariance", prior_covariance)
    p, p0 = (torch.cholesky_inverse(factor) for factor in factors)
    root = _root(reduced_covariance.double())
    inner = torch.eye(len(mu), dtype=p.dtype, device=p.device) + root.T @ (p - p0) @ root
    inner_factor, failed = torch.linalg.cholesky_ex(inner)
    if failed:
        raise UsageError(
            "reduced_covariance is too far above prior_covariance where covariance is above it too: the reduced "
            "posterior has no finite covariance"
        )
    # The exponent is quadratic in z: its value is read off at its stationary point, where rounding of z is harmless.
    slope = root.T @ (p @ (m_ - mu) - p0 @ (m_ - m))
    z = -torch.cholesky_solve(slope.unsqueeze(1), inner_factor).squeeze(1)
    w = m_ + root @ z
    exponent = (w - mu) @ p @ (w - mu) - (w - m) @ p0 @ (w - m) + z @ z
    full, prior, reduced = (factor.diagonal().log().sum() for factor in (*factors, inner_factor))
    return prior - full - reduced - 0.5 * exponent


def savage_dickey(
    mean: Tensor, covariance: Tensor, prior_mean: Tensor, prior_covariance: Tensor, removed: Tensor
) -> Tensor:
    """ΔF = log q(w_R = 0) - log p(w_R = 0) of removing the weights R, boolean (P,), together; in nats.

    The prior of the others is then theirs given w_R = 0. Raises UsageError as `delta_f_multivariate`.
    """
    after = _log_density_at_zero("covariance", finite("mean", mean), covariance, removed)
    return after - _log_density_at_zero("prior_covariance", finite("prior_mean", prior_mean), prior_covariance, removed)


def without(mean: Tensor, covariance: Tensor, removed: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the kept weights K once those of R, boolean (P,), are 0; float64.

    μ_K - Σ_KR Σ_RR⁻¹ μ_R, the compensation of optimal brain surgeon (Hassibi, Stork, NIPS 1992), and
    Σ_KK - Σ_KR Σ_RR⁻¹ Σ_RK. Raises UsageError for a covariance that is not positive definite.
    """
    mu, sigma, kept = finite("mean", mean), covariance.double(), ~removed
    factor = _cholesky("covariance", sigma[removed][:, removed])
    gain = torch.cholesky_solve(sigma[removed][:, kept], factor).T
    return mu[kept] - gain @ mu[removed], sigma[kept][:, kept] - gain @ sigma[removed][:, kept]


def _log_density_at_zero(name: str, mean: Tensor, covariance: Tensor, of: Tensor) -> Tensor:
    """log N(0; μ_R, Σ_RR) but for its 2π."""
    factor = _cholesky(name, covariance.double()[of][:, of])
    z = torch.linalg.solve_triangular(factor, mean[of].unsqueeze(1), upper=False)
    return -factor.diagonal().log().sum() - 0.5 * z.square().sum()


def _cholesky(name: str, covariance: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(covariance.double())
    if failed or not torch.isfinite(factor).all():
        raise UsageError(f"{name} must be a finite, positive definite matrix")
    return factor


def _root(covariance: Tensor) -> Tensor:
    """R with R R' = Σ̃; eigenvalues that are negative by rounding alone are 0."""
    if not torch.isfinite(covariance).all():
        raise UsageError("reduced_covariance must be finite")
    values, vectors = eigh(covariance)
    if len(values) and values[0] < -1e-12 * values.abs().max():
        raise UsageError(f"reduced_covariance must have no negative eigenvalue, got {float(values[0])!r}")
    return vectors * values.clamp_min(0).sqrt()
