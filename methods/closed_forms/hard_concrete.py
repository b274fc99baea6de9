"""The hard concrete distribution: gates that are 0 or 1 with a probability of their own, and have gradients.

Louizos, Welling, Kingma, "Learning sparse neural networks through L0 regularization", ICLR 2018, arXiv 1712.01312: a
binary concrete variable, stretched beyond [0, 1] and cut off there. With log odds log α, β = ⅔, γ = -0.1, ζ = 1.1:

    z = min(1, max(0, s (ζ - γ) + γ)),    s = σ((logit u + log α) / β),    P(z ≠ 0) = σ(log α - β log(-γ / ζ)).
"""

from __future__ import annotations

import math

from torch import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
SHIFT = -BETA * math.log(-GAMMA / ZETA)
# log α up to which the gate is 0 in evaluation.
CLOSED = math.log(-GAMMA / ZETA)


def stretched(s: Tensor) -> Tensor:
    """From (0, 1) beyond both ends, and cut off there."""
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def draw(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """A gate for each of the `uniform` numbers in [0, 1), by the inverse of the distribution function."""
    return stretched(((uniform.logit() + log_alpha.to(uniform.dtype)) / BETA).sigmoid())


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z ≠ 0), elementwise."""
    return (log_alpha + SHIFT).sigmoid()


def gate(log_alpha: Tensor) -> Tensor:
    """The gate of evaluation, min(1, max(0, σ(log α) (ζ - γ) + γ)): 0 where log α ≤ -log 11."""
    return stretched(log_alpha.sigmoid())
