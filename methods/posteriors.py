"""Posteriors over parameters: closed forms over named tensors, no networks inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """Independent Gaussians over parameters: `mean` and `precision` by parameter name, float64."""

    mean: Mapping[str, Tensor]
    precision: Mapping[str, Tensor]

    @cached_property
    def variance(self) -> dict[str, Tensor]:
        """1 / precision, by parameter name."""
        return {name: precision.reciprocal() for name, precision in self.precision.items()}


@dataclass(frozen=True)
class Laplace(Gaussian):
    """A Gaussian whose precision is the likelihood's `curvature` plus a prior precision."""

    curvature: Mapping[str, Tensor]

    @classmethod
    def at(
        cls, mode: Mapping[str, Tensor], curvature: Mapping[str, Tensor], prior: Mapping[str, Tensor | float]
    ) -> Laplace:
        """The approximation at a mode, with the prior precision of every parameter."""
        return cls(mode, {name: h + prior[name] for name, h in curvature.items()}, curvature)
