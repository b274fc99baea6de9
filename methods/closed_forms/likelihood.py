"""The loss of a network on a split, as its likelihood says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...datasets.data import Split, terms


def mean_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean negative log likelihood: cross-entropy for labels, ½ squared error for real targets.

    The mean is over the terms of the likelihood (`Split.terms`): for sequences of targets (N, T), whose outputs are
    (N, T, C), over all their tokens.
    """
    if y.is_floating_point():
        return 0.5 * (outputs - y).square().sum(1).mean()
    return nn.functional.cross_entropy(outputs.flatten(0, -2), y.flatten())


@torch.no_grad()
def summed_loss(network: nn.Module, split: Split, batch: int = 1024) -> Tensor:
    """Negative log likelihood of all examples in the network's present mode, float64; a scalar, in nats."""
    losses = [mean_loss(network(x).double(), y) * terms(y) for x, y in split.batches(batch)]
    return torch.stack(losses).sum()
