"""VIBNet: noise on structures, as much of it as the variational information bottleneck lets stand before signals.

Dai, Zhu, Guo, Wipf, "Compressing neural networks using the variational information bottleneck", ICML 2018, arXiv
1802.10399. Between layers stands the channel h = z ∘ x, z ~ N(μ, σ²); under the prior N(0, a) with the a that is best,
μ² + σ², its divergence bounds what the layer says of its inputs.

Formula: KL = ½ log(1 + μ²/σ²) for each structure,  s = -log α,  α = σ²/μ²;  stays if α < 1
Paper: dai2018compressing
Deviations: the divergence of a channel counts once, not at every position of its map, and N times larger than
    published: in nats of the data set (`kl`). A draw for each example and structure. No weight decay on μ and log σ².
Oracle: test_vib.py::test_the_divergence_is_that_of_the_best_prior, test_vib.py::test_the_penalty_is_the_sum
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from ..architectures.units.prunable import trainable
from ..architectures.units.vector import Units
from ..datasets.examples import Examples
from .noise.structure_noise import DrawnFor, StructureNoise
from .noise.worth import of_units
from .pruner import Pruner, State, register

# μ and log σ of every structure before training (published code).
START = (1.0, -4.5)


@dataclass(frozen=True)
class GaussianNoise:
    """Independent noise N(μ, σ²) on the structures `units`: (units.n,), float64."""

    units: Units
    mu: Tensor
    log_sigma: Tensor


@dataclass
class Bottleneck(StructureNoise[GaussianNoise]):
    """Training with Gaussian noise on every structure, and ½ δ |w|² of the weights."""

    precision: float = 1.0

    def origin_of(self) -> Tensor:
        """μ and log σ."""
        return torch.tensor(START, dtype=torch.float64).unsqueeze(1)

    def draw(self, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """μ + σ ε, from torch's global generator."""
        mu, log_sigma = values.to(self.drawn_in).unbind()
        return mu + log_sigma.exp() * torch.randn(shape, dtype=mu.dtype, device=mu.device)

    @torch.no_grad()
    def mean(self) -> Tensor:
        """μ."""
        return self.values()[0]

    def divergences(self, network: nn.Module) -> Tensor:
        """½ log(1 + μ²/σ²)."""
        return divergence(*self.values().unbind())

    def penalty(self, network: nn.Module) -> Tensor:
        """The weighted divergences, and ½ δ |w|²; a scalar, in nats."""
        squares = torch.stack([p.square().sum() for p in trainable(network).values()]).sum()
        return super().penalty(network) + 0.5 * self.precision * squares

    def posterior(self, network: nn.Module, train: Examples) -> GaussianNoise:
        """The noise as it is now."""
        return GaussianNoise(self.units, *self.values().detach().unbind())

    def learned(self, network: nn.Module) -> dict[str, Any]:
        """Medians of μ and log σ in each layer, and the share of structures with more noise than signal."""
        mu, log_sigma = self.values().detach()
        return self.medians(mu=mu, log_sigma=log_sigma) | {"noisy": (signal(mu, log_sigma) < 0).double().mean().item()}


def signal(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """-log α = log μ²/σ², elementwise; finite where μ is 0."""
    return 2 * (mu.abs().clamp_min(torch.finfo(mu.dtype).tiny).log() - log_sigma)


def divergence(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """½ log(1 + μ²/σ²), nats, elementwise: KL(N(μ, σ²) ‖ N(0, μ² + σ²))."""
    return 0.5 * torch.log1p(mu.square() * (-2 * log_sigma).exp())


@register("vib")
def vib_pruner(
    kl: NonNegativeFloat = 3.0, precision: NonNegativeFloat = 1.0, draws: DrawnFor = "example",
    lr_factor: PositiveFloat = 5.0, preset: Literal["authors"] | None = None,
) -> Pruner[GaussianNoise]:  # fmt: skip
    """Noise on structures by the variational information bottleneck: more signal than noise stays (Dai et al. 2018).

    `preset: authors` has the divergence as often as 1e-5 of the mean loss of 60,000 examples, and noise that learns as
    fast as weights.
    """
    if preset == "authors":
        kl, lr_factor = 0.6, 1.0
    inference = partial(Bottleneck, kl=kl, draws=draws, lr_factor=lr_factor, precision=precision)
    return Pruner(inference, vib, keep_above=0.0)


def vib(state: State[GaussianNoise]) -> Tensor:
    """-log α = log μ²/σ², positive where there is more signal than noise; (units.n,)."""
    q = state.posterior
    return of_units(signal(q.mu, q.log_sigma), q.units, state)
