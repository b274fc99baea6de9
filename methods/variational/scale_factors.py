"""Positive factors that scales of weights are made of: log-normal in the posterior, Gamma in the prior.

    log τ² = offset + Σ ± log of factors,    γ² = τ², or c² τ² / (c² + τ²) with a slab c.

Marković, Friston, Kiebel, arXiv 2309.12095: with ratios of Gamma(½) factors τ is a product of half-Cauchy variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...architectures.units.prunable import held_transposed, prunable
from ..closed_forms.lognormal import Moments, moments, regularised

# Log standard deviation of the log of every factor before training: log 0.1.
LOG_SPREAD = -2.302585092994046


@dataclass(frozen=True)
class Factor:
    """Independent positive variables with the prior Gamma(a, rate b): their shape, and the mean of their logs at first.

    `of` is the parameter whose entries they belong to one by one, if they do: they leave with them.
    """

    shape: torch.Size
    a: float
    b: float
    start: float = 0.0
    of: str | None = None


@dataclass(frozen=True)
class Scale:
    """What γ of one parameter is made of: the offset of log τ², signed factors, and perhaps c⁻².

    A factor belongs to all entries of the parameter, of `rank` axes, or to its outputs, along the axis `outputs`.
    """

    rank: int
    offset: float
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    slab: str | None = None
    outputs: int = 0

    @property
    def factors(self) -> tuple[str, ...]:
        """Of all that it is made of, the names."""
        return (*self.plus, *self.minus, *([self.slab] if self.slab else []))

    def log_square(self, values: Mapping[str, Tensor]) -> Tensor:
        """log τ² of the factors' logs; broadcast to the shape of its parameter."""
        total = torch.tensor(self.offset)
        for name in self.plus:
            total = total + self._aligned(values[name])
        for name in self.minus:
            total = total - self._aligned(values[name])
        return total

    def _aligned(self, value: Tensor) -> Tensor:
        lacking = self.rank - value.dim()
        before = self.outputs if value.dim() == 1 else 0
        return value.reshape(*[1] * before, *value.shape, *[1] * (lacking - before))

    def log(self, values: Mapping[str, Tensor]) -> Tensor:
        """log γ of the factors' logs; broadcast to the shape of its parameter."""
        return regularised(self.log_square(values), self._aligned(values[self.slab]) if self.slab else None)

    def moments(self, means: Mapping[str, Tensor], variances: Mapping[str, Tensor]) -> Moments:
        """Of γ under independent Gaussians of the factors' logs."""
        mean = self.log_square(means)
        slab = (self._aligned(means[self.slab]), self._aligned(variances[self.slab])) if self.slab else None
        return moments(mean, self.log_variance(variances).expand_as(mean), slab)

    def inverse_square(self, means: Mapping[str, Tensor], variances: Mapping[str, Tensor]) -> Tensor:
        """E[γ⁻²] = E[τ⁻²] + E[c⁻²], the precision that the expected log density of a prior N(0, γ²) has."""
        inverse = (0.5 * self.log_variance(variances) - self.log_square(means)).exp()
        if self.slab is None:
            return inverse
        return inverse + self._aligned((means[self.slab] + 0.5 * variances[self.slab]).exp())

    def log_variance(self, variances: Mapping[str, Tensor]) -> Tensor:
        """Var[log τ²]."""
        total = torch.zeros(())
        for name in (*self.plus, *self.minus):
            total = total + self._aligned(variances[name])
        return total


@dataclass(frozen=True)
class Layer:
    """A prunable weight, and its bias if that is Gaussian, with the shape of each, and the weight's axis of outputs."""

    weight: str
    members: Mapping[str, torch.Size]
    rms: float
    last: bool
    outputs: int = 0

    @property
    def rows(self) -> int:
        """Output units: the entries of the weight's axis of outputs."""
        return self.members[self.weight][self.outputs]

    def outputs_of(self, member: str) -> int:
        """The axis of outputs: that of the weight, and the only one of the bias."""
        return self.outputs if member == self.weight else 0


Prior = tuple[dict[str, Factor], dict[str, Scale]]


def expanded(factors: Mapping[str, Factor], value: Callable[[Factor], float], like: Tensor) -> Tensor:
    """A value of every variable, factor after factor, shape (F,), in the type of `like` and where it is."""
    parts = [like.new_full((factor.shape.numel(),), value(factor)) for factor in factors.values()]
    return torch.cat(parts).detach()


def by_factor(factors: Mapping[str, Factor], values: Tensor) -> dict[str, Tensor]:
    """Views of `values` (..., F) by the names of the factors, in their shapes (..., *shape)."""
    parts = values.split([factor.shape.numel() for factor in factors.values()], -1)
    return {n: part.view((*part.shape[:-1], *f.shape)) for part, (n, f) in zip(parts, factors.items(), strict=True)}


def layers(network: nn.Module, shapes: Mapping[str, Tensor]) -> Iterator[Layer]:
    """Every prunable weight with the Gaussian bias beside it, in the network's own order."""
    weights = list(prunable(network))
    for name in weights:
        own = [n for n in (name, bias_of(name)) if n in shapes]
        rms = torch.cat([shapes[n].flatten() for n in own]).square().mean().sqrt().item()
        outputs = int(held_transposed(network, name))
        yield Layer(name, {n: shapes[n].shape for n in own}, rms, name == weights[-1], outputs)


def bias_of(weight: str) -> str:
    """Name of the bias beside a weight."""
    head, _, tail = weight.rpartition("weight")
    return f"{head}bias{tail}"
