"""Multiplicative noise on structures: truncated log-normal posteriors under a log-uniform prior.

Neklyudov, Molchanov, Ashukha, Vetrov, "Structured Bayesian pruning via log-normal multiplicative noise", NIPS 2017,
arXiv 1705.07283. What the network reads from a structure (a neuron after its activation, a channel, an attention
head, a hidden unit) is multiplied by noise θ, and training descends on the mean loss plus the divergence of θ from
its prior. As everything else that reads a structure is linear in it, E[θ] folds into the reading weights. Where what
layers add to a residual stream is pruned (`residual_out`), the noise is on what they write, and folds there.

Deliberate deviations from the published code: one draw for each example and structure, not for each pixel or token;
all places that read a structure share its noise, so that there is one θ per structure also in residual networks; a
structure that has left takes no part in the divergence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from ...architectures.discovery.units_of import units as units_of
from ...architectures.running.modes import precision_of
from ...architectures.units.mask import Mask
from ...architectures.units.vector import Granularity, Units
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..closed_forms.truncated_draws import draw
from ..closed_forms.truncated_lognormal import kl_gradient, kl_to_loguniform, noise_mean, noise_snr
from ..pruner import Inference, structures_of
from .carried import CarriedNoise
from .carriers import Carrier

DrawnFor = Literal["example", "minibatch", "element"]
Weighting = Literal["elbo", "paper_mean", "mean_of_present"]

logger = logging.getLogger("bayesprune")

# At the usual μ, between -2 and 0, structures leave from log s = 0.2 (`snr`) to 2.8 (`bmrs-u`) on, 2.5 in `bmrs-n`.
LEAST_TO_LEAVE, LEAST_FOR_ANY = 2.5, 0.0
SHORTFALL = (
    "the noise has hardly grown: log s rose by %.2f, to %.2f at most, structures leave from about %.1f on; each "
    "step moves it by one learning rate, so that steps * learning rate * lr_factor must be about 8 or more"
)


@dataclass(frozen=True)
class TruncatedLogNormal:
    """Independent noise on the structures `units`: log θ ~ N(μ, s²) on [a, b].

    `mu` and `log_sigma` have shape (units.n,) and are float64.
    """

    units: Units
    mu: Tensor
    log_sigma: Tensor
    a: float
    b: float


@dataclass
class MultiplicativeNoise(Inference[TruncatedLogNormal]):
    """Training with noise on every structure of the network; its posterior is that of the noise.

    Noise comes from torch's global generators, as dropout does. In evaluation mode it is E[θ].

    Attributes:
        kl: weight of the divergences: "elbo" counts each once; "paper_mean" adds to the mean loss their mean over the
            structures of each layer, averaged over layers, which presses N / (layers · structures) times harder. A
            structure that has left adds nothing, but is counted in that mean, as published; with "mean_of_present" it
            is not, so that the fewer are left, the harder these are pressed. A number multiplies the divergences.
        draws: what has a draw of its own: every "example", the whole "minibatch", or every "element" that is read.
        lr_factor: learning rate of μ and log s over that of the weights (under Adam, which is what this is for).
        a: smallest log θ.
        b: largest log θ.
        start: μ and log s before training.
        structures: what has noise: all "groups", those of the kind "head" or "ffn_hidden", or "residual_out"; chosen
            by what is to be pruned (`for_units`).
    """

    stochastic: ClassVar[bool] = True

    kl: Weighting | float = "paper_mean"
    draws: DrawnFor = "example"
    lr_factor: float = 1.0
    a: float = -20.0
    b: float = 0.0
    start: tuple[float, float] = (0.0, -5.0)
    structures: Granularity = "groups"

    def __post_init__(self) -> None:
        if not isinstance(self.kl, str) and not self.kl >= 0:
            raise UsageError(
                f"the weight kl must be 'elbo', 'paper_mean', 'mean_of_present' or a number >= 0, got {self.kl!r}"
            )
        if not self.lr_factor > 0:
            raise UsageError(f"lr_factor must be positive, got {self.lr_factor!r}")
        if not self.a < self.b:
            raise UsageError(f"the bounds of log θ must be in order, got a={self.a!r} and b={self.b!r}")

    def for_units(self, granularity: Granularity) -> Self:
        """Noise on the structures that are to be pruned; on all groups where these are single weights."""
        return replace(self, structures=structures_of(granularity))

    # -------------------------------------------------------------- the network's step

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """Give every one of the `structures` of `network` its noise.

        Raises UsageError for a network without structures, or whose structures no linear layer or convolution reads.
        """
        self.units = _structures(network, self.structures, train)
        self.size = train.terms
        self.origin = torch.tensor(self.start, dtype=torch.float64, device=train.device).unsqueeze(1)
        self.steps = nn.Parameter(torch.zeros(2, self.units.n, dtype=torch.float64, device=train.device))
        self.weights = self._weights(torch.ones(self.units.n, dtype=torch.bool, device=train.device))
        self.precision = torch.promote_types(precision_of(network), torch.float32)
        self.shortfall: tuple[float, float] | None = None
        self.noise = CarriedNoise(
            network, self.units, lambda *call: self._drawn(*call), lambda *at: self._elementwise(*at)
        )

    def parameters(self) -> Iterable[nn.Parameter]:
        """How far (μ, log s) are from their start, in units of `lr_factor`: (2, structures)."""
        return (self.steps,)

    def values(self) -> tuple[Tensor, Tensor]:
        """μ and log s of every structure, (structures,), float64."""
        mu, log_sigma = torch.add(self.origin, self.steps, alpha=self.lr_factor).unbind()
        return mu, log_sigma

    @property
    def mu(self) -> Tensor:
        """μ of every structure, (structures,), float64."""
        return self.values()[0]

    @property
    def log_sigma(self) -> Tensor:
        """log s of every structure, (structures,), float64."""
        return self.values()[1]

    def penalty(self, network: nn.Module) -> Tensor:
        """Σ w KL(q‖p), in nats for the whole training set; a scalar."""
        return self.weights @ kl_to_loguniform(*self.values(), a=self.a, b=self.b)

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """The derivatives of the divergence in closed form, without a graph."""
        scale *= self.lr_factor

        @torch.no_grad()
        def penalise() -> None:
            gradient = torch.stack(kl_gradient(*self.values(), self.a, self.b)).mul_(self.weights * scale)
            self.steps.grad = gradient if self.steps.grad is None else self.steps.grad.add_(gradient)

        return penalise

    def _weights(self, present: Tensor) -> Tensor:
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
        return self._draw(*self.values(), (examples if self.draws == "example" else 1, self.units.n))

    def _elementwise(self, carrier: Carrier, x: Tensor) -> Tensor:
        mu, log_sigma = (carrier.positions(values) for values in self.values())
        return torch.where(carrier.owned, self._draw(mu, log_sigma, carrier.last(x).shape), 1.0)

    def _draw(self, mu: Tensor, log_sigma: Tensor, shape: Sequence[int]) -> Tensor:
        uniform = torch.rand(shape, dtype=self.precision, device=mu.device)
        return draw(mu, log_sigma, uniform, a=self.a, b=self.b)

    # -------------------------------------------------------------- what remains

    @torch.no_grad()
    def mean(self) -> Tensor:
        """E[θ] of every structure, (structures,), float64."""
        return noise_mean(self.mu, self.log_sigma, a=self.a, b=self.b)

    def posterior(self, network: nn.Module, train: Examples) -> TruncatedLogNormal:
        """The noise as it is now."""
        return TruncatedLogNormal(self.units, self.mu.detach(), self.log_sigma.detach(), self.a, self.b)

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """Structures of which nothing stays are no longer penalised."""
        entries = {name: kept.to(self.steps.device, torch.float64) for name, kept in mask.tensors.items()}
        present = self.units.gather(entries) > 0
        self.weights = self._weights(present)
        needed = LEAST_TO_LEAVE if bool(present.all()) else LEAST_FOR_ANY
        reached = self.log_sigma.max().item()
        self.shortfall = (reached, needed) if reached < needed else None

    def unfinished(self) -> str | None:
        """Noise that has not grown to where structures leave."""
        if self.shortfall is None:
            return None
        reached, needed = self.shortfall
        return (
            f"the noise had no time to grow: log s rose from {self.start[1]:.1f} to {reached:.1f} at most, and "
            f"structures leave from about {needed:.1f} on"
        )

    @torch.no_grad()
    def detach(self, network: nn.Module) -> None:
        """Fold E[θ] into the weights that read the structures, and take all hooks off."""
        if self.shortfall:
            logger.warning(SHORTFALL, self.shortfall[0] - self.start[1], *self.shortfall)
        mean = self.mean()
        for carrier in self.noise.carriers:
            carrier.fold(network, mean)
        self.noise.remove()

    def tensors(self) -> dict[str, Tensor]:
        """How far (μ, log s) have moved, in units of `lr_factor`."""
        return {"steps": self.steps.detach()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        self.steps.copy_(tensors["steps"])

    def learned(self, network: nn.Module) -> dict[str, Any]:
        """Medians of μ, log s and E[θ] in each layer, and the share of its structures with more noise than signal."""
        snr = noise_snr(self.mu, self.log_sigma, a=self.a, b=self.b)
        values = {"mu": self.mu, "log_sigma": self.log_sigma, "mean": self.mean()}
        medians = {name: [part.median().item() for part in self.units.split(v)] for name, v in values.items()}
        noisy = [(part <= 1).double().mean().item() for part in self.units.split(snr)]
        return {"layers": list(self.units.layer_names), **medians, "noisy": noisy}


def _structures(network: nn.Module, granularity: Granularity, train: Examples) -> Units:
    try:
        return units_of(network, granularity, train[:2].x).to(train.device)
    except UsageError as error:
        raise UsageError(f"multiplicative noise needs structures, choose a method without noise: {error}") from error
