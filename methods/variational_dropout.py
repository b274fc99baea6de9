"""Sparse variational dropout: weights of a high dropout rate leave.

Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017 (arXiv 1701.05369). The
divergence and the inference, which the methods with structures share, are in `variational.weight_dropout`.

Formula: s_k = -log α_k,  α_k = σ_k² / θ_k²;  leaves if log α_k > 3
Paper: molchanov2017variational, kingma2015variational
Deviations: the divergence is exact, by Dawson's integral, instead of the published fit (`form: molchanov`); training
    starts from the network, not from `weights: small`; the divergence is tempered (`kl`); `preset: authors` is theirs.
Oracle: test_variational_dropout.py::test_exact_divergence_three_ways,
    test_sparse_variational_dropout.py::test_scores_are_minus_log_alpha_and_of_groups_from_summed_moments
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor

from .closed_forms.posteriors import Gaussian
from .pruner import Pruner, State, register
from .scores.moments import Moment, ranking
from .scores.signal_to_noise import log_signal
from .variational.weight_dropout import TINY, WHOLE, Form, Start, VariationalDropout, kl

__all__ = ["VariationalDropout", "kl", "signal_over_noise", "variational_dropout_pruner"]


@register("variational-dropout", revision=2)
def variational_dropout_pruner(
    threshold: float = 3.0, form: Form = "exact", warm_up: tuple[int, int] | float = 0.5, kl: float = 0.2,
    weights: Start = "network", start: float | None = None, preset: Literal["authors"] | None = None,
    by: Moment = "both",
) -> Pruner[Gaussian]:  # fmt: skip
    """Sparse variational dropout: what has log α below 3 stays (Molchanov, Ashukha, Vetrov 2017).

    `weights: small` is the authors' initialisation; `preset: authors` has the whole divergence too. `by` a moment
    alone ranks by |θ| or by 1/σ², and decides no sparsity.
    """
    if preset == "authors":
        warm_up, kl, weights = *WHOLE, "small"
    inference = partial(VariationalDropout, kl, warm_up, form=form, weights=weights, start=start)
    return Pruner(inference, ranking(by, signal_over_noise), keep_above=-threshold if by == "both" else None)


def signal_over_noise(state: State[Gaussian]) -> Tensor:
    """- log α, in which units of several weights count their squared means and variances together; (units.n,)."""
    return log_signal(state.units, state.posterior, TINY)
