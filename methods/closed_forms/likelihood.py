"""The loss of a network on a split, as its likelihood says.

`categorical`: cross-entropy with labels, or with probabilities of the classes (mixed or smoothed labels, a teacher's).
`gaussian`: ½ squared error, of unit noise. `bernoulli`: cross-entropy of every output with its own yes or no, a sum
over outputs as they are independent given the input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...architectures.running.modes import as_rows
from ...datasets.data import Likelihood, likelihood_of, terms
from ...datasets.errors import UsageError
from ...datasets.examples import Examples


def mean_loss(outputs: Tensor, y: Tensor, likelihood: Likelihood | None = None) -> Tensor:
    """Mean negative log likelihood of outputs (N, C), or (N,) of one output each; a scalar.

    The mean is over the terms of the likelihood (`Split.terms`): for sequences of targets (N, T), whose outputs are
    (N, T, C), over all their tokens. The type of `y` says the likelihood unless it is given. Raises UsageError for
    real targets of another shape than the outputs.
    """
    return _LOSSES[likelihood or likelihood_of(y)](as_rows(outputs), y)


@torch.no_grad()
def summed_loss(network: nn.Module, split: Examples, batch: int = 1024) -> Tensor:
    """Negative log likelihood of all examples in the network's present mode, float64; a scalar, in nats."""
    losses = [mean_loss(network(x).double(), y, split.likelihood) * terms(y) for x, y in split.batches(batch)]
    return torch.stack(losses).sum()


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    if y.is_floating_point():
        return F.cross_entropy(outputs, y.to(outputs))
    return F.cross_entropy(outputs.flatten(0, -2), y.flatten())


def _squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    if outputs.shape != y.shape:  # which torch would stretch over each other
        raise UsageError(f"outputs of shape {tuple(outputs.shape)} are not those of targets {tuple(y.shape)}")
    return 0.5 * (outputs - y).square().sum(1).mean()


def _binary_cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, y.to(outputs), reduction="none").sum(1).mean()


_LOSSES = {"categorical": _cross_entropy, "gaussian": _squared_error, "bernoulli": _binary_cross_entropy}
