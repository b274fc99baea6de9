"""Processes that train one network together under DistributedDataParallel, each on its share of every batch.

DistributedDataParallel averages the gradients of the network's parameters. A method's own are averaged here, and what
it learns from whole passes over the data is learned from the examples of all ranks, so that all hold the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ...datasets.data import Split
from ...datasets.examples import Batch, Examples
from ...datasets.stream import Stream
from ...datasets.trees import mapped, rows


def ranks() -> int:
    """How many processes train together; 1 where torch.distributed is not at work."""
    return (
        torch.distributed.get_world_size()
        if torch.distributed.is_available() and torch.distributed.is_initialized()
        else 1
    )


def average_over_ranks(parameters: Iterable[nn.Parameter]) -> None:
    """Give every rank the mean of the gradients; also of accumulated ones, as the mean of a mean is itself."""
    if ranks() == 1:
        return
    for gradient in [p.grad for p in parameters if p.grad is not None]:
        torch.distributed.all_reduce(gradient)
        gradient.div_(ranks())


def from_first(tensors: Sequence[Tensor]) -> None:
    """Give every rank, in place, the tensors of the first."""
    if ranks() > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)


def joined_over_ranks(data: Examples) -> Examples:
    """The examples of all ranks, those of the first rank first: in memory, or batch by batch.

    Every rank goes through them in step with the others.
    """
    if ranks() == 1:
        return data
    if isinstance(data, Split):
        return Split(mapped(data.x, _of_all), _of_all(data.y), data.likelihood)
    return Stream(_Joined(data), likelihood=data.likelihood)


class _Joined:
    """Batches of which each holds one of every rank that still has one."""

    def __init__(self, data: Examples) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        mine = self.data.parts()
        while True:
            batch = next(mine, None)
            if not _any(batch is not None, self.data.device):
                return
            if batch is None:  # the others have more
                few = self.data[:1]
                batch = rows(few.x, slice(0, 0)), few.y[:0]
            x, y = batch
            yield mapped(x, _of_all), _of_all(y)


def _any(here: bool, device: torch.device) -> bool:
    flag = torch.tensor([int(here)], device=device)
    torch.distributed.all_reduce(flag)
    return bool(flag)


def _of_all(tensor: Tensor) -> Tensor:
    """The rows of all ranks, of which each may have another number of them, (N, ...)."""
    counts = [torch.zeros(1, dtype=torch.long, device=tensor.device) for _ in range(ranks())]
    torch.distributed.all_gather(counts, torch.tensor([len(tensor)], device=tensor.device))
    longest = max(int(count) for count in counts)
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])
