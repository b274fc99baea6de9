"""Where two networks part: the first layer, in the order of execution, whose outputs differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...datasets.trees import Inputs
from ..running.call import called

Call = tuple[str, int]  # a module's path, and how often it had been called before


def first_difference(one: nn.Module, two: nn.Module, x: Inputs, tolerance: float) -> tuple[str, float] | None:
    """The first module whose outputs for `x` in both networks are more than `tolerance` apart, and how far.

    Distances are relative to max(1, largest absolute output of the module). Where `two` has fewer channels,
    they are compared with those channels of `one`, in their order, that they match best: a channel that was
    cut has no partner. Modules whose outputs differ in more than one axis are passed over; the network
    itself has the path "".
    """
    here, there = outputs_by_call(one, x), outputs_by_call(two, x)
    for call, output in here.items():
        if call in there and (apart := distance(output, there[call])) is not None:
            relative = apart / max(1.0, float(output.abs().max()))
            if not relative <= tolerance:
                return call[0], relative
    return None


def first_non_finite(network: nn.Module, x: Inputs) -> str | None:
    """The first module with an output for `x` that is not finite; "" is the network itself."""
    for (name, _), output in outputs_by_call(network, x).items():
        if not bool(output.isfinite().all()):
            return name
    return None


@torch.no_grad()
def outputs_by_call(network: nn.Module, x: Inputs) -> dict[Call, Tensor]:
    """What every call of a module returned, in the order in which the calls ended."""
    seen: dict[Call, Tensor] = {}
    calls: Counter[str] = Counter()

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                seen[name, calls[name]] = output.clone()  # a later module may work in place
                calls[name] += 1

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules()]
    try:
        called(network, x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def distance(full: Tensor, cut: Tensor) -> float | None:
    """Largest absolute difference of two outputs; None if their shapes cannot be compared."""
    if full.dim() != cut.dim() or full.numel() == 0 or cut.numel() == 0:
        return None
    axes = [axis for axis, (a, b) in enumerate(zip(full.shape, cut.shape, strict=True)) if a != b]
    if not axes:
        return float((full - cut).abs().max())
    if len(axes) > 1 or full.shape[axes[0]] < cut.shape[axes[0]]:
        return None
    return _best_match(*(each.movedim(axes[0], 0).flatten(1) for each in (full, cut)))


def _best_match(full: Tensor, cut: Tensor) -> float:
    """The smallest possible largest difference between the rows of `cut` and as many rows of `full`, in order.

    With c(i, j) the difference of two rows, D(i, j) = min(D(i-1, j), max(D(i-1, j-1), c(i, j))) is that of
    the first i rows of `full` and the first j of `cut`.
    """
    cost = torch.cdist(full, cut, p=float("inf"))
    best = torch.full((len(cut) + 1,), float("inf"), dtype=cost.dtype, device=cost.device)
    best[0] = 0.0
    for row in cost:
        best[1:] = torch.minimum(best[1:], torch.maximum(best[:-1], row))
    return float(best[-1])
