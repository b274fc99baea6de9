"""CHITA: the support of a sparse ridge regression on the gradients of examples, by iterative hard thresholding.

Benbaki et al., "Fast as CHITA: neural network pruning with combinatorial optimization", ICML 2023, arXiv 2302.14623.
With the empirical Fisher of n examples the posterior's quadratic is the error of a regression of n rows, and the k
weights to keep are those of its best sparse solution. From the largest weights on, steps descend on the quadratic, and
what is then largest stays; every fifth step the weights are refitted to where they stand, which is conditioning. In
rounds, each with gradients at the network as it is then.

Formula: min ½ (w - μ)'(A'A + δI)(w - μ) over |w|₀ ≤ k,  w ← P_k(w - t Λ(w - μ)),  t = |g|²/(g'Λg)
Paper: benbaki2023fast
Deviations: rows are gradients of single examples, not of batches; the quadratic has its minimum at the weights (no
    term of first order); steps are those of steepest descent, without line search and active set; what has left in a
    round stays away; the prior precision is fitted by the evidence.
Oracle: test_supports.py::test_thresholding_recovers_a_planted_support,
    test_supports.py::test_no_support_costs_more_than_the_one_it_began_with
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor

from .closed_forms.conditioning import Conditional
from .closed_forms.flat import flat
from .closed_forms.low_rank import rows_behind
from .closed_forms.posteriors import Laplace
from .closed_forms.quota import best_of_parts
from .conditioning.reads import places
from .laplace.map import MAP
from .laplace.prior_structure import PriorStructure
from .pruner import Pruner, State, register
from .scores.moments import magnitude

REFIT = 5  # steps from one to the next


@register("chita")
def chita_pruner(
    precision: float = 1.0, prior: PriorStructure | None = "scalar", examples: PositiveInt | None = 500,
    thresholdings: PositiveInt = 20, rounds: PositiveInt = 15,
) -> Pruner[Laplace]:  # fmt: skip
    """Iterative hard thresholding on the posterior's quadratic, then conditioning (CHITA, Benbaki et al. 2023)."""
    inference = partial(MAP, precision, "ef", "lowrank", prior, examples)
    return Pruner(
        inference, magnitude, reselect=partial(reselect, thresholdings), rounds=rounds, adjust="condition"
    )  # fmt: skip


def reselect(thresholdings: int, state: State[Laplace], kept: Tensor, cells: Tensor) -> Tensor:
    """The support that costs least of those that thresholding passes, as many of every cell; boolean, (units.n,)."""
    posterior, at = state.posterior, places(state.units, state.posterior.mean)
    mean, prior, whole = flat(posterior.mean), flat(posterior.prior), rows_behind(posterior.whole)

    def threshold(w: Tensor) -> Tensor:
        stays, there = torch.ones_like(mean, dtype=torch.bool), cells >= 0
        chosen = torch.zeros_like(kept)
        chosen[there] = best_of_parts(cells[there], w[at].abs().cpu()[there], cells[kept].bincount(minlength=1))
        stays[at] = chosen.to(stays.device)
        return stays

    first = torch.ones_like(mean, dtype=torch.bool)
    first[at] = kept.to(first.device)
    refit = partial(posterior.condition, mean)
    return thresholded(mean, first, partial(whole.product, prior), refit, threshold, thresholdings)[at].cpu()


def thresholded(
    mean: Tensor, kept: Tensor, product: Callable[[Tensor], Tensor], refit: Callable[[Tensor], Conditional],
    threshold: Callable[[Tensor], Tensor], steps: int,
) -> Tensor:  # fmt: skip
    """The support of least cost among those that are refitted, boolean (P,); `kept` is the first of them.

    `product` is that with the precision, `threshold` the support of weights (P,), `refit` the mean given a support.
    """
    found = refit(kept)
    best, cost, w = kept, found.cost, found.mean
    for step in range(1, steps + 1):
        g = product(w - mean)
        if not (curved := g @ product(g)) > 0:
            break
        w = w - (g @ g) / curved * g
        support = threshold(w)
        w = w.masked_fill(~support, 0)
        if step % REFIT == 0:
            if torch.equal(support, kept):
                break
            kept, found = support, refit(support)
            w = found.mean
            if found.cost < cost:
                best, cost = support, found.cost
    return best
