"""SWAG: the scatter of weights over the last epochs of training as their posterior, and optimal brain surgeon on it.

Maddox, Garipov, Izmailov, Vetrov, Wilson, "A simple baseline for Bayesian uncertainty in deep learning", NeurIPS 2019,
arXiv 1902.02476. The mean of the weights after each epoch is the network; Σ is half their variances, and half the
covariance of the last K. A weight costs θ²/(2 Σ_qq), and what stays moves to its mean given that the others are 0.
This is the scatter of the optimiser, not the curvature of a likelihood: costs are in no nats, there is no evidence, and
a weight that still grows scatters more than one that has arrived.

Formula: Σ = ½ (diag(v) + D D'/(K - 1)),  s_q = θ_q²/(2 Σ_qq),  θ_S ← θ_S - Σ_SQ Σ_QQ⁻¹ θ_Q
Paper: maddox2019simple, hassibi1992second
Deviations: deviations are from the final mean, by Welford's sums, and K - 1 counts those that there are; variances are
    at least the square of a step; the learning rate is the training's own; units add up what their weights cost.
Oracle: test_swag.py::test_conditioning_is_the_dense_formula, test_swag.py::test_moments_are_those_of_the_epochs
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ..architectures.units.mask import Mask
from ..architectures.units.prunable import trainable
from ..architectures.units.vector import Units
from ..datasets.errors import UsageError
from ..datasets.examples import Examples
from .closed_forms.flat import flat, named
from .closed_forms.scattered import Scattered
from .laplace.map import MAP
from .pruner import Pruner, State, register

UNTOLD = 40  # epochs of a loop whose length nobody has told


@dataclass
class Swag(MAP):
    """MAP training whose weights are averaged over its last epochs, and their scatter.

    Attributes:
        rank: K, of the covariance at most.
        share: of the training, at its end, in which weights are collected, once each epoch.
    """

    stochastic: ClassVar[bool] = True  # so that BatchNorm's statistics are measured of the mean

    rank: int = 20
    share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise UsageError(f"share must be one of the training in (0, 1], got {self.share!r}")

    @property
    def correlates(self) -> bool:
        """Weights scatter together."""
        return True

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """Nothing has been collected."""
        weights = flat(trainable(network))
        self.epochs, self.lr = UNTOLD, 0.0
        self.mean, self.squares = weights, torch.zeros_like(weights)
        self.latest = weights.new_zeros(self.rank, len(weights), dtype=torch.float32)
        self.count, self.anew = 0, False

    def begin(self, epochs: int) -> None:
        """The share is one of them."""
        self.epochs = epochs

    def optimizer(self, parameters: Sequence[nn.Parameter], lr: float, steps: int) -> torch.optim.Optimizer | None:
        """The usual one; its learning rate is about a step."""
        self.lr = lr

    @torch.no_grad()
    def update(self, network: nn.Module, train: Examples, epoch: int) -> None:
        """Collect the weights; at the end of the training the network becomes their mean."""
        if epoch <= math.floor((1 - self.share) * self.epochs):
            return
        if self.anew:
            self.count, self.anew = 0, False
        weights = flat(trainable(network))
        self.latest[self.count % self.rank] = weights
        self.count += 1
        if self.count == 1:
            self.mean, self.squares = weights, torch.zeros_like(weights)
        away = weights - self.mean
        self.mean = self.mean + away / self.count
        self.squares = self.squares + away * (weights - self.mean)
        if epoch == self.epochs:
            for name, value in named(self.mean, trainable(network)).items():
                network.get_parameter(name).copy_(value)

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """What leaves scatters no more; weights of a training that goes on are collected anew."""
        super().reduce(network, mask)
        self.anew = True

    def posterior(self, network: nn.Module, train: Examples) -> Scattered:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Around the network's weights, given that those which have left are 0; float64."""
        return self._scattered(network)

    def _scattered(self, network: nn.Module) -> Scattered:
        parameters = trainable(network)
        there = min(self.count, self.rank)
        away = (self.latest[:there].double() - self.mean) / math.sqrt(2 * max(there - 1, 1))
        variance = (self.squares / max(self.count, 1)).clamp_min(max(self.lr, torch.finfo(torch.float32).eps) ** 2)
        mean = {name: parameter.detach().double() for name, parameter in parameters.items()}
        found = Scattered.of(mean, variance / 2, away.T)
        if not self.masks:
            return found
        kept = {name: self.masks.get(name, torch.ones_like(p, dtype=torch.bool)) for name, p in parameters.items()}
        return found.given(flat(kept).bool().to(variance.device))

    @torch.no_grad()
    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of all that is trained; 0 of what has left."""
        drawn = self._scattered(network).draw(generator)
        return {name: w * self.masks[name].to(w.device) if name in self.masks else w for name, w in drawn.items()}

    def unfinished(self) -> str | None:
        """Less than two epochs to compare."""
        few = f"weights of {self.count} epochs were collected, which do not scatter: train for longer"
        return few if self.count < 2 else None

    def tensors(self) -> dict[str, Tensor]:
        """The sums, the latest weights, their number and the learning rate."""
        numbers = {"count": torch.tensor(self.count), "lr": torch.tensor(self.lr, dtype=torch.float64)}
        return {"mean": self.mean, "squares": self.squares, "latest": self.latest, **numbers}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        self.mean, self.squares, self.latest = (tensors[n].to(self.mean.device) for n in ("mean", "squares", "latest"))
        self.latest = self.latest.clone()
        self.count, self.lr = int(tensors["count"]), float(tensors["lr"])

    def momenta(self) -> dict[str, Tensor]:
        """Whether what is collected next is the first since weights have left."""
        return {"anew": torch.tensor(self.anew)}

    def load_momenta(self, momenta: dict[str, Tensor]) -> None:
        """Put back what `momenta` returned, if it did."""
        self.anew = bool(momenta.get("anew", self.anew))

    def learned(self, network: nn.Module) -> dict[str, Any]:
        """How many epochs were collected, and the median standard deviation of the weights."""
        deviation = self._scattered(network).variance
        return {
            "collected": self.count,
            "deviation": torch.cat([v.flatten() for v in deviation.values()]).median().sqrt().item(),
        }


@register("swag-obs")
def swag_obs(
    precision: float | Literal["tuned"] = 1.0, rank: PositiveInt = 20, share: float = 0.2,
) -> Pruner[Any]:  # fmt: skip
    """Optimal brain surgeon on the scatter of the last epochs' weights (SWAG, Maddox et al. 2019)."""
    return Pruner(partial(Swag, precision, rank=rank, share=share), scatter, adjust="condition")


def scatter(state: State[Any]) -> Tensor:
    """θ²/(2 Σ_qq), summed over a unit's weights; shape (units.n,)."""
    posterior = state.posterior
    return state.units.gather({n: 0.5 * mean.square() * posterior.precision[n] for n, mean in posterior.mean.items()})
