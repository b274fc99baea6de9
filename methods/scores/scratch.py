"""What gradient-based scores share: a scratch copy of the network, its mode, a small balanced batch, the loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from ...architectures.running.batch_norm import enough_examples
from ...architectures.running.modes import differentiable_attention, train_, unfused
from ...architectures.running.plain import copied
from ...architectures.units.prunable import prunable
from ...datasets.examples import Examples
from ...datasets.split import Split
from ..pruner import State

BatchNormMode = Literal["train", "eval"]


@contextmanager
def scratch(network: nn.Module, mode: BatchNormMode) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """A copy of `network` to differentiate, and its prunable weights; the network itself stays untouched.

    `mode` is that of the whole copy, but for what is frozen: in "train" BatchNorm uses (and is differentiated through)
    the statistics of the batch, in "eval" its running ones. Dropout is off in both.
    """
    replica = copied(network)
    train_(replica) if mode == "train" else replica.eval()
    for module in replica.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    with differentiable_attention(), unfused(), torch.enable_grad(), enough_examples(1):
        yield replica, dict(prunable(replica))


def gradients_of(
    value: Tensor, weights: list[Tensor], create_graph: bool = False, retain: bool = False
) -> tuple[Tensor, ...]:
    """Gradients of a scalar; zero for weights that it does not depend on, such as those of an unused layer."""
    return torch.autograd.grad(
        value, weights, retain_graph=create_graph or retain, create_graph=create_graph, allow_unused=True,
        materialize_grads=True,
    )  # fmt: skip


def balanced_batch(train: Examples, size: int, generator: torch.Generator) -> Split:
    """`size` random examples, as evenly over the classes as they allow; the whole split if it is smaller.

    Sequences of targets, several labels at once and real targets have no class.
    """
    shuffled = torch.randperm(len(train), generator=generator)
    if _classes(train[:1]) is not None:
        labels, start = torch.empty(len(train), dtype=torch.int64), 0
        for x, y in train.parts():
            if (found := _classes(Split(x, y, train.likelihood))) is not None:
                labels[start : start + len(y)] = found
            start += len(y)
        shuffled = shuffled[_rank_within_class(labels[shuffled]).argsort(stable=True)]
    return train[shuffled[:size].to(train.device)]


def _classes(train: Split) -> Tensor | None:
    """The class of every example, int64 (N,), the most probable one where there are probabilities; or none."""
    y = train.y
    if train.likelihood == "categorical":
        return y.argmax(1) if y.is_floating_point() else y if y.dim() == 1 else None
    return (y[:, 0] > 0.5).long() if train.likelihood == "bernoulli" and y.shape[1] == 1 else None


def scoring_batch(state: State, size: int) -> Split:
    """The batch on which a score differentiates the loss, drawn with the state's generator."""
    return balanced_batch(state.train, size, state.generator)


def _rank_within_class(labels: Tensor) -> Tensor:
    """How many earlier examples have the same label, for each example."""
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    starts = counts.cumsum(0) - counts
    return torch.empty_like(labels).scatter_(0, order, torch.arange(len(labels)) - starts[labels[order]])
