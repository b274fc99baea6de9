"""Floating point operations of a forward pass, dense and with non-zero weights only.

Attention and recurrent layers compute in plain operations while they are counted: fused kernels hide theirs. An
operation is a weight's if one of its operands is the weight, or a view of it; the products of queries, keys and values
are nobody's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ...architectures.running.modes import as_plain_operations, evaluating
from ...architectures.units.prunable import prunable
from ...datasets.trees import Inputs, rows
from ..spec.metrics import register


@register("flops")
def flops(network: nn.Module, example: Inputs) -> dict[str, float]:
    """Floating-point operations for one example: dense, and without those whose weight is zero.

    The operations of a weight count by the share of it that is not zero. Masks alone save nothing of the dense count
    on ordinary hardware; the second number is what sparse kernels could save at best.
    """
    weights = {name: weight.detach() for name, weight in prunable(network).items()}
    with evaluating(network), torch.no_grad(), as_plain_operations(), _Counter(weights) as counter:
        network(rows(example, slice(1)))
    dense = counter.total
    saved = sum(count * (1 - _density(weights[name])) for name, count in counter.of_weights.items())
    return {
        "flops_dense": dense,
        "flops_nonzero": dense - saved,
        "flops_ratio": (dense - saved) / dense if dense else 1.0,
    }


def _density(weight: Tensor) -> float:
    return int(weight.count_nonzero()) / weight.numel()


class _Counter(TorchDispatchMode):
    """Adds up the operations of torch's formulas, in all and by the weight that takes part."""

    def __init__(self, weights: Mapping[str, Tensor]):
        super().__init__()
        self.total = 0
        self.of_weights: dict[str, int] = Counter(dict.fromkeys(weights, 0))
        self._names = {weight.untyped_storage().data_ptr(): name for name, weight in weights.items() if weight.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if formula is not None:
            count = formula(*args, **kwargs, out_val=result)
            self.total += count
            read = {self._names.get(a.untyped_storage().data_ptr()) for a in args if isinstance(a, Tensor)}
            for name in sorted(read - {None}):  # pyright: ignore[reportArgumentType, reportCallIssue]
                self.of_weights[name] += count  # pyright: ignore[reportArgumentType]
        return result
