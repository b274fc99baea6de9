"""Second-order criteria on a Laplace posterior: optimal posterior damage, and its relatives.

Dhahri, Immer, Charpentier, Günnemann, Fortuin, "Shaving weights with Occam's razor", NeurIPS 2024 (arXiv
2402.15978), section 3. With Λ = cH + D the posterior precision, setting θ_k to 0 raises the negative log joint
by ½ Λ_kk θ_k² to second order. The curvature that the posterior already holds is all it needs: no further
pass over the data. Without the prior this is ½ H_kk θ_k², optimal brain damage (LeCun, Denker, Solla, NIPS 1989).

Paper: dhahri2024shaving
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

from torch import Tensor

from .closed_forms.posteriors import Laplace
from .curvature.estimate import CurvatureStructure
from .curvature.output_vectors import CurvatureKind
from .laplace.map import MAP
from .laplace.prior_structure import PriorStructure
from .pruner import Pruner, State, register
from .scores.moments import precision_only


@register("opd")
def opd_pruner(
    precision: float | Literal["tuned"] = 1.0, kind: CurvatureKind = "ggn", curvature: CurvatureStructure = "diag",
    prior: PriorStructure | None = None,
) -> Pruner[Laplace]:  # fmt: skip
    """Optimal posterior damage ½Λθ² of a Laplace posterior (Dhahri et al. 2024).

    Formula: s_k = ½ Λ_kk θ_k²,  Λ = c H + D
    Deviations: none in the score; the curvature is the exact Gauss-Newton diagonal by default, the published
        code's the empirical Fisher.
    Oracle: test_spam.py::test_opd_is_the_exact_rise_of_the_negative_log_joint_where_parameters_are_independent,
        test_methods.py::test_opd_is_half_posterior_precision_times_square_for_a_linear_gaussian_model
    """
    return Pruner(partial(MAP, precision, kind, curvature, prior), opd)


@register("opd-kfac")
def opd_kfac_pruner(
    precision: float | Literal["tuned"] = 1.0, kind: CurvatureKind = "ggn", prior: PriorStructure | None = None
) -> Pruner[Laplace]:
    """Optimal posterior damage of a Kronecker-factored posterior, whatever the training used (Dhahri et al. 2024).

    Formula: s_k = ½ Λ_kk θ_k²,  Λ = c (B ⊗ A) + D
    Deviations: the factors of layers that share weights over positions are sums over the positions.
    Oracle: test_kronecker.py::test_every_family_against_sums_over_positions
    """
    return Pruner(partial(MAP, precision, kind, "kfac", prior), opd)


@register("obd")
def obd_pruner(
    precision: float | Literal["tuned"] = 1.0, kind: CurvatureKind = "ggn", curvature: CurvatureStructure = "diag"
) -> Pruner[Laplace]:
    """Optimal brain damage ½Hθ², curvature without the prior (LeCun et al. 1989).

    Formula: s_k = ½ c H_kk θ_k²
    Paper: lecun1989optimal
    Deviations: the diagonal of the Gauss-Newton matrix is exact; theirs is propagated back from layer to layer
        without cross terms.
    Oracle: test_curvature.py::test_equals_explicit_jacobians,
        test_spam.py::test_relatives_of_opd_differ_by_the_prior_and_by_the_weight
    """
    return Pruner(partial(MAP, precision, kind, curvature), obd)


@register("precision-only")
def precision_only_pruner(
    precision: float | Literal["tuned"] = 1.0, kind: CurvatureKind = "ggn", curvature: CurvatureStructure = "diag",
    prior: PriorStructure | None = None,
) -> Pruner[Laplace]:  # fmt: skip
    """Posterior precision Λ without the weight: the ablation of optimal posterior damage (Dhahri et al. 2024).

    Formula: s_k = Λ_kk
    Deviations: none known.
    Oracle: test_spam.py::test_relatives_of_opd_differ_by_the_prior_and_by_the_weight
    """
    return Pruner(partial(MAP, precision, kind, curvature, prior), precision_only)


def opd(state: State[Laplace]) -> Tensor:
    """½ Λ_kk θ_k² in nats, summed over a unit's weights; shape (units.n,)."""
    return _damage(state, state.posterior.precision)


def obd(state: State[Laplace]) -> Tensor:
    """½ c H_kk θ_k² in nats, summed over a unit's weights; shape (units.n,)."""
    return _damage(state, state.posterior.curvature)


def _damage(state: State[Laplace], precision: Mapping[str, Tensor]) -> Tensor:
    mean = state.posterior.mean
    return state.units.gather({name: mean[name].square().mul_(h).mul_(0.5) for name, h in precision.items()})
