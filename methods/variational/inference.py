"""Stochastic variational inference with independent Gaussians over the weights of any network.

The network's own parameters are the means θ; log σ of each weight is the inference's. The loss is the mean negative
log likelihood under noise on the weights plus β KL / N (see `weight_noise`). What has left the network takes no part
in the divergence, nor in the noise.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ...architectures.units.mask import Mask
from ...architectures.units.prunable import prunable, trainable
from ...architectures.units.vector import Units
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..closed_forms.flat import named
from ..closed_forms.posteriors import Gaussian
from ..pruner import Inference
from .weight_noise import Draws, WeightNoise, Weights

logger = logging.getLogger("bayesprune")

Posterior = TypeVar("Posterior", bound=Gaussian)

# log σ of a posterior that others read: beyond it variances have no use, and no precision.
LOG_SIGMA_BOUNDS = (-40.0, 40.0)
LOG_2 = math.log(2)
# The length of a training of which nobody knows it: that of a loop of the user's.
UNTOLD = 40

WarmUp = tuple[int, int] | float

# What the divergence is multiplied by, and the share of a training in which it rises to that, by default: the whole of
# it is more than some thousand examples can pay for (docs/posteriors.md).
KL, RISE = 0.1, 0.5
TEMPERED: Mapping[str, Any] = MappingProxyType({"kl": KL, "warm_up": RISE})


@dataclass
class Variational(Inference[Posterior]):
    """Independent Gaussians N(θ, σ²) over the prunable weights, and over the biases beside them if asked.

    Everything else that trains (norms, embeddings) is a point.

    Attributes:
        kl: β, weight of the divergence.
        warm_up: epochs after which β begins to rise from 0, and reaches `kl`; or the share of the training's epochs in
            which it rises, 0 for no warm-up.
        biases: whether the biases of layers with prunable weights are Gaussian too.
        draws: how noise is drawn, see `WeightNoise`.
    """

    stochastic: ClassVar[bool] = True

    kl: float = 1.0
    warm_up: WarmUp = 0.0
    biases: bool = True
    draws: Draws = "local"

    def __post_init__(self) -> None:
        if not 0 <= self.kl < float("inf"):
            raise UsageError(f"the weight kl of the divergence must be a finite number >= 0, got {self.kl!r}")
        if isinstance(self.warm_up, tuple):
            check_span("warm_up", self.warm_up)
        elif not 0 <= self.warm_up < 1:
            raise UsageError(
                f"warm_up must be two epochs, or a share of them in [0, 1): the divergence has its whole weight in the "
                f"end; got {self.warm_up!r}"
            )

    @abstractmethod
    def initial_log_sigma(self, network: nn.Module) -> Tensor:
        """log σ of every weight before training, shape (P,), in the order of `named_weights`."""

    @abstractmethod
    def divergence(self, network: nn.Module) -> Tensor:
        """KL of the present weights' posterior from the prior: a scalar in nats."""

    # -------------------------------------------------------------- the network's step

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """Give every weight its σ, and the network its noise; raises UsageError for one without prunable weights."""
        self.names = list(self.named_weights(network))
        self.shapes = {name: parameter.detach() for name, parameter in self.named_weights(network).items()}
        self.log_sigma = nn.Parameter(self.initial_log_sigma(network))
        self.variance = torch.empty_like(self.log_sigma.detach())
        self.present: Tensor | None = None
        self.epoch, self.epochs = 0, UNTOLD
        means, variances = (lambda *call: self.means(*call)), (lambda: self.variances())
        self.noise = WeightNoise(network, self.names, means, variances, self.draws_on(network))

    def named_weights(self, network: nn.Module) -> dict[str, nn.Parameter]:
        """The Gaussian parameters of `network` by name, in its own order."""
        weights = prunable(network)
        layers = {name.rpartition(".")[0] for name in weights}
        return {
            name: parameter
            for name, parameter in trainable(network).items()
            if name in weights or (self.biases and _is_bias(name) and name.rpartition(".")[0] in layers)
        }

    def draws_on(self, network: nn.Module) -> Draws:
        """How noise is drawn on this network."""
        return self.draws

    def parameters(self) -> Iterable[nn.Parameter]:
        """log σ of every weight, shape (P,)."""
        return (self.log_sigma,)

    def means(self, network: nn.Module, training: bool) -> Weights:
        """Means of the weights whose parameter is not their mean: none here."""
        return {}

    def variances(self) -> Weights:
        """σ² of every weight, by name; 0 of those that have left."""
        parts = _Variance.apply(self.log_sigma, self.present, self.variance, self.shapes)
        return dict(zip(self.names, parts, strict=True))  # pyright: ignore[reportArgumentType]

    def penalty(self, network: nn.Module) -> Tensor:
        """β KL, in nats for the whole training set; a scalar."""
        return self.beta * self.divergence(network)

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """Adds the gradient of scale · penalty, if β is not 0."""
        return super().penalizer(network, scale) if self.beta else lambda: None

    @property
    def beta(self) -> float:
        """The present weight of the divergence."""
        return self.kl * risen(self.epoch, self.rise)

    @property
    def rise(self) -> tuple[int, int]:
        """The epochs between which β rises; before the last of the training."""
        return self.warm_up if isinstance(self.warm_up, tuple) else (0, math.floor(self.warm_up * self.epochs))

    @property
    def settles(self) -> int:
        """The end of the warm-up."""
        return self.rise[1]

    def begin(self, epochs: int) -> None:
        """A warm-up is a share of them."""
        self.epochs = epochs

    def update(self, network: nn.Module, train: Examples, epoch: int) -> None:
        """The warm-up goes on."""
        self.epoch = epoch

    # -------------------------------------------------------------- what remains

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """Weights that leave have no variance, and no divergence."""
        here = torch.ones_like(self.log_sigma)
        for name, part in named(here, self.shapes).items():
            if name in mask.tensors:
                part.copy_(mask.tensors[name])
        self.present = here

    def _of_present(self, values: Tensor) -> Tensor:
        return values if self.present is None else values * self.present

    def flat_mean(self, network: nn.Module) -> Tensor:
        """θ of every weight, (P,), in the order of `names`."""
        return torch.cat([network.get_parameter(name).flatten() for name in self.names])

    def gaussian(self, network: nn.Module) -> Gaussian:
        """N(θ, σ²) of every weight, float64."""
        mean = {name: network.get_parameter(name).detach().double() for name in self.names}
        return Gaussian(mean, {name: sigma.pow(-2) for name, sigma in self.sigma().items()})

    def sigma(self) -> dict[str, Tensor]:
        """σ of every weight, by name, float64, also of those that have left."""
        return named(self.log_sigma.detach().double().clamp(*LOG_SIGMA_BOUNDS).exp(), self.shapes)

    def unfinished(self) -> str | None:
        """A warm-up that is not over."""
        if self.epoch >= self.settles:
            return None
        risen_to = risen(self.epoch, self.rise)
        return f"the warm-up of the divergence was not over: it had {risen_to:.0%} of its weight".replace("%", " %")

    def detach(self, network: nn.Module) -> None:
        """The network keeps the means."""
        self.noise.remove()

    @torch.no_grad()
    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of the weights around those of the detached `network`, by name."""
        variances = self.variances()
        return {
            name: parameter + variances[name].sqrt() * _normal(parameter, generator)
            for name, parameter in self.named_weights(network).items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """log σ, which weights are present, and the epoch that the warm-up has reached, of how many."""
        present = torch.ones_like(self.log_sigma) if self.present is None else self.present
        epochs = {"epoch": torch.tensor(self.epoch), "epochs": torch.tensor(self.epochs)}
        return {"log_sigma": self.log_sigma.detach(), "present": present, **epochs}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        self.log_sigma.copy_(tensors["log_sigma"])
        self.present = None if bool(tensors["present"].all()) else tensors["present"].to(self.log_sigma)
        self.epoch, self.epochs = int(tensors["epoch"]), int(tensors.get("epochs", self.epochs))

    @torch.no_grad()
    def learned(self, network: nn.Module) -> dict[str, Any]:
        """β and KL at the end, and the median σ of each layer; warns of a warm-up that was not over."""
        if self.epoch < self.settles:
            logger.warning(
                "training ended in the warm-up of the divergence, at %.2g of its weight: train for more than %d "
                "epochs, shorten warm_up, or tell attach the epochs of your loop",
                risen(self.epoch, self.rise), self.settles,
            )  # fmt: skip
        medians = {name: sigma.median().item() for name, sigma in self.sigma().items()}
        return {"beta": self.beta, "kl": self.divergence(network).item(), "sigma": medians}


def check_span(name: str, span: tuple[int, int]) -> None:
    """Raise UsageError unless `span` is two epochs in order."""
    if not 0 <= span[0] <= span[1]:
        raise UsageError(f"{name} must be two epochs in order, 0 <= first <= second, got {span!r}")


def risen(epoch: int, span: tuple[int, int]) -> float:
    """What rises linearly from 0 to 1 between two epochs: 1 from the second on, also where they are equal."""
    start, end = span
    return 1.0 if epoch >= end else max(0.0, (epoch - start) / (end - start))


def equal_log_sigma(weights: Mapping[str, nn.Parameter], value: float) -> Tensor:
    """The same log σ for every weight, shape (P,)."""
    return torch.cat([torch.full_like(weight.detach().flatten(), value) for weight in weights.values()])


def gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient to add to: zeros, of a parameter of which nothing has been computed.

    In the shape of the parameter.
    """
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


class _Variance(torch.autograd.Function):
    """σ² from log σ, times what is present, cut into weights: one exponential, shared by the two passes.

    Memory is what takes time here: σ² fills the same `buffer` at each step, and the gradients of the weights are
    multiplied into their places in that of log σ.
    """

    @staticmethod
    def forward(
        ctx: Any, log_sigma: Tensor, present: Tensor | None, buffer: Tensor, shapes: Weights
    ) -> tuple[Tensor, ...]:
        variance = torch.mul(log_sigma, 2 / LOG_2, out=buffer).exp2_().detach()  # a third of the time of exp
        if present is not None:
            variance.mul_(present)
        ctx.save_for_backward(variance)
        ctx.shapes, ctx.zero = shapes, variance.new_zeros(())
        return tuple(named(variance, shapes).values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (variance,) = ctx.saved_tensors
        total = torch.empty_like(variance)
        places = zip(named(total, ctx.shapes).values(), named(variance, ctx.shapes).values(), strict=True)
        for g, (place, factor) in zip(gradients, places, strict=True):
            torch.addcmul(ctx.zero, g, factor, value=2, out=place)
        return total, None, None, None


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2].startswith("bias")


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
