"""Gaussians whose covariance is a diagonal and a few directions: what draws of weights, or steps of training, scatter.

Σ = diag(v) + U U', U (P, K). Given that w_S = 0, with K_S = I + U_S' diag(1/v_S) U_S and y = K_S⁻¹ U_S' (μ_S / v_S),

    w_R = μ_R - U_R y,    Cov = diag(v_R) + U_R K_S⁻¹ U_R',    c = ½ (Σ μ_S² / v_S - y' U_S' (μ_S / v_S)):

the reduced posterior of `conditioning`, by Woodbury's identity, with K by K matrices alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .conditioning import Conditional
from .flat import flat, named
from .posteriors import Gaussian

# Parameters up to which the whole covariance is formed for whoever asks.
MOST = 3_000


@dataclass(frozen=True)
class Scattered(Gaussian):
    """The means by name; `precision` is that of each weight by itself, 1 / Σ_qq.

    Attributes:
        spread: v > 0, (P,), float64, in the order of `mean`.
        directions: U, (P, K).
    """

    spread: Tensor
    directions: Tensor

    @classmethod
    def of(cls, mean: Mapping[str, Tensor], spread: Tensor, directions: Tensor) -> Scattered:
        """From means by name, v and U."""
        variance = spread + directions.square().sum(1)
        return cls(mean, named(variance.reciprocal(), mean), spread, directions)

    @cached_property
    def covariance(self) -> Tensor | None:
        """Σ of at most 3,000 parameters."""
        few = len(self.spread) <= MOST
        return torch.diag(self.spread) + self.directions @ self.directions.T if few else None

    def condition(self, mean: Tensor, kept: Tensor) -> Conditional:
        """Survivors move along the directions; what costs z is the precision Σ⁻¹ that all weights have."""
        gone = mean.masked_fill(kept, 0)
        pull = self.directions.T @ (gone / self.spread)
        alone, y = (gone.square() / self.spread).sum(), self._inverse(~kept) @ pull
        everyone = self._inverse(torch.ones_like(kept))
        moved = (mean - self.directions @ y).masked_fill(~kept, 0)
        return Conditional(moved, 0.5 * (alone - pull @ everyone @ pull), 0.5 * (alone - pull @ y))

    def given(self, kept: Tensor) -> Scattered:
        """The posterior given that what is not `kept`, boolean (P,), is 0: its covariance, and its means as they are.

        What has left scatters no more, but for a v that nobody reads.
        """
        root = torch.linalg.cholesky(self._inverse(~kept))
        return Scattered.of(self.mean, self.spread, (self.directions @ root).masked_fill(~kept.unsqueeze(1), 0))

    def _inverse(self, part: Tensor) -> Tensor:
        """(I + U_S' diag(1/v_S) U_S)⁻¹, (K, K)."""
        u = self.directions[part]
        gram = u.T @ (u / self.spread[part].unsqueeze(1))
        return torch.linalg.inv(gram + torch.eye(len(gram), dtype=gram.dtype, device=gram.device))

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """μ + v^½ ε + U ε', by name."""
        one, other = (torch.randn(n, generator=generator, dtype=torch.float64) for n in self.directions.shape)
        mean, device = flat(self.mean), self.spread.device
        return named(mean + self.spread.sqrt() * one.to(device) + self.directions @ other.to(device), self.mean)
