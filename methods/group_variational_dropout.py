"""Sparse variational dropout of weights and of the structures they form, in feed-forward networks.

The factors of Chirkova, Lobacheva, Vetrov (EMNLP 2018, arXiv 1810.10927), who have them on the neurons of recurrent
networks, on every neuron, filter, head and hidden unit: what the network reads from a structure is multiplied by its
factor, which folds into the weights that read it (as in `noise.carriers`). A structure leaves when its factor does, or
when no weight reads it any more.

Formula: W_ij = w_ij z_i,  z_i ~ N(θ_i, σ_i²);  structure i leaves if log σ_i² / θ_i² > 3
Paper: chirkova2018bayesian, molchanov2017variational
Deviations: the paper has factors in recurrent networks; those on feed-forward structures are this suite's. The
    divergence is tempered (`kl`).
Oracle: test_group_dropout.py::test_the_penalty_is_the_sum_over_weights_and_factors_and_its_gradient_is_right,
    test_group_dropout.py::test_worth_is_the_least_of_what_a_weight_depends_on
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from .closed_forms.posteriors import Gaussian
from .pruner import Pruner, register
from .structured_dropout.factored import Ties
from .structured_dropout.groups import GroupVariationalDropout
from .structured_dropout.worth import worth
from .variational.weight_dropout import WHOLE, Form, Start


@register("group-variational-dropout", revision=2)
def group_variational_dropout_pruner(
    threshold: float = 3.0, form: Form = "exact", warm_up: tuple[int, int] | float = 0.5, kl: float = 0.2,
    weights: Start = "network", start: float | None = None, ties: Ties = "example",
    preset: Literal["authors"] | None = None,
) -> Pruner[Gaussian]:  # fmt: skip
    """Variational dropout of weights and of whole structures: log α below 3 stays (Chirkova et al. 2018).

    `preset: authors` has the whole divergence.
    """
    if preset == "authors":
        warm_up, kl = WHOLE
    inference = partial(GroupVariationalDropout, kl, warm_up, form=form, weights=weights, start=start, ties=ties)
    return Pruner(inference, worth, keep_above=-threshold)
