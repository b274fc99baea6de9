"""What variational inference under spike and slab shares: the prior, a small start, and the noise of real targets.

The losses of the suite are those of unit noise on standardised targets. With noise s, log p(y | w) is that over s²,
and the bound, times s² / N, is the mean loss plus s² KL / N: noise is a factor of the divergence. Fitted, it is what
maximises the bound: s² = E_q of the mean squared residual (for K targets, over N K numbers).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ...architectures.units.prunable import prunable
from ...architectures.units.vector import Units
from ...datasets.examples import Examples
from ..closed_forms.arguments import positive
from ..closed_forms.likelihood import output_model, summed_loss
from ..closed_forms.posteriors import Gaussian
from ..closed_forms.spike_slab import logit
from .inference import Variational, check_span, equal_log_sigma, risen

Posterior = TypeVar("Posterior", bound=Gaussian)
TargetNoise = float | Literal["fitted"]
Shrunk = Literal["all", "first"]

# Examples on which noise is fitted after each epoch, at most.
EXAMPLES = 1024
# Log odds of π = 0.1, from which others are annealed.
GENEROUS = logit(0.1)
# Of s²: below, the divergence is gone.
LEAST = 1e-6


@dataclass
class SpikeAndSlab(Variational[Posterior]):
    """Gaussians over the weights under a prior with a spike and a slab.

    Attributes:
        inclusion: π of the slab, in (0, 1).
        anneal: epochs in which the log odds of π move from those of 0.1 to its own; (0, 0): π from the start.
        slab_variance: s₁².
        target_noise: s, a standard deviation of standardised targets, or "fitted"; classes have none.
        log_sigma_start: log σ before training.
        shrink: factor of the initial weights: noise that starts as large as signal is fitted before it is pruned.
        shrunk: which weights, of "all" layers or of the "first".

    Raises UsageError for an inclusion of 0 or 1, and for what is not positive.
    """

    inclusion: float = 0.1
    anneal: tuple[int, int] = (0, 0)
    slab_variance: float = 1.0
    target_noise: TargetNoise = "fitted"
    log_sigma_start: float = -5.0
    shrink: float = 1.0
    shrunk: Shrunk = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        logit(self.inclusion)
        check_span("anneal", self.anneal)
        positive("slab_variance", self.slab_variance)
        positive("shrink", self.shrink)
        if self.target_noise != "fitted":
            positive("noise", self.target_noise)

    @torch.no_grad()
    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `Variational`; weights shrink, and a fitted noise starts at 1, the residual of an untrained network."""
        weights = list(prunable(network).values())
        for weight in weights if self.shrunk == "all" else weights[:1]:
            weight.mul_(self.shrink)
        super().attach(network, units, train)
        self.real = output_model(train.likelihood).fits_noise
        given = self.real and not isinstance(self.target_noise, str)
        self.noise_variance = float(self.target_noise) ** 2 if given else 1.0

    def initial_log_sigma(self, network: nn.Module) -> Tensor:
        """The same for all; shape (P,)."""
        return equal_log_sigma(self.named_weights(network), self.log_sigma_start)

    @property
    def beta(self) -> float:
        """The present weight of the divergence, times s²."""
        return super().beta * self.noise_variance

    @property
    def prior_log_odds(self) -> float:
        """The present log odds of π."""
        final = logit(self.inclusion)
        return final - (final - GENEROUS) * (1 - risen(self.epoch, self.anneal))

    def update(self, network: nn.Module, train: Examples, epoch: int) -> None:
        """The warm-up goes on, and the noise follows the residuals, under a draw of the training's own noise."""
        super().update(network, train, epoch)
        if self.real and self.target_noise == "fitted":
            part = train[:: math.ceil(len(train) / EXAMPLES)]  # the first ones may be sorted
            self.noise_variance = max(2 * summed_loss(network, part).item() / part.y.numel(), LEAST)

    def tensors(self) -> dict[str, Tensor]:
        """As `Variational`, and s²."""
        return {**super().tensors(), "noise_variance": torch.tensor(self.noise_variance, dtype=torch.float64)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        super().load_tensors(tensors)
        self.noise_variance = tensors["noise_variance"].item()

    def learned(self, network: nn.Module) -> dict[str, Any]:
        """As `Variational`, and s of real targets."""
        found = super().learned(network)
        return {**found, "noise": self.noise_variance**0.5} if self.real else found
