"""Sparse variational dropout with factors on structures: a weight is w z, and both have a log-uniform prior.

Chirkova, Lobacheva, Vetrov, "Bayesian compression for natural language processing", EMNLP 2018 (arXiv 1810.10927).
Factors z ~ N(θ, σ²) begin at 1, those of a structure scale all that read it, and the divergence is the sum of those
of all weights and factors. A step has one draw of the factors for each example (tied over its positions and times).
Evaluated are means, which fold into the weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ...architectures.running.modes import precision_of
from ...architectures.units.mask import Mask
from ...architectures.units.vector import Units
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..closed_forms.flat import named
from ..closed_forms.posteriors import Gaussian
from ..variational.weight_dropout import CLAMP, VariationalDropout, kl, log_alpha
from .structures import Structure, Weights, combined
from .worth import StructuredGaussian

Ties = Literal["example", "minibatch"]

# θ and log σ of every factor before training (published code).
START = (1.0, -3.0)


class Hooks(Protocol):
    """What multiplies structures by factors until it is removed."""

    def remove(self) -> None:
        """Take all hooks off."""


@dataclass
class FactoredDropout(VariationalDropout):
    """Variational dropout of weights, and of factors on structures.

    Attributes:
        ties: what shares a draw of the factors, all that is computed of an "example" or of a whole "minibatch".
        lr_factor: learning rate of the factors over that of the weights. A step moves θ and log σ by about one
            learning rate, and a factor leaves at a distance of about 4 from where it begins.
    """

    ties: Ties = "example"
    lr_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lr_factor > 0:
            raise UsageError(f"lr_factor must be positive, got {self.lr_factor!r}")

    @abstractmethod
    def structures_of(self, network: nn.Module, train: Examples) -> tuple[Sequence[Structure], Sequence[Structure]]:
        """All structures, and those among them that have factors; NotApplicable for a network that has none."""

    @abstractmethod
    def multiplied(self, network: nn.Module) -> Hooks:
        """Hooks that multiply the structures `noisy` by what `draw` gives."""

    # -------------------------------------------------------------- the network's step

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `VariationalDropout`, and factors on the structures."""
        super().attach(network, units, train)
        all_of_them, noisy = self.structures_of(network, train)
        self.structures, self.noisy = tuple(all_of_them), tuple(noisy)
        self.sizes = [s.size for s in self.noisy]
        start = torch.zeros(2, sum(self.sizes), dtype=precision_of(network), device=self.log_sigma.device)
        self.steps = nn.Parameter(start)
        self.alive = torch.ones_like(start[0])
        self.hooks = self.multiplied(network)

    def parameters(self) -> Iterable[nn.Parameter]:
        """log σ of every weight, (P,), and how far factors are from their start, in `lr_factor`: (2, factors)."""
        return (*super().parameters(), self.steps)

    @property
    def factors(self) -> Tensor:
        """θ and log σ of every factor, shape (2, factors)."""
        return self.steps.new_tensor(START).unsqueeze(1) + self.lr_factor * self.steps

    def draw(self, examples: int, training: bool) -> Tensor:
        """Factors, shape (examples or 1, factors): noisy in training mode, else their means."""
        mean, log_sigma = self.factors
        rows = examples if training and self.ties == "example" else 1
        values = mean.expand(rows, -1)
        return values + self.alive * log_sigma.exp() * torch.randn_like(values) if training else values

    def by_structure(self, values: Tensor) -> dict[str, Tensor]:
        """Views of `values`, shape (..., factors), by the name of the structure."""
        return dict(zip((s.name for s in self.noisy), values.split(self.sizes, -1), strict=True))

    @property
    def terms(self) -> int:
        """Number of divergences that the penalty sums, of those that have left too."""
        return self.log_sigma.numel() + self.steps.shape[1]

    def divergence(self, network: nn.Module) -> Tensor:
        """Σ KL(log α) of weights and factors; a scalar, in nats."""
        return super().divergence(network) + self.divergence_of_factors()

    def divergence_of_factors(self) -> Tensor:
        """Σ KL(log α) of the factors that still scale something; a scalar, in nats."""
        return (kl(log_alpha(*self.factors).clamp(max=CLAMP), self.form) * self.alive).sum()

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """That of the weights, which knows nothing of factors where it has a closed form, and that of the factors."""
        of_weights = super().penalizer(network, scale)
        if self.form != "exact" or not self.beta or not self.noisy:
            return of_weights

        def add() -> None:
            of_weights()
            (scale * self.beta * self.divergence_of_factors()).backward()

        return add

    # -------------------------------------------------------------- what remains

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """Factors that no longer scale any weight have no noise, and no divergence."""
        super().reduce(network, mask)
        assert self.present is not None
        present = named(self.present, self.shapes)
        parts = [s.best(present) for s in self.noisy]
        self.alive = torch.cat(parts) if parts else self.alive

    def folded(self, weights: Weights) -> Weights:
        """`weights` times the means of the factors that scale them."""
        means = self.by_structure(self.factors[0].detach())
        for structure in self.noisy:
            weights = combined(weights, structure.scaled, means[structure.name], torch.mul)
        return weights

    @torch.no_grad()
    def detach(self, network: nn.Module) -> None:
        """The network keeps the means, of weights times factors."""
        super().detach(network)
        self.hooks.remove()
        weights = self.named_weights(network)
        for name, value in self.folded({name: weight.detach() for name, weight in weights.items()}).items():
            weights[name].copy_(value)

    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """Nothing: what the network has kept are products of means, and predictions are made with these."""
        return {}

    def posterior(self, network: nn.Module, train: Examples) -> StructuredGaussian:
        """The Gaussians at hand, of weights and of factors; float64."""
        weights = super().posterior(network, train)
        mean, log_sigma = self.factors.detach().double()
        factors = (self.by_structure(values) for values in (mean, (-2 * log_sigma).exp()))
        return StructuredGaussian(weights.mean, weights.precision, self.structures, Gaussian(*factors))

    def tensors(self) -> dict[str, Tensor]:
        """As `VariationalDropout`, and how far the factors have moved."""
        return {**super().tensors(), "steps": self.steps.detach(), "alive": self.alive}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        super().load_tensors(tensors)
        self.steps.copy_(tensors["steps"])
        self.alive = tensors["alive"].to(self.steps)

    @torch.no_grad()
    def learned(self, network: nn.Module) -> dict[str, Any]:
        """As `VariationalDropout`; the number of divergences, and of each structure's factors their median log α."""
        rates = self.by_structure(log_alpha(*self.factors))
        medians = {name: rate.median().item() for name, rate in rates.items()}
        return {**super().learned(network), "terms": self.terms, "factors": medians}
