"""CBS: combinatorial brain surgeon, which swaps weights that leave with weights that stay.

Yu, Serra, Ramalingam, Zhe, "The combinatorial brain surgeon: pruning weights that cancel one another in neural
networks", ICML 2022, arXiv 2203.04466. What leaves costs ½ w_S' Λ_SS w_S, and cancels where it is of one mind: from the
smallest weights on, one that returns is swapped with one that leaves as long as that costs less. Survivors then move
for all that leaves at once. With more `starts` than one, others are the smallest weights of random chunks, and swaps
begin where the training loss is least.

Formula: a swap of i ∈ S with j gains ½ (α_i - β_j + 2 w_i Λ_ij w_j),  α_i = 2 w_i (Λw_S)_i - Λ_ii w_i²,
    β_j = 2 w_j (Λw_S)_j + Λ_jj w_j²
Paper: yu2022combinatorial
Deviations: of the best candidates on both sides the best pair is swapped first, where theirs look at ten neighbours in
    rank; one start, from the magnitudes, unless more are asked for; the precision has the prior's in it, which the
    evidence fits.
Oracle: test_supports.py::test_the_gain_of_every_swap_is_brute_force,
    test_supports.py::test_no_swap_is_left_that_gains,
    test_supports.py::test_starts_are_the_smallest_of_chunks_and_the_best_of_them_is_taken
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor

from .closed_forms.flat import flat
from .closed_forms.likelihood import summed_loss
from .closed_forms.low_rank import rows_behind
from .closed_forms.posteriors import Laplace
from .closed_forms.quota import Quota, best_of_parts
from .conditioning.reads import places
from .laplace.map import MAP
from .laplace.prior_structure import PriorStructure
from .pruner import Pruner, State, register
from .scores.moments import magnitude
from .scores.scratch import scratch

CANDIDATES = 256  # on either side
LEAST = 1e-6  # gain of a swap, as a share of the cost
CHUNK = 100  # weights of a cell in one


@register("cbs")
def cbs_pruner(
    precision: float = 1.0, prior: PriorStructure | None = "scalar", examples: PositiveInt | None = 1000,
    passes: PositiveInt = 200, rounds: PositiveInt = 1, starts: PositiveInt = 1,
) -> Pruner[Laplace]:  # fmt: skip
    """Swaps of weights that leave and stay by what they cost together (combinatorial brain surgeon, Yu et al. 2022)."""
    inference = partial(MAP, precision, "ef", "lowrank", prior, examples)
    return Pruner(inference, magnitude, reselect=partial(reselect, passes, starts), rounds=rounds, adjust="condition")


def reselect(passes: int, starts: int, state: State[Laplace], kept: Tensor, cells: Tensor) -> Tensor:
    """What stays after swaps within cells, boolean (units.n,); each pass has new candidates."""
    if starts > 1:
        worth = magnitude(state).cpu()
        others = [chunked(worth, kept, cells, state.generator) for _ in range(starts - 1)]
        kept = min([kept, *others], key=partial(masked_loss, state))
    posterior, at = state.posterior, places(state.units, state.posterior.mean)
    mean, prior, whole = flat(posterior.mean), flat(posterior.prior), rows_behind(posterior.whole)
    at, cells, kept = (t.to(mean.device) for t in (at, cells, kept.clone()))
    w, diagonal = mean[at], whole.precision(prior)[at]
    for _ in range(passes):
        gone = ~kept & (cells >= 0)
        leaving = torch.zeros_like(mean)
        leaving[at] = w * gone
        pull = whole.product(prior, leaving)[at]
        alike = 2 * w * pull
        offers = [(alike - diagonal * w.square()).masked_fill(~gone, -torch.inf)]
        offers.append((-alike - diagonal * w.square()).masked_fill(~kept, -torch.inf))
        counts = (min(CANDIDATES, int(side.sum())) for side in (gone, kept))
        few = torch.cat([offer.topk(n).indices for offer, n in zip(offers, counts, strict=True)])
        few = few[at[few].argsort()]
        among = torch.zeros_like(mean, dtype=torch.bool)
        among[at[few]] = True
        columns = whole.columns(among)
        block = columns.T @ columns + prior[at[few]].diag()
        swaps = Swaps(block, w[few], cells[few])
        stays = swaps.made(pull[few], kept[few], LEAST * float(leaving[at] @ pull))
        if torch.equal(stays, kept[few]):
            break
        kept[few] = stays
    return kept.cpu()


def chunked(worth: Tensor, kept: Tensor, cells: Tensor, generator: torch.Generator) -> Tensor:
    """As many of every cell as are `kept`, in even shares those of most `worth` in random chunks; all (units.n,)."""
    there = (cells >= 0).nonzero().squeeze(1)
    order = there[torch.randperm(len(there), generator=generator)]
    quota = Quota.of(cells[order].view(1, 1, -1), kept[order].view(1, 1, -1), CHUNK)
    found = kept.clone()
    found[order] = best_of_parts(quota.part.flatten(), worth[order], quota.stays)
    return found


@torch.no_grad()
def masked_loss(state: State[Laplace], kept: Tensor) -> float:
    """Of the training examples, in nats, of a network with nothing else left, where it was."""
    with scratch(state.network, "eval") as (replica, weights), torch.no_grad():
        for name, stays in state.units.scatter(kept).items():
            weights[name].mul_(stays.to(weights[name].device))
        return float(summed_loss(replica, state.train))


@dataclass(frozen=True)
class Swaps:
    """Candidates: Λ of them (k, k), their weights (k,), and the cells within which they may be swapped (k,)."""

    block: Tensor
    w: Tensor
    cells: Tensor

    def gains(self, pull: Tensor, kept: Tensor) -> Tensor:
        """By how much w_S'Λw_S falls when i returns and j leaves, (k, k); minus infinity where that is no swap."""
        alike, own = 2 * self.w * pull, self.block.diagonal() * self.w.square()
        gains = (alike - own).unsqueeze(1) - (alike + own) + 2 * self.w.unsqueeze(1) * self.block * self.w
        allowed = ~kept.unsqueeze(1) & kept & (self.cells.unsqueeze(1) == self.cells)
        return gains.masked_fill(~allowed, -torch.inf)

    def made(self, pull: Tensor, kept: Tensor, least: float) -> Tensor:
        """Who stays once no swap gains more than `least`; `pull` is (Λw_S)_k at first."""
        pull, kept = pull.clone(), kept.clone()
        for _ in range(len(kept)):
            gains = self.gains(pull, kept)
            at = int(gains.argmax())
            i, j = divmod(at, len(kept))
            if not float(gains[i, j]) > least:
                break
            pull += self.block[:, j] * self.w[j] - self.block[:, i] * self.w[i]
            kept[i], kept[j] = True, False
        return kept
