"""The PAC-Bayes certificate of a randomised network: its risk, bounded on the examples that it has learned from.

Dziugaite, Roy, UAI 2017, arXiv 1703.11008; Pérez-Ortiz et al., JMLR 22 (2021), arXiv 2007.12927. Of weights w ~ Q, P a
distribution that has not seen the n examples, and q̂ the mean 0-1 loss of m draws on all of them: with probability
1 - δ₁ - δ₂, for every Q at once,

    risk(Q) ≤ kl⁻¹( kl⁻¹(q̂, log(2/δ₂) / m), (KL(Q‖P) + log(2√n/δ₁)) / n ),    kl⁻¹(q, c) = max {p: kl(q‖p) ≤ c},

kl(q‖p) that of two coins. Gaussians here: Q = N(μ, diag s), P = N(μ⁰, λ I) in each tensor, λ = e^(j/100) from a grid
that is paid for, at log 2(|j| + 1)(|j| + 2) nats. A mask is a part of what Q has chosen: under P all numbers of units
are as likely, and all masks of a number; it costs log C(n, k) + log(n + 1) nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

# Of the empirical risk as an estimate of many draws, and of the bound itself: as Pérez-Ortiz et al.
DELTA, DELTA_DRAWS = 0.025, 0.01
STEPS = 100.0  # of the grid of λ, for each factor e


def coins(q: float, p: float) -> float:
    """kl(q‖p) = q log(q/p) + (1 - q) log((1 - q)/(1 - p)), nats."""
    return _term(q, p) + _term(1 - q, 1 - p)


def _term(a: float, b: float) -> float:
    return 0.0 if a == 0 else math.inf if b <= 0 else a * math.log(a / b)


def inverse(q: float, c: float) -> float:
    """kl⁻¹(q, c): the largest p in [q, 1] with kl(q‖p) ≤ c, from above, by halving."""
    low, high = q, 1.0
    while high - low > 1e-15 and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if coins(q, middle) <= c else (low, middle)
    return high


def of_draws(mean: float, draws: int, delta: float = DELTA_DRAWS) -> float:
    """A bound of the empirical risk of Q, from the mean 0-1 loss of independent draws, with probability 1 - δ."""
    return inverse(mean, math.log(2 / delta) / draws)


def risk(empirical: float, divergence: float, examples: int, delta: float = DELTA) -> float:
    """The bound of the risk, from Q's empirical risk and KL(Q‖P) in nats, with probability 1 - δ (Maurer 2004)."""
    return inverse(empirical, (divergence + math.log(2 * math.sqrt(examples) / delta)) / examples)


def divergence(tensors: Iterable[tuple[Tensor, Tensor, Tensor]]) -> float:
    """KL(Q‖P) of tensors with means μ, variances s and centres μ⁰, each (P,), and of the choices of λ: nats.

    λ is the best of the grid, or next to it: the mean of s + (μ - μ⁰)².
    """
    return sum(_of_tensor(*(t.double().flatten() for t in one)) for one in tensors)


def _of_tensor(mean: Tensor, variance: Tensor, centre: Tensor) -> float:
    if not mean.numel():
        return 0.0
    square = variance + (mean - centre).square()
    j = round(STEPS * math.log(float(square.mean())))
    log_lambda = j / STEPS
    kl = 0.5 * float((square * math.exp(-log_lambda) - 1 + log_lambda - variance.log()).sum())
    return kl + math.log(2 * (abs(j) + 1) * (abs(j) + 2))


def of_mask(units: int, kept: int) -> float:
    """log C(n, k) + log(n + 1): nats of a mask that the data have chosen."""
    ways = math.lgamma(units + 1) - math.lgamma(kept + 1) - math.lgamma(units - kept + 1)
    return ways + math.log(units + 1)
