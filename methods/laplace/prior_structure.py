"""Prior structures: how many precisions a network's prior has, and which parameters share one.

`scalar`: one. `layerwise`: one per tensor. `unitwise`: log δ[o, i, ...] = a[o] + b[i] for a weight, the
product of a precision per output and one per input unit, and one per entry of a vector. `parameterwise`:
one per parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

PriorStructure = Literal["scalar", "layerwise", "unitwise", "parameterwise"]


class LogPrecisions:
    """The free log precisions of a structure, and their expansion over a network's P parameters.

    Attributes:
        free: float64, shape (F,).
        index: of shape (1, P), or (2, P) for `unitwise`: the free log precisions that add up to a parameter's.
    """

    def __init__(self, structure: PriorStructure, like: Mapping[str, Tensor], initial: float = 1.0):
        self.structure: PriorStructure = structure
        device = next(iter(like.values())).device
        self.index, size = _INDEX[structure](like)
        self.index = self.index.to(device)
        pairs = (self.index < size).sum(0).double()  # of how many free values a parameter's is the sum
        self.free = torch.zeros(size + 1, dtype=torch.float64, device=device)
        self.free[self.index] = math.log(initial) / pairs
        self.free = self.free[:size].clone()

    def expanded(self) -> Tensor:
        """Log precision of every parameter, (P,); for `parameterwise` the free values themselves."""
        if self.structure == "parameterwise":
            return self.free
        return torch.cat([self.free, self.free.new_zeros(1)])[self.index].sum(0)

    def collected(self, values: Tensor) -> Tensor:
        """Per-parameter values (P,), such as gradients, summed over the parameters that share a free one: (F,)."""
        if self.structure == "parameterwise":
            return values
        sums = values.new_zeros(len(self.free) + 1)
        for row in self.index:
            sums.index_add_(0, row, values)
        return sums[:-1]


def _scalar(like: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    return torch.zeros(1, sum(t.numel() for t in like.values()), dtype=torch.long), 1


def _layerwise(like: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    sizes = torch.tensor([t.numel() for t in like.values()])
    return torch.arange(len(sizes)).repeat_interleave(sizes).unsqueeze(0), len(sizes)


def _parameterwise(like: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    size = sum(t.numel() for t in like.values())
    return torch.arange(size).unsqueeze(0), size


def _unitwise(like: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    size = sum(sum(t.shape[:2]) if t.dim() > 1 else t.numel() for t in like.values())
    parts, start = [], 0
    for tensor in like.values():
        if tensor.dim() < 2:
            own = torch.arange(start, start + tensor.numel())
            parts.append(torch.stack([own, torch.full_like(own, size)]))  # the second is the zero beyond the end
            start += tensor.numel()
            continue
        outputs, inputs = tensor.shape[:2]
        rest = (1,) * (tensor.dim() - 2)
        a = torch.arange(start, start + outputs).view(-1, 1, *rest)
        b = torch.arange(start + outputs, start + outputs + inputs).view(1, -1, *rest)
        parts.append(torch.stack([x.expand(tensor.shape).flatten() for x in (a, b)]))
        start += outputs + inputs
    return torch.cat(parts, 1), size


_INDEX = {"scalar": _scalar, "layerwise": _layerwise, "unitwise": _unitwise, "parameterwise": _parameterwise}
