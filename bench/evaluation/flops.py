"""Floating point operations of a forward pass, dense and with non-zero weights only."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ...architectures.running.modes import evaluating, unfused
from ...architectures.units.prunable import prunable


def flops(network: nn.Module, example: Tensor) -> dict[str, float]:
    """Floating-point operations for one example: dense, and without those whose weight is zero.

    A layer's own operations count by the share of its weights that is not zero. Masks alone save nothing
    of the dense count on ordinary hardware; the second number is what sparse kernels could save at best.
    """
    with evaluating(network), torch.no_grad(), unfused(), FlopCounterMode(display=False) as counter:
        network(example[:1])
    counts = {_path(name): sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    dense = counts["Global"]
    saved = sum(_own(counts, path) * (1 - density) for path, density in _layer_densities(network))
    return {
        "flops_dense": dense,
        "flops_nonzero": dense - saved,
        "flops_ratio": (dense - saved) / dense if dense else 1.0,
    }


def _path(name: str) -> str:
    """The counter prefixes module paths with the class of the root; "Global" stands for everything."""
    return name if name == "Global" else name.partition(".")[2]


def _own(counts: dict[str, int], path: str) -> float:
    """Operations of a module without those of its children."""
    prefix = f"{path}." if path else ""
    children = (
        c
        for name, c in counts.items()
        if name != "Global" and name.startswith(prefix) and "." not in name[len(prefix) :] and name != path
    )
    return counts.get(path, 0) - sum(children)


def _layer_densities(network: nn.Module) -> Iterator[tuple[str, float]]:
    """Modules that hold prunable weights, with the share of those that is not zero."""
    weights = {id(w) for w in prunable(network).values()}
    for path, module in network.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) in weights]
        if own:
            yield path, sum(int(w.count_nonzero()) for w in own) / sum(w.numel() for w in own)
