"""The mask that keeps a budget of units, parameters or operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...architectures.compaction.compact import compact
from ...architectures.running.plain import copied
from ...architectures.units.mask import Mask
from ...architectures.units.vector import Units
from ...datasets.errors import UsageError
from ...methods.pruner import Pruner, State
from ..evaluation.flops import flops
from ..spec.budget import OF_UNITS, Budget
from .ranking import keep_count
from .reselect import reselected
from .select import decided, select


def mask_for(
    scores: Tensor, state: State, pruner: Pruner, sparsity: float | None, among: Tensor | None = None,
    budget: Budget = OF_UNITS,
) -> Mask:  # fmt: skip
    """The mask for a target sparsity, or for the method's own threshold (None).

    Raises UsageError for a sparsity that cannot be had.
    """
    units = state.units
    floor = budget.at_least if units.removable else 0
    if sparsity is None:
        kept = decided(scores, state, pruner, floor, among)
        return Mask(units, _rounded(kept, scores, units, among, budget.round_to))

    def keeping(count: int) -> Mask:
        kept = reselected(select(scores, state, count, pruner.allocation, among, floor), state, pruner, among)
        return Mask(units, _rounded(kept, scores, units, among, budget.round_to))

    present = units.n if among is None else int(among.sum())
    if budget.of == "units":
        return keeping(min(keep_count(units.n, sparsity), present))
    smallest = max(1, sum(min(floor, size) for size in units.layer_sizes))
    return _first_that_reaches(sparsity, smallest, present, keeping, _removed_share(budget, state))


def _first_that_reaches(
    sparsity: float, smallest: int, present: int, keeping: Callable[[int], Mask], removed: Callable[[Mask], float]
) -> Mask:
    """The mask of most units that removes at least the share; found by halving, as fewer units are less work."""
    low, high = smallest, present
    if removed(best := keeping(low)) < sparsity:
        most = removed(best)
        raise UsageError(
            f"sparsity {sparsity} cannot be reached: the smallest layers allowed remove {most:.4f}; ask less"
        )
    while low < high:
        middle = (low + high + 1) // 2
        mask = keeping(middle)
        low, high, best = (middle, high, mask) if removed(mask) >= sparsity else (low, middle - 1, best)
    return best


def _removed_share(budget: Budget, state: State) -> Callable[[Mask], float]:
    """What share of the network's parameters, or operations, leaves with the units that a mask removes."""
    if budget.of == "parameters":
        total = sum(p.numel() for p in state.network.parameters())
        return lambda mask: sum(int((~entries).sum()) for entries in mask.tensors.values()) / total
    plain = _without_hooks(state.network)  # noise of an inference has the width of the dense network
    example = state.train[:1].x
    dense = flops(plain, example)["flops_dense"]
    return lambda mask: 1 - flops(compact(plain, mask), example)["flops_dense"] / dense


def _without_hooks(network: nn.Module) -> nn.Module:
    plain = copied(network)
    for module in plain.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return plain


def _rounded(kept: Tensor, scores: Tensor, units: Units, among: Tensor | None, multiple: int) -> Tensor:
    """Every layer's number of units rounded up to a multiple, with the best that leave now, as far as they go."""
    if multiple == 1:
        return kept
    leaving = ~kept if among is None else among & ~kept
    parts = zip(*(units.split(v) for v in (kept, scores.cpu(), leaving)), strict=True)
    return torch.cat([_filled(layer, own, room, -int(layer.sum()) % multiple) for layer, own, room in parts])


def _filled(kept: Tensor, scores: Tensor, leaving: Tensor, missing: int) -> Tensor:
    order = scores.masked_fill(~leaving, -torch.inf).sort(descending=True, stable=True).indices
    room = min(missing, int(leaving.sum()))
    filled = kept.clone()
    filled[order[:room]] = True
    return filled
