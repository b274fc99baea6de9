"""Likelihoods by name, and losses of one's own.

A new likelihood is a class (`output_model.OutputModel`) in `MODELS`, and its name in `datasets.data.Likelihood`. A loss
of one's own has a gradient, but no roots of its curvature, and no distribution to draw from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...architectures.running.modes import as_rows
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ...datasets.split import AnyLikelihood, Loss, likelihood_of
from .continuous import Gaussian, Heteroscedastic
from .discrete import Bernoulli, Categorical
from .output_model import OutputModel


class Own(OutputModel):
    """A loss of the user's own: loss(outputs, y) is a mean over the terms of a batch."""

    sequences, has_roots = True, False

    def __init__(self, loss: Loss):
        self.loss = loss
        self.name = getattr(loss, "__name__", type(loss).__name__)  # pyright: ignore[reportAttributeAccessIssue]

    def mean_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What the loss returns; raises UsageError for anything but a scalar that can be differentiated."""
        found = self.loss(outputs, y)
        if not isinstance(found, Tensor) or found.dim() or (outputs.requires_grad and not found.requires_grad):
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(
                f"likelihood {self.name!r} must return the mean loss of a batch, a scalar that can be differentiated; "
                f"got {got}"
            )
        return found

    def gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """By differentiating the sum."""
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            return torch.autograd.grad(self.summed_loss(outputs, y), outputs)[0]

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Whatever the loss takes."""


# ---------------------------------------------------------------------- by name

MODELS: dict[str, OutputModel] = {m.name: m for m in (Categorical(), Gaussian(), Bernoulli(), Heteroscedastic())}


def output_model(likelihood: AnyLikelihood) -> OutputModel:
    """The likelihood of that name, or of a loss of one's own; raises UsageError for an unknown name."""
    if isinstance(likelihood, str):
        if likelihood in MODELS:
            return MODELS[likelihood]
    elif callable(likelihood):
        return Own(likelihood)
    raise UsageError(
        f"likelihood must be {', '.join(map(repr, MODELS))} or a function (outputs, targets) -> mean loss, got "
        f"{likelihood!r}"
    )


def mean_loss(outputs: Tensor, y: Tensor, likelihood: AnyLikelihood | None = None) -> Tensor:
    """Mean negative log likelihood of outputs (N, C), or (N,) of one output each; a scalar.

    The mean is over the terms of the likelihood (`Split.terms`): for sequences of targets (N, T), whose outputs are
    (N, T, C), over all their tokens. The type of `y` says the likelihood unless it is given. Raises UsageError for
    real targets of another shape than the outputs.
    """
    return output_model(likelihood or likelihood_of(y)).mean_loss(as_rows(outputs), y)


@torch.no_grad()
def summed_loss(network: nn.Module, split: Examples, batch: int = 1024) -> Tensor:
    """Negative log likelihood of all examples in the network's present mode, float64; a scalar, in nats."""
    model = output_model(split.likelihood)
    losses = [model.summed_loss(as_rows(network(x).double()), y) for x, y in split.batches(batch)]
    return torch.stack(losses).sum()
