"""OPD: optimal posterior damage (Dhahri, Immer, Charpentier, Günnemann, Fortuin, NeurIPS 2024, arXiv 2402.15978).

Setting θ_k to 0 raises the negative log joint by ½ Λ_kk θ_k² to second order, Λ the posterior precision
(curvature plus prior precision) of a Laplace approximation; "Shaving weights with Occam's razor", section 3.
The curvature that the posterior already holds is all it needs: no further pass over the data.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor

from .curvature import CurvatureKind
from .gaussian import MAP
from .posteriors import Gaussian
from .pruner import Pruner, State, register


@register("opd")
def opd_pruner(precision: float | Literal["tuned"] = 1.0, kind: CurvatureKind = "ggn") -> Pruner[Gaussian]:
    """Optimal posterior damage ½Λθ² of a diagonal Laplace posterior (Dhahri et al. 2024)."""
    return Pruner(partial(MAP, precision, kind), opd)


def opd(state: State[Gaussian]) -> Tensor:
    """½ Λ_kk θ_k² in nats, summed over a unit's weights; shape (units.n,)."""
    posterior = state.posterior
    return state.units.gather({n: 0.5 * posterior.precision[n] * posterior.mean[n].square() for n in posterior.mean})
