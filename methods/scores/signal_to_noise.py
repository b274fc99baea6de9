"""Signal over noise of units under a Gaussian posterior: the squares of means over variances, both summed."""

from __future__ import annotations

from torch import Tensor

from ...architectures.units.vector import Units
from ..closed_forms.posteriors import Gaussian


def log_signal(units: Units, posterior: Gaussian, least: float) -> Tensor:
    """log (Σ μ² + `least`) - log Σ s² over the weights of each unit; shape (units.n,)."""
    squares = units.gather({name: mean.square() for name, mean in posterior.mean.items()})
    return (squares + least).log() - units.gather(posterior.variance).log()
