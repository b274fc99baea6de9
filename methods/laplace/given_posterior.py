"""A Laplace posterior that somebody else has fitted, in place of the one that a method would compute."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...architectures.units.prunable import trainable
from ...datasets.examples import Examples
from ..closed_forms.curvature_matrix import Diagonal
from ..closed_forms.posteriors import Laplace
from ..pruner import Inference


@dataclass
class GivenPosterior(Inference[Laplace]):
    """The posterior as it was given; training on after pruning is under its prior.

    Attributes:
        given: at the weights of the network that is pruned.
        read: whether a method has looked at it.
    """

    given: Laplace
    read: list[bool] = field(default_factory=list)

    @property
    def correlates(self) -> bool:
        """Whether it knows more than a diagonal."""
        return not isinstance(self.given.whole, Diagonal)

    def penalty(self, network: nn.Module) -> Tensor:
        """½ Σ δ θ², in nats for the whole training set; a scalar."""
        squares = [(self.given.prior[name].to(p.dtype) * p.square()).sum() for name, p in trainable(network).items()]
        return 0.5 * torch.stack(squares).sum()

    def posterior(self, network: nn.Module, train: Examples) -> Laplace:
        """What was given."""
        self.read.append(True)
        return self.given
