"""The change of evidence of rows of weights as a function of one scale: ΔF of a reduced prior N(0, γ² σ²).

Under independent weights the ΔF of a row is the sum of its weights' (see `model_reduction`), a function of log γ²
alone. It is computed once, with its slopes, at evenly spaced places, and interpolated by cubics between them: what
follows, hundreds of steps of an optimiser with many draws of γ, costs nothing per weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .model_reduction import BLOCK, delta_f

# Places in log γ²: from scales that no posterior tells from a spike to 150 times the prior's.
LOW, STEP, PLACES = -30.0, 0.25, 161


@dataclass(frozen=True)
class Rows:
    """Gaussian posteriors and prior variances of rows of weights that share a scale, float64, each of shape (R, n).

    `live`, boolean (R, n), says which weights are there.
    """

    mean: Tensor
    variance: Tensor
    prior_variance: Tensor
    live: Tensor


@dataclass(frozen=True)
class RowEvidence:
    """ΔF of R rows and its slope in log γ², nats, float64, shape (PLACES, R)."""

    value: Tensor
    slope: Tensor

    def __call__(self, log_square: Tensor) -> Tensor:
        """ΔF at log γ² (S, R), in that shape; constant beyond the first and the last place."""
        position = ((log_square - LOW) / STEP).clamp(0, PLACES - 1)
        left = position.detach().floor().long().clamp_max(PLACES - 2)
        t = position - left
        first, second = (self.value.gather(0, i) for i in (left, left + 1))
        rise, next_rise = (STEP * self.slope.gather(0, i) for i in (left, left + 1))
        square = 3 * (second - first) - 2 * rise - next_rise
        cube = rise + next_rise - 2 * (second - first)
        return first + t * (rise + t * (square + t * cube))

    @property
    def spike(self) -> Tensor:
        """ΔF of setting the rows to 0, (R,)."""
        return self.value[0]

    @classmethod
    def of(cls, layers: Sequence[Rows]) -> RowEvidence:
        """Of the rows of all layers, side by side."""
        tables = [_tabulated(rows) for rows in layers]
        return cls(*(torch.cat(parts, 1) for parts in zip(*tables, strict=True)))


def _tabulated(rows: Rows) -> tuple[Tensor, Tensor]:
    places = LOW + STEP * torch.arange(PLACES, dtype=torch.float64, device=rows.mean.device)
    parts = [_value_and_slope(rows, part) for part in places.split(max(1, BLOCK // max(rows.mean.numel(), 1)))]
    value, slope = (torch.cat(part) for part in zip(*parts, strict=True))
    return value, slope


def _value_and_slope(rows: Rows, places: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        log = places.view(-1, 1, 1).repeat(1, len(rows.mean), 1).requires_grad_()
        reduced = rows.prior_variance * log.exp()
        change = delta_f(rows.mean, rows.variance, 0.0, rows.prior_variance, 0.0, reduced)
        value = (change * rows.live).sum(2)
        (slope,) = torch.autograd.grad(value.sum(), log)
    return value.detach(), slope.squeeze(2)
