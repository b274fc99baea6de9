"""Inclusion probabilities after training, from the Laplace posterior of a network: the Savage-Dickey ratio.

The cheapest estimator of `spike_slab`: nothing is retrained. It is exact where the likelihood is Gaussian and the
posterior factorises; elsewhere the variances decide. The "conditional" ones, of a diagonal posterior, keep too many of
weights that stand in for each other; the marginal ones, of the whole posterior ("full") or of its Kronecker factors,
keep too few.

Formula: log odds_k = log π / (1-π) - log q(0) / p(0);  stays if PIP > ½
Paper: saha2024efficient
Deviations: a reconstruction: the estimator after training, for comparison with those that train.
Oracle: test_spike_slab.py::test_the_method_is_exact_for_orthogonal_designs,
    test_spike_slab.py::test_log_odds_are_the_formula_and_the_unit_of_the_weight_does_not_matter
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor

from ..datasets.errors import UsageError
from .closed_forms.arguments import positive
from .closed_forms.posteriors import Laplace
from .closed_forms.spike_slab import logit
from .curvature.marginal_variance import marginal_variance
from .curvature.output_vectors import CurvatureKind
from .laplace.map import MAP
from .pruner import Pruner, State, register
from .reduction.decision import spike
from .scores.inclusion import Select, pip_pruner

Variance = Literal["conditional", "kronecker", "full"]


@register("pip-laplace")
def pip_laplace(
    inclusion: float = 0.5,
    slab_variance: float | None = None,
    precision: float | Literal["tuned"] = 1.0,
    kind: CurvatureKind = "ggn",
    variance: Variance = "conditional",
    select: Select = "median",
    rate: float = 0.05,
) -> Pruner[Laplace]:
    """Inclusion probability from a Laplace posterior, after training (reconstruction of Saha, Liu, Liang 2024).

    The slab is the layerwise prior that the evidence fits to the network trained with `precision`; or, given its
    variance, the network is trained under it. `select`: PIP > ½, or a Bayesian false discovery rate.
    """
    logit(inclusion)
    if slab_variance is None:
        inference = partial(MAP, precision, kind, "diag", "layerwise")
    elif precision != 1.0:
        raise UsageError("slab_variance is the prior to train under: give it or precision, not both")
    else:
        inference = partial(MAP, float(1 / positive("slab_variance", slab_variance)), kind)
    score = partial(pip_log_odds, inclusion=inclusion, variance=variance, kind=kind)
    return pip_pruner(inference, score, select, rate, variance=variance)


def pip_log_odds(
    state: State[Laplace], inclusion: float = 0.5, variance: Variance = "conditional", kind: CurvatureKind = "ggn"
) -> Tensor:
    """Log odds of the inclusion probability of each unit, whose weights' evidence adds up; shape (units.n,)."""
    precision = None
    if variance != "conditional":
        marginal = marginal_variance(state.network, state.train, state.posterior, variance, kind)
        precision = {name: spread.reciprocal() for name, spread in marginal.items()}
    return logit(inclusion) - state.units.gather(spike(state, precision))
