"""Magnitude pruning: small weights go first (Han et al., "Learning both weights and connections", NIPS 2015).

One-shot after training by default. The gradual schedule of Zhu & Gupta (arXiv 1710.01878) is
`when: during`, Han's iterative form `rounds: n`, uniform layer densities `allocation: layerwise`.

Formula: s_k = |θ_k|
Paper: han2015learning, zhu2018prune
Deviations: one cut instead of rounds of pruning and retraining unless `rounds` says otherwise; no dropout is
    adjusted.
Oracle: test_methods.py::test_magnitude_sums_over_the_slices_of_a_group
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from .closed_forms.posteriors import Laplace
from .curvature.estimate import CurvatureStructure
from .laplace.map import MAP
from .pruner import Pruner, register
from .scores.moments import magnitude

__all__ = ["magnitude", "magnitude_pruner"]


@register("magnitude")
def magnitude_pruner(
    precision: float | Literal["tuned"] = 1.0, curvature: CurvatureStructure = "diag"
) -> Pruner[Laplace]:
    """Weight magnitude |θ| after MAP training (Han et al. 2015).

    The score reads no curvature: it is that of the posterior on which `adjust: condition` moves what stays.
    """
    return Pruner(partial(MAP, precision, curvature=curvature), magnitude)
