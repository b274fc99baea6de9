"""Processes that train one network together under DistributedDataParallel, each on its share of every batch.

DistributedDataParallel averages the gradients of the network's parameters. A method's own are averaged here, and what
it learns from whole passes over the data is learned from the examples of all ranks, so that all hold the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def ranks() -> int:
    """How many processes train together; 1 where torch.distributed is not at work."""
    return (
        torch.distributed.get_world_size()
        if torch.distributed.is_available() and torch.distributed.is_initialized()
        else 1
    )


@torch.no_grad()
def average_over_ranks(parameters: Iterable[nn.Parameter]) -> None:
    """Give every rank the mean of the gradients; also of accumulated ones, as the mean of a mean is itself."""
    if ranks() == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= ranks()


def from_first(tensors: Sequence[Tensor]) -> None:
    """Give every rank, in place, the tensors of the first."""
    if ranks() > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)


def of_all_ranks(tensor: Tensor) -> Tensor:
    """The examples of all ranks, first those of the first; each may have another number of them, (N, ...)."""
    if ranks() == 1:
        return tensor
    counts = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(ranks())]
    torch.distributed.all_gather(counts, torch.tensor([len(tensor)], device=tensor.device))
    longest = max(int(count) for count in counts)
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])
