"""SOSP: second-order structured pruning, in which structures count together and not each by itself.

Nonnenmacher, Pfeil, Steinwart, Reeb, "SOSP: efficiently capturing global correlations by second-order structured
pruning", ICLR 2022, arXiv 2110.11395 (SOSP-H). Σ_t θ_s' H θ_t over all structures t is one product of the Gauss-Newton
matrix for all of them: what a structure has to do with the others counts, also with those that will stay.

Formula: s = |θ_s' g| + ½ |θ_s' H θ|,  θ all that structures own,  g and H of the summed loss
Paper: nonnenmacher2022sosp
Deviations: a reconstruction, as the published repository holds no code. In nats of the whole data set.
Oracle: test_sosp.py::test_scores_are_those_of_the_explicit_matrix,
    test_sosp.py::test_it_is_obd_where_nothing_correlates
"""

from __future__ import annotations

from functools import partial
from itertools import chain

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..architectures.units.prunable import trainable
from .closed_forms.posteriors import Laplace
from .laplace.evidence import drawn
from .laplace.map import MAP
from .pruner import Pruner, State, register
from .scores.gauss_newton import gradient_and_product
from .scores.scratch import scratch

BATCH = 256


@register("sosp")
def sosp_pruner(examples: PositiveInt | None = 1000, precision: float = 1.0) -> Pruner[Laplace]:
    """Second-order damage with all interactions of structures (SOSP-H, reconstruction, Nonnenmacher et al. 2022)."""
    return Pruner(partial(MAP, precision), partial(sosp, examples=examples))


def sosp(state: State, examples: int | None) -> Tensor:
    """|θ_s' g| + ½ |θ_s' H θ|, nats; shape (units.n,)."""
    part, share = drawn(state.train, examples)
    owned = state.units.shapes.keys()
    with scratch(state.network, "eval") as (network, _):
        weights = {name: p for name, p in trainable(network).items() if name in owned}
        theta = [p.detach() for p in weights.values()]
        sums = [[torch.zeros_like(t, dtype=torch.float64) for t in theta] for _ in range(2)]
        for batch in part.batches(BATCH):
            found = gradient_and_product(network, list(weights.values()), theta, batch, part.likelihood)
            for total, new in zip(chain(*sums), chain(*found), strict=True):
                total += new
    first, second = (
        state.units.gather({name: share * t * s for name, t, s in zip(weights, theta, total, strict=True)})
        for total in sums
    )
    return first.abs() + 0.5 * second.abs()
