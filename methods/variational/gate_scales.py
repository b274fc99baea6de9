"""Gates of nodes whose weights also share a scale: w = z γ ŵ, ŵ ~ N(θ, σ²), γ made of log-normal factors.

Jantre, Bhattacharya, Maiti, "Spike-and-slab shrinkage priors for structurally sparse Bayesian neural networks", IEEE
Transactions on Neural Networks and Learning Systems 2024, arXiv 2308.09104. All that a node reads, and its bias, has
the gate z ~ Bernoulli(φ) and the scale γ; weights without a gate have the scale 1. The divergence is that of
`indicator_kl`, where what an open gate costs are its weights and its own factors; factors that a group of nodes shares
count in full. A closed gate leaves its own factors at their prior.
"""

from __future__ import annotations

import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...architectures.units.slices import Group
from ...architectures.units.vector import Units
from ...datasets.examples import Examples
from ..closed_forms.flat import named
from ..closed_forms.lognormal import Moments, kl_to_gamma
from ..closed_forms.order_statistics import quantiles
from ..closed_forms.spike_slab import indicator_kl, slab_kl
from .gates import Gated, Indicators, Level, Relaxation, concrete
from .scale_factors import LOG_SPREAD, Factor, Scale, by_factor, expanded
from .weight_noise import Weights


