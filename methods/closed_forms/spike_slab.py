"""Spike and slab: the probability that a weight is in the model, from the posterior of a network.

A weight is 0 with probability 1 - π (the spike) or has the prior N(0, s₁²) (the slab). George, McCulloch, "Variable
selection via Gibbs sampling", JASA 88 (1993); Barbieri, Berger, "Optimal predictive model selection", Annals of
Statistics 32 (2004): the median probability model keeps what has an inclusion probability (PIP) above ½.
Saha, Liu, Liang, "Efficient model compression for Bayesian neural networks", arXiv 2411.00273, prune networks by such
probabilities; the estimators here are a reconstruction from neighbouring work, for lack of their equations:

    log_odds        after training under the slab alone, from any Gaussian posterior; exact for orthogonal designs
    responsibility  the spike is a narrow Gaussian: from the posterior of training under the mixture
    indicator_kl    the indicator is trained too; its probability is the PIP

Probabilities of different estimators are not comparable, the selections are. With the variances of a diagonal Laplace
posterior, which are conditional ones, `log_odds` keeps too many of weights that stand in for each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ...datasets.errors import UsageError
from .arguments import finite, positive
from .model_reduction import delta_f
from .quadrature import hermite

# Points of the Gauss-Hermite rule.
POINTS = 20


def log_odds(
    mean: Tensor | float, variance: Tensor | float, slab_variance: Tensor | float, inclusion: float = 0.5
) -> Tensor:
    """log PIP / (1 - PIP) = log π / (1-π) + ½ log(s² / s₁²) + μ² / (2 s²), elementwise, float64.

    The Savage-Dickey ratio: minus the change of evidence of Bayesian model reduction to the spike. Over a group of
    independent weights the last two terms add up.

    Args:
        mean: μ of the posterior under the slab alone.
        variance: s² of it, positive; the marginal one, where weights are correlated.
        slab_variance: s₁², positive.
        inclusion: π, in (0, 1).

    Raises UsageError, naming the argument, for what is out of its range or not finite.
    """
    slab = positive("slab_variance", slab_variance)
    return logit(inclusion) - delta_f(mean, variance, 0.0, slab, 0.0, 0.0)


def logit(inclusion: float) -> float:
    """log π / (1-π); raises UsageError unless 0 < π < 1, where no data could change the answer."""
    if not 0 < inclusion < 1:
        raise UsageError(f"inclusion must be a probability above 0 and below 1, got {inclusion!r}")
    return math.log(inclusion) - math.log1p(-inclusion)


# ---------------------------------------------------------------------- a spike with a width


def responsibility(
    square: Tensor | float, spike_variance: float, slab_variance: float, inclusion: float = 0.5
) -> Tensor:
    """Log odds that a weight of this square comes from the slab, not from the spike N(0, s₀²); float64.

    log π / (1-π) + log(s₀ / s₁) + ½ w² (1 / s₀² - 1 / s₁²). With the posterior mean μ² + s² for w² this is the
    estimate of an expectation-maximisation step. Raises UsageError, naming the argument, for what is out of range.
    """
    check_widths(spike_variance, slab_variance)
    gap = 1 / spike_variance - 1 / slab_variance
    return logit(inclusion) + 0.5 * (math.log(spike_variance / slab_variance) + finite("square", square) * gap)


def expected_log_odds(
    mean: Tensor | float, variance: Tensor | float, spike_variance: float, slab_variance: float, inclusion: float = 0.5
) -> Tensor:
    """Log odds log E[r] - log E[1-r] of the posterior mean of the slab's responsibility (Rao-Blackwell); float64.

    Elementwise, by the Gauss-Hermite rule; they never saturate. Raises UsageError as `responsibility`.

    In the broadcast shape of mean and variance.
    """
    mu, s = finite("mean", mean), positive("variance", variance).sqrt()
    inside = outside = torch.full_like(mu * s, -math.inf)
    for node, weight in hermite(POINTS):
        odds = responsibility((mu + s * node).square(), spike_variance, slab_variance, inclusion)
        inside = torch.logaddexp(inside, math.log(weight) + logsigmoid(odds))
        outside = torch.logaddexp(outside, math.log(weight) + logsigmoid(-odds))
    return inside - outside


def mixture_log_density(weight: Tensor, spike_variance: float, slab_variance: float, inclusion: float = 0.5) -> Tensor:
    """log(π N(w; 0, s₁²) + (1-π) N(w; 0, s₀²)), elementwise, in the type of `weight`: the prior to train under.

    Raises UsageError as `responsibility`.
    """
    logit(inclusion)
    check_widths(spike_variance, slab_variance)
    square = weight.square()

    def log_density(probability: float, variance: float) -> Tensor:
        return math.log(probability) - 0.5 * (math.log(2 * math.pi * variance) + square / variance)

    return torch.logaddexp(log_density(inclusion, slab_variance), log_density(1 - inclusion, spike_variance))


def check_widths(spike_variance: float, slab_variance: float) -> None:
    """Raise UsageError, naming the variance, unless 0 < spike < slab."""
    positive("spike_variance", spike_variance)
    positive("slab_variance", slab_variance)
    if spike_variance >= slab_variance:
        raise UsageError(f"spike_variance must be below slab_variance, got {spike_variance:g} and {slab_variance:g}")


# ---------------------------------------------------------------------- a trained indicator


def slab_kl(mean: Tensor, variance: Tensor, slab_variance: float) -> Tensor:
    """KL of N(μ, s²) from the slab N(0, s₁²), elementwise, in nats: log(s₁/s) + (s² + μ²) / (2 s₁²) - ½."""
    positive("slab_variance", slab_variance)
    return 0.5 * ((slab_variance / variance).log() + (variance + mean.square()) / slab_variance - 1)


def indicator_kl(log_odds: Tensor, slab_divergence: Tensor, inclusion: float = 0.5) -> Tensor:
    """KL of φ q + (1-φ) δ₀ from π slab + (1-π) δ₀, elementwise, in nats; differentiable.

    φ log(φ/π) + (1-φ) log((1-φ)/(1-π)) + φ KL(q ‖ slab).

    Args:
        log_odds: log φ / (1-φ), so that nearly certain indicators stay finite.
        slab_divergence: KL(q ‖ slab) of what the indicator governs: `slab_kl` of a weight, summed over a unit's.
        inclusion: π, in (0, 1).
    """
    prior = log_odds.new_tensor(logit(inclusion))
    kept, removed = (logsigmoid(sign * log_odds) - logsigmoid(sign * prior) for sign in (1, -1))
    return log_odds.sigmoid() * (kept + slab_divergence) + (-log_odds).sigmoid() * removed


# ---------------------------------------------------------------------- selection


def false_discovery_selection(pip: Tensor, rate: float = 0.05) -> Tensor:
    """The largest set of best units whose mean 1 - PIP is at most `rate` (Bayesian false discovery rate).

    Boolean, shape (n,).
    """
    order = pip.argsort(descending=True, stable=True)
    expected = (1 - pip[order]).cumsum(0) / torch.arange(1, len(pip) + 1, device=pip.device)
    chosen = torch.zeros_like(pip, dtype=torch.bool)
    chosen[order] = expected <= rate
    return chosen
