"""BMRS: structured pruning by Bayesian model reduction of multiplicative noise.

Wright, Igel, Selvan, "BMRS: Bayesian model reduction for structured pruning", NeurIPS 2024, arXiv 2406.01345. Every
structure is multiplied by noise θ with posterior q and log-uniform prior p. A reduced prior p̃ that holds θ near
zero changes the log evidence by ΔF = log E_q[p̃(θ) / p(θ)]: a structure leaves if the evidence does not fall.

Under the paper's p̃, a spike at the smallest θ, ΔF is in the limit log q / p at that bound, which no posterior with
μ above the middle of the bounds makes positive: from the usual start nothing ever leaves (`bmrs-n-exact`). The
published code lacks a factor 2π, and so prunes from ΔF = -½ log 2π upwards (`bmrs-n`). A spike in the middle of the
bounds, θ = 4.5e-5, prunes nearly the same structures by the exact evidence (`bmrs-n-mid`).

Paper: wright2024bmrs
Deviations: masses of the truncated log-normal are computed in logs, so that none vanishes in the tails.
Oracle: test_bmrs.py::test_delta_f_of_a_lognormal_is_the_integral,
    test_bmrs.py::test_decisions_fall_where_the_note_says
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from ..datasets.errors import UsageError
from .closed_forms.truncated_lognormal import kl_to_loguniform, log_mass, noise_mean, noise_snr, standardised
from .noise.multiplicative import DrawnFor, MultiplicativeNoise, TruncatedLogNormal, Weighting
from .noise.worth import of_units
from .pruner import Pruner, State, register

__all__ = ["delta_f_lognormal", "delta_f_loguniform", "kl_to_loguniform", "noise_mean", "noise_snr"]

# Of the published score of `bmrs-n`, which is ΔF + ½ log 2π.
PUBLISHED_THRESHOLD = -0.5 * math.log(2 * math.pi)
# A structure with a smaller E[θ] leaves (Wright et al. 2024, the baseline E).
SMALLEST_MEAN = 0.1


def delta_f_lognormal(
    mu: Tensor,
    log_sigma: Tensor,
    *,
    a: float = -20.0,
    b: float = 0.0,
    reduced_mean: float = -20.0,
    reduced_variance: float = 1e-12,
) -> Tensor:
    """ΔF in nats for a truncated log-normal p̃; elementwise, float64, positive where the reduced model is better.

    With m, v the mean and variance of log θ under p̃ before truncation, and Z̃ the mass of q p̃ (eq. 8):

        ΔF = log(b - a) + log Z̃ - log Z_q - log Z_p̃ - ½ log 2π(s² + v) - (μ - m)² / 2(s² + v)

    The paper's form of the last term subtracts numbers of the size of a² / v = 4e14; the published code moreover
    lacks the factor 2π, so that its values are larger by ½ log 2π.
    """
    s, alpha, beta = standardised(mu, log_sigma, a, b)
    v = reduced_variance
    variance = s.square() + v
    pull = v / variance  # of q on the mean of q p̃
    scale = s * (v / variance).sqrt()
    low, high = ((bound - reduced_mean) * (1 - pull) + (bound - mu.double()) * pull for bound in (a, b))
    reduced = log_mass(*((bound - s.new_tensor(reduced_mean)) / math.sqrt(v) for bound in (a, b)))
    overlap = log_mass(low / scale, high / scale)
    distance = (mu.double() - reduced_mean).square() / (2 * variance)
    width = math.log(b - a) - 0.5 * (2 * math.pi * variance).log()
    return width + overlap - log_mass(alpha, beta) - reduced - distance


def delta_f_loguniform(
    mu: Tensor, log_sigma: Tensor, *, a: float = -20.0, b: float = 0.0, p1: float = 8, p2: float = 23
) -> Tensor:
    """ΔF in nats for p̃ log-uniform on [2^-p2, 2^-p1]; elementwise, float64, positive where the reduced model is better.

    log((b - a) / (b̃ - ã)) + log q(ã <= log θ <= b̃), with ã = -p2 log 2 and b̃ = -p1 log 2. Raises UsageError for
    bounds that are not within those of the prior.
    """
    low, high = within(p1, p2, a, b)
    s, alpha, beta = standardised(mu, log_sigma, a, b)
    share = log_mass((low - mu.double()) / s, (high - mu.double()) / s) - log_mass(alpha, beta)
    return math.log((b - a) / (high - low)) + share


def within(p1: float, p2: float, a: float, b: float) -> tuple[float, float]:
    """The log bounds of 2^-p2 and 2^-p1; raises UsageError unless they are in order and between a and b."""
    low, high = -p2 * math.log(2), -p1 * math.log(2)
    if not a <= low < high <= b:
        raise UsageError(
            f"the reduced prior on 2^-{p2} .. 2^-{p1} must lie within e^{a:g} .. e^{b:g} and not be empty: "
            f"choose {-b / math.log(2):.3g} <= p1 < p2 <= {-a / math.log(2):.4g}"
        )
    return low, high


# ---------------------------------------------------------------------- scores


def lognormal_evidence(state: State[TruncatedLogNormal], threshold: float, middle: bool, variance: float) -> Tensor:
    """`threshold` - ΔF for a spike at the smallest θ, or in the middle of its bounds; (units.n,), nats."""
    q = state.posterior
    mean = (q.a + q.b) / 2 if middle else q.a
    reduced = {"reduced_mean": mean, "reduced_variance": variance}
    return of_units(threshold - delta_f_lognormal(q.mu, q.log_sigma, a=q.a, b=q.b, **reduced), q.units, state)


def loguniform_evidence(state: State[TruncatedLogNormal], p1: float, p2: float) -> Tensor:
    """-ΔF for θ between 2^-p2 and 2^-p1; (units.n,), nats."""
    q = state.posterior
    return of_units(-delta_f_loguniform(q.mu, q.log_sigma, a=q.a, b=q.b, p1=p1, p2=p2), q.units, state)


def signal_to_noise(state: State[TruncatedLogNormal]) -> Tensor:
    """log E[θ] / √Var[θ]; (units.n,)."""
    q = state.posterior
    return of_units(noise_snr(q.mu, q.log_sigma, a=q.a, b=q.b).log(), q.units, state)


def expected_noise(state: State[TruncatedLogNormal]) -> Tensor:
    """log E[θ] / 0.1; (units.n,)."""
    q = state.posterior
    return of_units((noise_mean(q.mu, q.log_sigma, a=q.a, b=q.b) / SMALLEST_MEAN).log(), q.units, state)


# ---------------------------------------------------------------------- methods


@register("bmrs-n")
def bmrs_n(kl: Weighting | float = "paper_mean", draws: DrawnFor = "example", lr_factor: float = 1.0) -> Pruner:
    """Model reduction to a log-normal spike at the smallest noise, as published (Wright et al. 2024).

    Formula: ΔF = log E_q[p̃(θ) / p(θ)],  p̃ a log-normal spike at the smallest θ;  leaves if ΔF >= -½ log 2π
    Deviations: none in the decision, which has the published code's missing factor 2π; `bmrs-n-exact` has it
        right.
    """
    score = partial(lognormal_evidence, threshold=PUBLISHED_THRESHOLD, middle=False, variance=1e-12)
    return Pruner(partial(MultiplicativeNoise, kl, draws, lr_factor), score, keep_above=0.0)


@register("bmrs-n-exact")
def bmrs_n_exact(kl: Weighting | float = "paper_mean", draws: DrawnFor = "example", lr_factor: float = 1.0) -> Pruner:
    """The same by the exact evidence, which provably removes nothing from the usual start.

    Formula: ΔF = log E_q[p̃(θ) / p(θ)],  p̃ a log-normal spike at the smallest θ;  leaves if ΔF >= 0
    Deviations: the factor 2π that the published code lacks is there.
    Oracle: test_bmrs.py::test_delta_f_of_a_lognormal_is_the_integral,
        test_bmrs.py::test_a_spike_at_the_lower_bound_never_wins_right_of_the_middle
    """
    score = partial(lognormal_evidence, threshold=0.0, middle=False, variance=1e-12)
    return Pruner(partial(MultiplicativeNoise, kl, draws, lr_factor), score, keep_above=0.0)


@register("bmrs-n-mid")
def bmrs_n_mid(kl: Weighting | float = "paper_mean", draws: DrawnFor = "example", lr_factor: float = 1.0) -> Pruner:
    """Model reduction to a log-normal spike in the middle of the log noise, by the exact evidence.

    Formula: ΔF = log E_q[p̃(θ) / p(θ)],  p̃ a log-normal spike at log θ = (a + b) / 2;  leaves if ΔF >= 0
    Deviations: the spike is not at the lower bound but in the middle of the log noise.
    """
    score = partial(lognormal_evidence, threshold=0.0, middle=True, variance=1e-2)
    return Pruner(partial(MultiplicativeNoise, kl, draws, lr_factor), score, keep_above=0.0)


@register("bmrs-u")
def bmrs_u(
    p1: float = 8,
    p2: float = 23,
    kl: Weighting | float = "paper_mean",
    draws: DrawnFor = "example",
    lr_factor: float = 1.0,
) -> Pruner:
    """Model reduction to log-uniform noise between 2^-p2 and 2^-p1 (Wright et al. 2024).

    Formula: ΔF = log((b - a) / (b̃ - ã)) + log q(ã <= log θ <= b̃);  leaves if ΔF >= 0
    Oracle: test_bmrs.py::test_delta_f_of_a_loguniform_is_the_integral,
        test_bmrs.py::test_decisions_fall_where_the_note_says
    """
    inference = MultiplicativeNoise(kl, draws, lr_factor)
    within(p1, p2, inference.a, inference.b)
    return Pruner(
        partial(MultiplicativeNoise, kl, draws, lr_factor), partial(loguniform_evidence, p1=p1, p2=p2), keep_above=0.0
    )


@register("snr")
def snr(kl: Weighting | float = "paper_mean", draws: DrawnFor = "example", lr_factor: float = 1.0) -> Pruner:
    """Signal-to-noise ratio of multiplicative noise, threshold 1 (Neklyudov et al. 2017).

    Formula: s = log(E[θ] / Var[θ]^½)
    Paper: neklyudov2017structured, wright2024bmrs
    Deviations: as in BMRS, whose noise it shares: one draw for each example, and the divergence weighted by
        layers.
    Oracle: test_bmrs.py::test_the_signal_to_noise_ratio_is_the_integral
    """
    return Pruner(partial(MultiplicativeNoise, kl, draws, lr_factor), signal_to_noise, keep_above=0.0)


@register("noise-mean")
def noise_mean_pruner(
    kl: Weighting | float = "paper_mean", draws: DrawnFor = "example", lr_factor: float = 1.0
) -> Pruner:
    """Expected multiplicative noise E[θ], threshold 0.1 (Wright et al. 2024).

    Formula: s = log(E[θ] / 0.1)
    Deviations: none known.
    Oracle: test_bmrs.py::test_the_mean_is_the_integral
    """
    return Pruner(partial(MultiplicativeNoise, kl, draws, lr_factor), expected_noise, keep_above=0.0)