@dataclass
class ScaledIndicators(Indicators):
    """Gates of nodes, and their scales, drawn once in each forward pass.

    What remains after `reduce` is in for certain, and keeps its scales. Learning rates of the factors are those of the
    gates.
    """

    level: Level = "nodes"
    relaxation: Relaxation = "concrete"

    @abstractmethod
    def scale_prior(self, group: Group, weights: int) -> tuple[dict[str, Factor], Scale]:
        """Factors by name, of all nodes of a group or of each, and what their scales are; each governs so many."""

    def of_factors(self, means: Tensor, log_deviations: Tensor) -> Tensor:
        """KL of every factor from its prior, of means and log deviations of the factors' logs, all (F,); in nats."""
        return kl_to_gamma(means, log_deviations, self.a, self.b)

    # -------------------------------------------------------------- the network's step

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `Indicators`; what is trained of the scales are mean and log deviation of the factors' logs."""
        super().attach(network, units, train)
        governed = torch.bincount(self.owner, minlength=self.count + 1)[:-1].cpu().split([g.size for g in self.groups])
        priors = [self.scale_prior(g, int(n[0])) for g, n in zip(self.groups, governed, strict=True)]
        self.factors = {name: factor for factors, _ in priors for name, factor in factors.items()}
        self.scales = [scale for _, scale in priors]
        start, self.a, self.b = (
            expanded(self.factors, operator.attrgetter(part), self.steps) for part in ("start", "a", "b")
        )
        self.place = self._places().to(self.owner.device)
        self.origin = torch.stack([start, torch.full_like(start, LOG_SPREAD)])
        self.scale_steps = nn.Parameter(torch.zeros_like(self.origin))

    def _places(self) -> Tensor:
        """The gate of every factor, (F,); `count` where it is shared."""
        where = {}
        for scale, gates in zip(
            self.scales, torch.arange(self.count).split([g.size for g in self.groups]), strict=True
        ):
            where |= dict.fromkeys(scale.factors, gates)
        shared = torch.tensor([self.count])
        return torch.cat([where[name] if factor.shape else shared for name, factor in self.factors.items()])

    def parameters(self) -> Iterable[nn.Parameter]:
        """As `Indicators`, and the factors, (2, F), in units of `lr_factor`."""
        return (*super().parameters(), self.scale_steps)

    @property
    def logs(self) -> Tensor:
        """Means and log standard deviations of the factors' logs, (2, F)."""
        return self.origin + self.lr_factor * self.scale_steps

    def _draw(self, generator: torch.Generator | None = None) -> Tensor:
        """γ of every weight, (P,), of one draw; from torch's global generator unless one is given."""
        means, log_deviations = self.logs
        fresh = torch.empty_like(means) if generator is None else means.new_empty(means.shape, device="cpu")
        parts = by_factor(
            self.factors, means + log_deviations.exp() * fresh.normal_(generator=generator).to(means.device)
        )
        return self._spread(torch.cat([scale.log(parts) for scale in self.scales]).exp())

    def moments(self) -> Moments:
        """E[log γ], E[γ] and E[γ²] of every gate, (gates,)."""
        means, log_deviations = self.logs
        parts = by_factor(self.factors, means), by_factor(self.factors, (2 * log_deviations).exp())
        each = [scale.moments(*parts) for scale in self.scales]
        return Moments(*(torch.cat([getattr(m, part) for m in each]) for part in ("log", "mean", "square")))

    def means(self, network: nn.Module, training: bool) -> Weights:
        """A draw of z γ ŵ in training, or of γ θ once all is certain; φ E[γ] θ else."""
        theta = self.flat_mean(network)
        if not training:
            return self._named(
                self._of_weights(self.gate_log_odds.sigmoid()) * self._spread(self.moments().mean) * theta
            )
        self.drawn = self._draw()
        if not self.certain:
            theta = theta + self._of_present(self.log_sigma.exp() * torch.randn_like(theta))
        return self._named(self._of_weights(concrete(self.gate_log_odds)) * self.drawn * theta)

    def variances(self) -> Weights:
        """γ² σ² with the γ of the means before, once all is certain; 0 where these are draws."""
        found = super().variances()
        if not self.certain:
            return found
        scales = named(self.drawn, self.shapes)
        return {name: scales[name].square() * variance for name, variance in found.items()}

    def divergence(self, network: nn.Module) -> Tensor:
        """Σ over gates of `indicator_kl`, and what has no gate, or is shared; a scalar, in nats."""
        slab = self._of_present(slab_kl(self.flat_mean(network), (2 * self.log_sigma).exp(), self.slab_variance))
        behind = slab.new_zeros(self.count + 1).index_add(0, self.owner, slab)
        own, shared = self.divergence_of_scales()
        if self.certain:
            alive = self._behind(torch.ones_like(slab)) > 0
            return behind.sum() + (own * alive).sum() + shared
        inclusion = 1 / (1 + math.exp(-self.prior_log_odds))
        return indicator_kl(self.gate_log_odds, behind[:-1] + own, inclusion).sum() + behind[-1] + shared

    def divergence_of_scales(self) -> tuple[Tensor, Tensor]:
        """KL of the factors of each gate, (gates,), and of all that gates share, a scalar; in nats."""
        kl = self.of_factors(*self.logs)
        total = kl.new_zeros(self.count + 1).index_add(0, self.place, kl)
        return total[:-1], total[-1]

    def penalizer(self, network: nn.Module, scale: float) -> Callable[[], None]:
        """By differentiating the divergence, if it counts at all."""
        return (lambda: (scale * self.penalty(network)).backward()) if self.beta else lambda: None

    # -------------------------------------------------------------- what remains

    @torch.no_grad()
    def detach(self, network: nn.Module) -> None:
        """The network keeps the means φ E[γ] θ, which are E[γ] θ once all is certain."""
        self.expected = self._spread(self.moments().mean)
        super().detach(network)

    @torch.no_grad()
    def sample(self, network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of gates, scales and weights for the detached `network`, by name."""
        phi = self.gate_log_odds.sigmoid()
        open_ = torch.rand(self.count, generator=generator).to(phi.device) < phi
        theta = self.flat_mean(network) / (self._of_weights(phi) * self.expected).clamp_min(torch.finfo(phi.dtype).tiny)
        noise = torch.randn(len(theta), generator=generator).to(theta)
        weights = theta + self._of_present(self.log_sigma.exp()) * noise
        return dict(self._named(self._of_weights(open_.to(phi)) * self._draw(generator) * weights))

    @torch.no_grad()
    def posterior(self, network: nn.Module, train: Examples) -> Gated:
        """Moments of γ ŵ, of weights that are in, and the gates; float64."""
        found, moments = super().posterior(network, train), self.moments()
        mean, square = (named(self._spread(part.double()), self.shapes) for part in (moments.mean, moments.square))
        centre = {name: mean[name] * theta for name, theta in found.mean.items()}
        second = {n: square[n] * (theta.square() + found.variance[n]) for n, theta in found.mean.items()}
        precision = {name: 1 / (second[name] - centre[name].square()) for name in centre}
        return Gated(centre, precision, found.log_odds, found.shared)

    def tensors(self) -> dict[str, Tensor]:
        """As `Indicators`, and the factors."""
        return {**super().tensors(), "scale_steps": self.scale_steps.detach()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` returned."""
        super().load_tensors(tensors)
        self.scale_steps.copy_(tensors["scale_steps"])

    @torch.no_grad()
    def learned(self, network: nn.Module) -> dict[str, Any]:
        """As `Indicators`, and the quartiles of E[γ] in each group of nodes."""
        levels = self.origin.new_tensor([0.25, 0.5, 0.75])
        scales = self.moments().mean.split([group.size for group in self.groups])
        quartiles = {g.name: quantiles(part, levels) for g, part in zip(self.groups, scales, strict=True)}
        return {**super().learned(network), "scale": quartiles}
