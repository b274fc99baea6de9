"""How many bits weights are worth that are known up to a standard deviation.

Louizos, Ullrich, Welling, "Bayesian compression for deep learning", NIPS 2017, section 3.3: what is smaller than the
posterior's noise need not be stored. A layer's weights are rounded to the multiples of 2 σ̄, σ̄ the mean of their
standard deviations, so that no weight moves by more than σ̄; they take ⌈log₂(2 m + 1)⌉ bits, m the largest multiple.
(The published code counts bits of the mantissa from variances in place of deviations, and has no bits for the sign.)
"""

from __future__ import annotations

import math

from torch import Tensor


def grid(variance: Tensor) -> float:
    """2 σ̄, the step of a layer's grid, from the variances of its weights."""
    return 2 * float(variance.double().sqrt().mean())


def rounded(weights: Tensor, step: float) -> Tensor:
    """The nearest multiples of the step; none is farther than half of it."""
    return (weights / step).round() * step


def bits(weights: Tensor, step: float) -> int:
    """⌈log₂(2 m + 1)⌉, m the largest multiple in use, the sign included; at least 1."""
    largest = float((weights.abs().max() / step).round()) if weights.numel() else 0.0
    return max(1, math.ceil(math.log2(2 * largest + 1)))
