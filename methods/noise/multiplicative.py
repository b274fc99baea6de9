"""Multiplicative noise on structures: truncated log-normal posteriors under a log-uniform prior.

Neklyudov, Molchanov, Ashukha, Vetrov, "Structured Bayesian pruning via log-normal multiplicative noise", NIPS 2017,
arXiv 1705.07283. Where noise sits, and how it folds, is `structure_noise`'s.

Deliberate deviations from the published code: one draw for each example and structure, not for each pixel or token;
all places that read a structure share its noise, so that there is one θ per structure also in residual networks; a
structure that has left takes no part in the divergence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...architectures.units.mask import Mask
from ...architectures.units.vector import Units
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ..closed_forms.truncated_draws import draw
from ..closed_forms.truncated_lognormal import kl_gradient, kl_to_loguniform, noise_mean, noise_snr
from .structure_noise import DrawnFor, StructureNoise, Weighting

__all__ = ["DrawnFor", "MultiplicativeNoise", "TruncatedLogNormal", "Weighting"]

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
class MultiplicativeNoise(StructureNoise[TruncatedLogNormal]):
    """Training with noise on every structure of the network; its posterior is that of the noise.

    In evaluation mode noise is E[θ].

    Attributes:
        a: smallest log θ.
        b: largest log θ.
        start: μ and log s before training.
    """

    kl: Weighting | float = "paper_mean"
    a: float = -20.0
    b: float = 0.0
    start: tuple[float, float] = (0.0, -5.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.a < self.b:
            raise UsageError(f"the bounds of log θ must be in order, got a={self.a!r} and b={self.b!r}")

    # -------------------------------------------------------------- the distribution

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `StructureNoise`."""
        super().attach(network, units, train)
        self.shortfall: tuple[float, float] | None = None

    def origin_of(self) -> Tensor:
        """μ and log s."""
        return torch.tensor(self.start, dtype=torch.float64).unsqueeze(1)

    @property
    def mu(self) -> Tensor:
        """μ of every structure, (structures,), float64."""
        return self.values()[0]

    @property
    def log_sigma(self) -> Tensor:
        """log s of every structure, (structures,), float64."""
        return self.values()[1]

    def draw(self, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """By the inverse of the distribution function."""
        mu, log_sigma = values.unbind()
        uniform = torch.rand(shape, dtype=self.drawn_in, device=mu.device)
        return draw(mu, log_sigma, uniform, a=self.a, b=self.b)

    def divergences(self, network: nn.Module) -> Tensor:
        """KL(q‖p) from the log-uniform prior."""
        return kl_to_loguniform(*self.values().unbind(), a=self.a, b=self.b)

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """The derivatives of the divergence in closed form, without a graph."""
        scale *= self.lr_factor

        @torch.no_grad()
        def penalise() -> None:
            mu, log_sigma = self.values().unbind()
            gradient = torch.stack(kl_gradient(mu, log_sigma, self.a, self.b)).mul_(self.weights * scale)
            self.steps.grad = gradient if self.steps.grad is None else self.steps.grad.add_(gradient)

        return penalise

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
        super().reduce(network, mask)
        needed = LEAST_TO_LEAVE if bool(self.present(mask).all()) else LEAST_FOR_ANY
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

    def detach(self, network: nn.Module) -> None:
        """As `StructureNoise`."""
        if self.shortfall:
            logger.warning(SHORTFALL, self.shortfall[0] - self.start[1], *self.shortfall)
        super().detach(network)

    def learned(self, network: nn.Module) -> dict[str, Any]:
        """Medians of μ, log s and E[θ] in each layer, and the share of its structures with more noise than signal."""
        snr = noise_snr(self.mu, self.log_sigma, a=self.a, b=self.b)
        noisy = [(part <= 1).double().mean().item() for part in self.units.split(snr)]
        return {**self.medians(mu=self.mu, log_sigma=self.log_sigma, mean=self.mean()), "noisy": noisy}
