"""Optimal brain surgeon on a correlated Laplace posterior, in rounds: what leaves, and where the others go.

Hassibi, Stork, NIPS 1992; Singh, Alistarh, "WoodFisher", NeurIPS 2020. A weight costs θ²/(2 Σ_qq), and what stays moves
to the mean of the posterior given that all of them are 0 (`closed_forms.conditioning`). The evidence fits the damping
(MacKay 1992). Each round has the curvature of other examples: on it rests more than on the form of the posterior. Units
leave by what reads them.

`through: writes` is Kron-OBS (Wang, Grosse, Fidler, Zhang, "EigenDamage", ICML 2019): a unit leaves by the rows that
write it, w'Aw / (2 [G⁻¹]_qq) and its bias, and other rows move; its readers' slices are zeroed.

Formula: s_q = θ_q² / (2 Σ_qq),  θ_S ← θ_S - Σ_SQ Σ_QQ⁻¹ θ_Q
Paper: hassibi1992second, singh2020woodfisher, wang2019eigendamage
Deviations: the papers add up the moves of single weights (`update: singles`); the damping is the prior's precision,
    and is fitted. Published code of Kron-OBS has Σ w_j² A_jj' summed for w'Aw, and the sum of single rows' moves.
Oracle: test_conditioning.py::test_every_structure_equals_the_dense_formula_in_two_rounds,
    test_adjusting.py::test_a_weights_cost_is_the_surgeons,
    test_adjusting_writes.py::test_rows_cost_and_move_as_in_closed_form
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import PositiveInt

from .closed_forms.posteriors import Laplace
from .conditioning.adjust import condition, singles
from .conditioning.costs import report, surgeon
from .conditioning.reads import Through
from .curvature.estimate import CurvatureStructure
from .curvature.output_vectors import CurvatureKind
from .laplace.map import MAP
from .laplace.prior_structure import PriorStructure
from .pruner import Pruner, register

Update = Literal["joint", "singles", "none"]
UPDATES: dict[Update, Any] = {"joint": "condition", "singles": singles, "none": "none"}


@register("obs")
def obs(
    precision: float | Literal["tuned"] = 1.0, kind: CurvatureKind = "ggn", curvature: CurvatureStructure = "kfac",
    prior: PriorStructure | None = "scalar", examples: PositiveInt | None = 5000, update: Update = "joint",
    rounds: PositiveInt = 15, through: Through = "reads",
) -> Pruner[Laplace]:  # fmt: skip
    """Optimal brain surgeon θ²/2Σ in rounds, survivors at the posterior's conditional mean (Hassibi & Stork 1992)."""
    rule = "mackay" if prior in ("scalar", "layerwise") else None
    inference = partial(MAP, precision, kind, curvature, prior, examples, rule)
    if through == "reads":
        return Pruner(inference, surgeon, report=report, rounds=rounds, adjust=UPDATES[update])
    rules: dict[Update, Any] = {"joint": condition, "singles": singles}
    adjust = partial(rules[update], through=through) if update in rules else "none"
    return Pruner(inference, partial(surgeon, through=through), report=report, rounds=rounds, adjust=adjust)
