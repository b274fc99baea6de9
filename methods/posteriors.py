"""Posteriors over parameters: closed forms over named tensors, no networks inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .flat import named
from .posterior_curvature import Curvature


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
    """A Gaussian whose precision is the diagonal of cH + D: the likelihood's `curvature` and the `prior` precision.

    `curvature` is the diagonal of cH. With Kronecker factors, `precision` is that of the posterior that is
    diagonal in their eigenbasis, not the sum of the two.
    """

    curvature: Mapping[str, Tensor]
    prior: Mapping[str, Tensor]

    @classmethod
    def at(cls, mode: Mapping[str, Tensor], curvature: Curvature, prior_precision: Tensor) -> Laplace:
        """The approximation at a mode, with the tempered curvature cH and δ of every parameter, shape (P,)."""
        diagonal = curvature.precision(torch.zeros_like(prior_precision))
        vectors = (curvature.precision(prior_precision), diagonal, prior_precision)
        parts = (named(vector, mode) for vector in vectors)
        return cls({name: value.detach().double() for name, value in mode.items()}, *parts)
