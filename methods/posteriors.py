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
