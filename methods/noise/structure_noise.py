"""Training with noise on the structures of a network: what its distributions share.

What the network reads from a structure (a neuron after its activation, a channel, an attention head, a hidden unit) is
multiplied by its noise z, and training descends on the mean loss plus the divergence of z from its prior. As everything
else that reads a structure is linear in it, what z is in evaluation folds into the reading weights. Where what layers
add to a residual stream is pruned (`residual_out`), the noise is on what they write, and folds there. All places that
read a structure share its noise, and a structure that has left takes no part in the divergence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from ...architectures.discovery.units_of import units as units_of
from ...architectures.running.modes import precision_of
from ...architectures.units.mask import Mask
from ...architectures.units.vector import Granularity, Units
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..pruner import Inference, structures_of
from .carried import CarriedNoise
from .carriers import Carrier

DrawnFor = Literal["example", "minibatch", "element"]
Weighting = Literal["elbo", "paper_mean", "mean_of_present"]
Posterior = TypeVar("Posterior")


@dataclass
class StructureNoise(Inference[Posterior]):
    """Noise on every structure, of two numbers each or of one; in evaluation mode it is `mean`.

    Noise comes from torch's global generators, as dropout does.

    Attributes:
        kl: weight of the divergences: "elbo" counts each once; "paper_mean" adds to the mean loss their mean over the
            structures of each layer, averaged over layers, which presses N / (layers · structures) times harder. A
            structure that has left adds nothing, but is counted in that mean, as published; with "mean_of_present" it
            is not, so that the fewer are left, the harder these are pressed. A number multiplies the divergences.
        draws: what has a draw of its own: every "example", the whole "minibatch", or every "element" that is read.
        lr_factor: learning rate of the noise over that of the weights (under Adam, which is what this is for).
        structures: what has noise: all "groups", those of the kind "head" or "ffn_hidden", or "residual_out"; chosen
            by what is to be pruned (`for_units`).
    """

    stochastic: ClassVar[bool] = True

    kl: Weighting | float = "elbo"
    draws: DrawnFor = "example"
    lr_factor: float = 1.0
    structures: Granularity = "groups"

    def __post_init__(self) -> None:
        if not isinstance(self.kl, str) and not self.kl >= 0:
            raise UsageError(
                f"the weight kl must be 'elbo', 'paper_mean', 'mean_of_present' or a number >= 0, got {self.kl!r}"
            )
        if not self.lr_factor > 0:
            raise UsageError(f"lr_factor must be positive, got {self.lr_factor!r}")

    def for_units(self, granularity: Granularity) -> Self:
        """Noise on the structures that are to be pruned; on all groups where these are single weights."""
        return replace(self, structures=structures_of(granularity))

    def identity(self) -> dict[str, Any]:
        """With the structures last, as records have it."""
        identity = super().identity()
        structures = identity.pop("structures")
        return {**identity, "structures": structures}

    # -------------------------------------------------------------- what a distribution says

    @abstractmethod
    def origin_of(self) -> Tensor:
        """The numbers of every structure before training, (numbers, 1) or (numbers, structures), float64."""

    @abstractmethod
    def draw(self, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """Noise of this shape, whose last axis is that of `values`, (numbers, positions)."""

    @abstractmethod
    def mean(self) -> Tensor:
        """What noise is in evaluation, and what folds into the weights: (structures,)."""

    @abstractmethod
    def divergences(self, network: nn.Module) -> Tensor:
        """Of every structure, (structures,), nats."""

    # -------------------------------------------------------------- the network's step

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """Give every one of the `structures` of `network` its noise.

        Raises UsageError for a network without structures, or whose structures no linear layer or convolution reads.
        """
        self.units = _structures(network, self.structures, train)
        self.size = train.terms
        self.origin = self.origin_of().to(train.device)
        numbers = len(self.origin)
        self.steps = nn.Parameter(torch.zeros(numbers, self.units.n, dtype=torch.float64, device=train.device))
        self.weights = self.weights_of(torch.ones(self.units.n, dtype=torch.bool, device=train.device))
        self.drawn_in = torch.promote_types(precision_of(network), torch.float32)
        self.noise = CarriedNoise(
            network, self.units, lambda *call: self._drawn(*call), lambda *at: self._elementwise(*at)
        )

    def parameters(self) -> Iterable[nn.Parameter]:
        """How far the numbers are from their start, in units of `lr_factor`: (numbers, structures)."""
        return (self.steps,)

    def values(self) -> Tensor:
        """The numbers of every structure, (numbers, structures), float64."""
        return torch.add(self.origin, self.steps, alpha=self.lr_factor)

    def penalty(self, network: nn.Module) -> Tensor:
        """Σ w KL(q‖p), in nats for the whole training set; a scalar."""
        return self.weights @ self.divergences(network)

    def weights_of(self, present: Tensor) -> Tensor:
        """w of every structure; 0 for those that have left."""
        if not isinstance(self.kl, str):
            return present.double() * self.kl
        if self.kl == "elbo":
            return present.double()
        layers = [layer.double() for layer in self.units.split(present)]
        if self.kl == "paper_mean":
            return torch.cat([layer * (self.size / (len(layers) * len(layer))) for layer in layers])
        several = sum(bool(layer.any()) for layer in layers)
        return torch.cat([layer * self.size / (several * layer.sum()).clamp_min(1) for layer in layers])

    def _drawn(self, examples: int, training: bool) -> Tensor | None:
        if not training:
            return self.mean().unsqueeze(0)
        if self.draws == "element":
            return None
        return self.draw(self.values(), (examples if self.draws == "example" else 1, self.units.n))

    def _elementwise(self, carrier: Carrier, x: Tensor) -> Tensor:
        values = torch.stack([carrier.positions(value) for value in self.values()])
        return torch.where(carrier.owned, self.draw(values, carrier.last(x).shape), 1.0)

    # -------------------------------------------------------------- what remains

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """Structures of which nothing stays are no longer penalised."""
        self.weights = self.weights_of(self.present(mask))

    def present(self, mask: Mask) -> Tensor:
        """Of which structures anything stays, boolean, (structures,)."""
        entries = {name: kept.to(self.steps.device, torch.float64) for name, kept in mask.tensors.items()}
        return self.units.gather(entries) > 0

    @torch.no_grad()
    def detach(self, network: nn.Module) -> None:
        """Fold what noise is in evaluation into the weights that read the structures, and take all hooks off."""
        mean = self.mean()
        for carrier in self.noise.carriers:
            carrier.fold(network, mean)
        self.noise.remove()

    def tensors(self) -> dict[str, Tensor]:
        """How far the numbers have moved, in units of `lr_factor`."""
        return {"steps": self.steps.detach()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        self.steps.copy_(tensors["steps"])

    def medians(self, **values: Tensor) -> dict[str, Any]:
        """The names of the layers, and in each the median of what structures have."""
        found = {name: [part.median().item() for part in self.units.split(v)] for name, v in values.items()}
        return {"layers": list(self.units.layer_names), **found}


def _structures(network: nn.Module, granularity: Granularity, train: Examples) -> Units:
    try:
        return units_of(network, granularity, train[:2].x).to(train.device)
    except UsageError as error:
        raise UsageError(f"multiplicative noise needs structures, choose a method without noise: {error}") from error
