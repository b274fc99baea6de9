"""The Laplace evidence: log marginal likelihood of the prior precisions, with diagonal curvature.

MacKay 1992; Immer et al., "Scalable marginal likelihood estimation", ICML 2021; Dhahri et al., NeurIPS 2024
(arXiv 2402.15978). N examples, mode θ, H the curvature of the summed negative log likelihood, D = diag(δ) the
prior precision, temperature T, observation noise s (1 for classes), c = 1 / (s² T):

    log q(D) = log likelihood - ½ [ log det(cH + D) - log det D + θ' D θ ]

The terms in 2π cancel. For classes the log likelihood is -c Σ CE; for real targets it is
-c ½ Σ squared error - N K log(s √(2π)).
"""

from __future__ import annotations

import math

from torch import Tensor


def log_evidence(log_likelihood: Tensor, curvature: Tensor, mean: Tensor, prior_precision: Tensor) -> Tensor:
    """log q(D) in nats, a scalar.

    Args:
        log_likelihood: of the training set at the mode, tempered; scalar.
        curvature: cH, non-negative; any shape.
        mean: θ, in the shape of `curvature`.
        prior_precision: δ > 0, in the shape of `curvature` or broadcast to it.
    """
    ratio = (curvature / prior_precision).log1p().sum()  # log det(cH + D) - log det D
    return log_likelihood - 0.5 * (ratio + (prior_precision * mean.square()).sum())


def log_evidence_gradient(curvature: Tensor, mean: Tensor, prior_precision: Tensor) -> Tensor:
    """∂ log q / ∂ log δ_i = ½ [h_i / (h_i + δ_i) - δ_i θ_i²], h = cH; tied precisions add theirs up."""
    return 0.5 * (curvature / (curvature + prior_precision) - prior_precision * mean.square())


def effective_parameters(curvature: Tensor, prior_precision: Tensor) -> Tensor:
    """γ = Σ h_i / (h_i + δ_i): how many parameters the data determine (MacKay)."""
    return (curvature / (curvature + prior_precision)).sum()


def log_likelihood(loss: Tensor, count: int, noise: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Tempered log likelihood of the training set from its summed loss.

    Args:
        loss: Σ CE, or ½ Σ squared error.
        count: N K, how many numbers were observed; read for real targets only.
        noise: their standard deviation s; None for classes. Its normaliser is not tempered.
        temperature: T.
    """
    if noise is None:
        return -loss / temperature
    return -loss / (noise.square() * temperature) - count * (noise.log() + 0.5 * math.log(2 * math.pi))
