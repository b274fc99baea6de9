"""Multiplicative noise on structures: truncated log-normal posteriors under a log-uniform prior.

Neklyudov, Molchanov, Ashukha, Vetrov, "Structured Bayesian pruning via log-normal multiplicative noise", NIPS 2017,
arXiv 1705.07283. What the network reads from a structure (a neuron after its activation, a channel, an attention
head, a hidden unit) is multiplied by noise θ, and training descends on the mean loss plus the divergence of θ from
its prior. As everything else that reads a structure is linear in it, E[θ] folds into the reading weights.

Deliberate deviations from the published code: one draw for each example and structure, not for each pixel or token;
all places that read a structure share its noise, so that there is one θ per structure also in residual networks; a
structure that has left takes no part in the divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..architectures.mask import Mask
from ..architectures.modes import precision_of
from ..architectures.units import Units, group_units
from ..datasets.data import Split
from ..datasets.registry import UsageError
from .pruner import Inference
from .reading import Reading, readings
from .truncated import draw, kl_to_loguniform, noise_mean, noise_snr

Draws = Literal["example", "minibatch", "element"]
Weighting = Literal["elbo", "paper_mean"]


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
            structures of each layer, averaged over layers, which presses N / (layers · structures) times harder; a
            number multiplies them.
        draws: what has a draw of its own: every "example", the whole "minibatch", or every "element" that is read.
        lr_factor: learning rate of μ and log s over that of the weights (under Adam, which is what this is for).
        a: smallest log θ.
        b: largest log θ.
        start: μ and log s before training.
    """

    kl: Weighting | float = "paper_mean"
    draws: Draws = "example"
    lr_factor: float = 1.0
    a: float = -20.0
    b: float = 0.0
    start: tuple[float, float] = (0.0, -5.0)

    def __post_init__(self) -> None:
        if not isinstance(self.kl, str) and not self.kl >= 0:
            raise UsageError(f"the weight kl of the divergence must be 'elbo', 'paper_mean' or >= 0, got {self.kl!r}")
        if not self.lr_factor > 0:
            raise UsageError(f"lr_factor must be positive, got {self.lr_factor!r}")
        if not self.a < self.b:
            raise UsageError(f"the bounds of log θ must be in order, got a={self.a!r} and b={self.b!r}")

    # -------------------------------------------------------------- the network's step

    def attach(self, network: nn.Module, units: Units, train: Split) -> None:
        """Give every structure of `network` its noise, whatever `units` are to be pruned.

        Raises UsageError for a network without structures, or whose structures no linear layer or convolution reads.
        """
        self.units = _structures(network, train)
        self.size = len(train)
        self.steps = nn.Parameter(torch.zeros(2, self.units.n, dtype=torch.float64, device=train.x.device))
        self.weights = self._weights(torch.ones(self.units.n, dtype=torch.bool, device=train.x.device))
        self.readings = readings(network, self.units)
        self.precision = torch.promote_types(precision_of(network), torch.float32)
        self.noise: Tensor | None = None
        # Functions, not bound methods: these would be copied with the network, and the noise with only some of them.
        self.handles: list[RemovableHandle] = [
            network.register_forward_pre_hook(lambda *call: self._enter(*call)),
            network.register_forward_hook(lambda *_: self._leave(), always_call=True),
            *(network.get_submodule(r.reader).register_forward_pre_hook(self._multiplier(r)) for r in self.readings),
        ]

    def parameters(self) -> Iterable[nn.Parameter]:
        """How far (μ, log s) are from their start, in units of `lr_factor`: (2, structures)."""
        return (self.steps,)

    @property
    def mu(self) -> Tensor:
        """μ of every structure, (structures,), float64."""
        return self.start[0] + self.lr_factor * self.steps[0]

    @property
    def log_sigma(self) -> Tensor:
        """log s of every structure, (structures,), float64."""
        return self.start[1] + self.lr_factor * self.steps[1]

    def penalty(self, network: nn.Module) -> Tensor:
        """Σ w KL(q‖p), in nats for the whole training set."""
        return self.weights @ kl_to_loguniform(self.mu, self.log_sigma, a=self.a, b=self.b)

    def _weights(self, present: Tensor) -> Tensor:
        """w of every structure; 0 for those that have left."""
        if not isinstance(self.kl, str):
            return present.double() * self.kl
        if self.kl == "elbo":
            return present.double()
        layers = [layer.double() for layer in self.units.split(present)]
        left = sum(bool(layer.any()) for layer in layers)
        return torch.cat([layer * self.size / (left * layer.sum()).clamp_min(1) for layer in layers])

    def _enter(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not network.training:
            self.noise = self.mean().unsqueeze(0)
        elif self.draws != "element":
            examples = len(inputs[0]) if self.draws == "example" else 1
            self.noise = self._draw(self.mu, self.log_sigma, (examples, self.units.n))

    def _leave(self) -> None:
        self.noise = None  # and with it the graph of the pass

    def _multiplier(self, reading: Reading) -> Callable[..., tuple[Any, ...]]:
        def multiply(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            noise = self._elementwise(reading, inputs[0]) if self.noise is None else reading.positions(self.noise)
            return reading.multiplied(inputs[0], noise), *inputs[1:]

        return multiply

    def _elementwise(self, reading: Reading, x: Tensor) -> Tensor:
        mu, log_sigma = (reading.positions(values) for values in (self.mu, self.log_sigma))
        return torch.where(reading.owned, self._draw(mu, log_sigma, reading.last(x).shape), 1.0)

    def _draw(self, mu: Tensor, log_sigma: Tensor, shape: Sequence[int]) -> Tensor:
        uniform = torch.rand(shape, dtype=self.precision, device=mu.device)
        return draw(mu, log_sigma, uniform, a=self.a, b=self.b)

    # -------------------------------------------------------------- what remains

    @torch.no_grad()
    def mean(self) -> Tensor:
        """E[θ] of every structure, (structures,), float64."""
        return noise_mean(self.mu, self.log_sigma, a=self.a, b=self.b)

    def posterior(self, network: nn.Module, train: Split) -> TruncatedLogNormal:
        """The noise as it is now."""
        return TruncatedLogNormal(self.units, self.mu.detach(), self.log_sigma.detach(), self.a, self.b)

    def reduce(self, network: nn.Module, mask: Mask) -> None:
        """Structures of which nothing stays are no longer penalised."""
        entries = {name: kept.to(self.steps.device, torch.float64) for name, kept in mask.tensors.items()}
        self.weights = self._weights(self.units.gather(entries) > 0)

    @torch.no_grad()
    def detach(self, network: nn.Module) -> None:
        """Fold E[θ] into the weights that read the structures, and take all hooks off."""
        mean = self.mean()
        for reading in self.readings:
            reading.fold(network, mean)
        for handle in self.handles:
            handle.remove()

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


def _structures(network: nn.Module, train: Split) -> Units:
    try:
        return group_units(network, train.x[:2]).to(train.x.device)
    except UsageError as error:
        raise UsageError(f"multiplicative noise needs structures, choose a method without noise: {error}") from error
