"""Re-estimation of BatchNorm statistics: a step of its own, taken only where it is asked for.

Pruning and fine-tuning change what reaches a BatchNorm layer, while its running mean and variance remember
the network of before. A compact network computes what the masked one does only as long as these statistics
are the same, so that compaction never touches them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ...datasets.errors import UsageError
from ...datasets.trees import Inputs, examples, rows
from .modes import evaluating, held, to_network, train_
from .plain import copied


@dataclass(frozen=True)
class Reestimation:
    """What was re-estimated, for the record: names of the layers, and the data behind the new statistics."""

    layers: tuple[str, ...]
    batches: int
    examples: int


@torch.no_grad()
def reestimate_batch_norm(network: nn.Module, batches: Iterable[Inputs]) -> Reestimation:
    """Set, in place, the running statistics of every BatchNorm layer that is not frozen to averages over `batches`.

    Every batch of inputs counts alike; each layer sees what the layers below make of a batch when they
    normalise it by its own mean and variance. All else of the network runs in evaluation mode. Modes and
    momenta are as before afterwards; `num_batches_tracked` is the number of batches. A network without
    BatchNorm is not run at all.

    Raises:
        UsageError: no batch, a batch that a layer cannot average over, or statistics that are not finite,
            naming the layer; the statistics of before are then back.
    """
    still = held(network)
    tracking = {name: m for name, m in network.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    layers = {name: m for name, m in tracking.items() if m not in still}
    if not layers:
        return Reestimation((), 0, 0)
    with evaluating(network), _averaging(list(layers.values())):
        sizes = [_run(network, batch) for batch in batches]
        _check(layers, sizes)
    return Reestimation(tuple(layers), len(sizes), sum(sizes))


@contextmanager
def _averaging(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """The layers collect new statistics inside; if that fails, they have the old ones again."""
    momenta = [layer.momentum for layer in layers]
    buffers = [buffer for layer in layers for buffer in layer.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        for layer in layers:
            layer.train().reset_running_stats()
            layer.momentum = None  # torch's sign for a cumulative average
        yield
    except BaseException:
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _run(network: nn.Module, batch: Inputs) -> int:
    with enough_examples(count := examples(batch)):
        network(to_network(batch, network))
    return count


@contextmanager
def enough_examples(count: int) -> Iterator[None]:
    """Turn torch's refusal to normalise a batch by itself into a UsageError that says what to do.

    A batch of one table row has no variance, and one image reduced to a single pixel neither.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1" not in str(error):
            raise
        raise UsageError(
            f"a norm that learns from its batch cannot learn from a batch of {count}: give it two examples or more "
            f"(a larger batch_size, or more data), or freeze it in evaluation mode ({error})"
        ) from error


@torch.no_grad()
def check_batches(network: nn.Module, x: Inputs, sizes: Iterable[int]) -> None:
    """Raise UsageError, before any work, if a batch of training of one of these sizes is too small for a norm.

    `network` is given back as it was.
    """
    smallest = min(sizes, default=2)
    if smallest > 1 or not any(isinstance(m, _BatchNorm | _InstanceNorm) for m in network.modules()):
        return
    replica = copied(network)
    train_(replica)
    with enough_examples(smallest):
        replica(rows(x, slice(smallest)))


def _check(layers: dict[str, _BatchNorm], sizes: list[int]) -> None:
    if not sizes:
        raise UsageError("cannot re-estimate BatchNorm without a batch; give at least one")
    for name, layer in layers.items():
        if not all(bool(buffer.isfinite().all()) for buffer in layer.buffers()):
            raise UsageError(f"re-estimated statistics of {name!r} are not finite; look at the inputs and weights")
