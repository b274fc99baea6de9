"""Bayesian model reduction as methods: on mean-field, Laplace and SpaM posteriors; and mean field unpruned.

Marković, Friston, Kiebel, arXiv 2309.12095. Where the prior of every single weight follows the evidence, its width is
already the best, 1/δ = max(0, m² - v) of the weight's pseudo-observation m with variance v, and no spike has more
evidence: reduction would be vacuous, and is refused.

The default prior of mean field is the authors', a scale for each layer. That of empirical Bayes in closed form,
"layerwise", is exact but runs away: as the divergence shrinks weights their prior narrows, until layers are dead. With
few examples every learned scale does under the whole divergence, so that it is tempered (docs/posteriors.md).

The reduced prior is a spike at 0 of single weights, or a horseshoe over rows of them (`reduction.hierarchical`).

Formula: ΔF = log E_q[p̃(w) / p(w)],  of a spike: log q(0) / p(0)
Paper: markovic2023bayesian
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ..datasets.errors import UsageError
from .closed_forms.model_reduction import delta_f, delta_f_multivariate
from .closed_forms.posteriors import Conjugate, Laplace
from .curvature.estimate import CurvatureStructure
from .curvature.output_vectors import CurvatureKind
from .laplace.free_energy import free_energy, no_longer_rises
from .laplace.hyperparameters import UpdateRule
from .laplace.map import MAP
from .laplace.prior_structure import PriorStructure
from .mean_field import AUTHORS, Prior, mean_field
from .opd import opd
from .pruner import Pruner, register
from .reduction import hierarchical as reduced_horseshoe
from .reduction.decision import Population, Rule, kept, summary
from .spam import Preset, trained_by
from .variational.weight_noise import Draws

__all__ = ["bmr", "bmr_laplace", "bmr_spam", "delta_f", "delta_f_multivariate"]

Reduced = Literal["spike", "horseshoe"]


def reducing(inference: Any, rule: Rule, population: Population, reduced: Reduced = "spike") -> Pruner[Any]:
    """What decides by ΔF, and ranks by posterior damage.

    Raises UsageError for options of spikes where the reduced prior is a horseshoe.
    """
    if reduced == "horseshoe":
        if (rule, population) != ("vb4", "live"):
            raise UsageError(
                f"rule={rule!r} and population={population!r} are about spikes: with reduced='horseshoe' leave both out"
            )
        return Pruner(inference, opd, decide=reduced_horseshoe.kept, report=reduced_horseshoe.summary)
    told = {"rule": rule, "population": population}
    return Pruner(inference, opd, decide=partial(kept, **told), report=partial(summary, **told))


@register("bmr")
def bmr(
    rule: Rule = "vb4", population: Population = "live", prior: Prior = "student",
    precision: float | Literal["tuned"] = 1.0, start: float | None = None, kl: float | None = None,
    warm_up: tuple[int, int] | float | None = None, draws: Draws = "local", preset: Literal["authors"] | None = None,
    reduced: Reduced = "spike",
) -> Pruner[Conjugate]:  # fmt: skip
    """Bayesian model reduction on a mean-field posterior (Marković et al. 2024).

    `preset: authors` is their inference; give it their cycle, `when: during` with `every`, and their optimiser.
    `reduced: horseshoe` has rows leave by the scales of a narrower prior, instead of weights by a spike.

    Deviations: local reparameterisation, a start at the network, and a tempered divergence (`kl`), as the whole one
        runs away from few data; `preset: authors` is theirs.
    Oracle: test_bmr.py::test_delta_f_is_the_integral, test_bmr.py::test_decisions_are_those_of_plain_code
    """
    if preset == "authors":
        return reducing(AUTHORS, "vb4", "full" if reduced == "spike" else "live", reduced)
    return reducing(mean_field(prior, precision, start, kl, warm_up, draws), rule, population, reduced)


@register("bmr-laplace")
def bmr_laplace(
    rule: Rule = "vb4", precision: float | Literal["tuned"] = 1.0, kind: CurvatureKind = "ggn",
    curvature: CurvatureStructure = "diag", population: Population = "live", reduced: Reduced = "spike",
    stop: Literal["evidence"] | None = None,
) -> Pruner[Laplace]:  # fmt: skip
    """Bayesian model reduction on a Laplace posterior with evidence-tuned layerwise prior (Marković et al. 2024).

    `reduced: horseshoe` has rows leave by the scales of a narrower prior, instead of weights by a spike. `stop:
    evidence` ends the rounds once that of the network, pruned and trained on, no longer rises (Beckers et al. 2024).

    Paper: markovic2023bayesian, mackay1992practical, beckers2024principled
    Deviations: the paper's posterior is mean field; a Laplace posterior is this suite's combination.
    Oracle: test_bmr.py::test_the_spike_on_a_laplace_posterior_is_that_of_the_curvature,
        test_full_curvature.py::test_each_weight_of_a_correlated_regression_has_its_exact_bayes_factor
    """
    pruner = reducing(partial(MAP, precision, kind, curvature, "layerwise"), rule, population, reduced)
    if stop is None:
        return pruner
    own = pruner.report or (lambda state: {})
    return replace(pruner, stop=no_longer_rises, report=lambda state: own(state) | free_energy(state))


@register("bmr-spam", revision=2)
def bmr_spam(
    rule: Rule = "vb4", prior: PriorStructure = "layerwise", curvature: CurvatureStructure = "diag",
    kind: CurvatureKind = "rademacher", frequency: PositiveInt = 5, burn_in: NonNegativeInt = 0,
    steps: PositiveInt = 100, temperature: PositiveFloat | None = None, update: UpdateRule = "adam",
    population: Population = "live", preset: Preset | None = None,
) -> Pruner[Laplace]:  # fmt: skip
    """Bayesian model reduction on the posterior of SpaM training (Marković et al. 2024; Dhahri et al. 2024).

    `preset: authors` trains as Dhahri et al. do, at temperature 1.

    Paper: markovic2023bayesian, dhahri2024shaving
    Deviations: no paper has this combination: the evidence of training decides what leaves, too.
    Oracle: test_bmr.py::test_delta_f_is_the_integral,
        test_spam.py::test_gradient_equals_autograd_and_mackay_is_its_root
    """
    if prior in ("unitwise", "parameterwise"):
        raise UsageError(
            f"bmr-spam: with prior={prior!r} the evidence has already fitted a width to single weights or biases, and "
            "setting them to 0 never gains (ΔF <= 0): choose the prior scalar or layerwise"
        )
    trained = trained_by(preset, prior, curvature, kind, frequency, burn_in, steps, temperature, update)
    return reducing(partial(replace, trained), rule, population)
