"""What a likelihood is: a loss, and its curvature in the outputs of a network.

A likelihood is one class. Its loss is the mean negative log likelihood of a batch; its roots are vectors whose outer
products sum to the Hessian of one example's loss in its outputs (or to the Fisher information, where that is another
matrix); and it has gradients, at the targets, and at targets drawn from the network's own distribution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ...datasets.errors import UsageError
from ...datasets.split import terms


class OutputModel(ABC):
    """What outputs (N, C) say of targets y; all vectors are (N, C), one for each example.

    Attributes:
        name: as it is asked for.
        logits: whether outputs are logits.
        has_roots: whether the curvature in the outputs is known.
        fits_noise: whether the evidence fits the noise of real targets, which the loss takes for 1.
        sequences: whether there may be outputs (N, T, C) for T targets of each example.
        skipped: how many of the outputs, in the order of `worth`, have no root of their own.
    """

    name: ClassVar[str]
    logits: ClassVar[bool] = False
    has_roots: ClassVar[bool] = True
    fits_noise: ClassVar[bool] = False
    sequences: ClassVar[bool] = False
    skipped: ClassVar[int] = 0

    @abstractmethod
    def mean_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean negative log likelihood over the terms, in nats; a scalar."""

    def summed_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The same summed; a scalar, 0 where all targets are ignored."""
        count = terms(y)
        return self.mean_loss(outputs, y) * count if count else outputs.new_zeros(())

    def target_columns(self, outputs: int) -> int:
        """Columns of targets (N, K) for so many outputs."""
        return outputs

    @abstractmethod
    def gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Of each example's loss in its outputs, but for the sign; shape (N, C)."""

    def draws(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """What decides targets drawn for outputs of that shape: uniform or normal numbers, (N, ...)."""
        raise no_curvature(self.name)

    def drawn_gradient(self, outputs: Tensor, drawn: Tensor) -> Tensor:
        """As `gradient`, at targets drawn from the network's own distribution; shape (N, C)."""
        raise no_curvature(self.name)

    def worth(self, outputs: Tensor) -> Tensor:
        """Which roots are the largest, (N, C)."""
        return outputs

    def roots(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """Σ_c w_c v_c for weights (N, K, C) of the roots v_c; shape (N, K, C)."""
        raise no_curvature(self.name)

    def check(self, outputs: Tensor, y: Tensor) -> None:
        """Raise UsageError for targets (N, ...) that do not fit outputs (any number, C), or (any number, T, C)."""
        count = outputs.shape[-1]
        if y.shape[1:] != (self.target_columns(count), *outputs.shape[2:]):
            what = f"(N, {self.target_columns(count)})"
            raise UsageError(f"targets must have shape {what} like the outputs, got {tuple(y.shape)}")


def no_curvature(name: str) -> UsageError:
    """The error for a loss of which only gradients are known."""
    return UsageError(
        f"likelihood {name!r} is a loss of your own, whose curvature in the outputs is not known: choose kind='ef', "
        "which takes its gradients alone, a method without curvature, or a likelihood by name"
    )
