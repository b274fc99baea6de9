"""From scores to the units that rank highest, with exact counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...architectures.units.vector import Units
from ...datasets.errors import UsageError


class ScoreError(ValueError):
    """A score that cannot rank: wrong shape or type, not finite, or constant."""


def keep_count(n: int, sparsity: float) -> int:
    """Units kept of `n`: (1 - sparsity) n, rounded half up; raises UsageError when that is none."""
    keep = math.floor((1 - sparsity) * n + 0.5 + 1e-9)  # 1 - 0.9 is a little less than 0.1
    if keep < 1:
        raise UsageError(f"sparsity {sparsity} would remove every one of {n} units; lower it below {1 - 0.5 / n:.6g}")
    return keep


def round_target(sparsity: float | None, i: int, rounds: int) -> float | None:
    """Sparsity after round i of `rounds`: the same share of the rest leaves in each (exponential schedule)."""
    return None if sparsity is None else 1 - (1 - sparsity) ** ((i + 1) / rounds)


def checked_scores(scores: Tensor, units: Units) -> Tensor:
    """Scores as float64; raises ScoreError unless they are real, finite and of shape (units.n,)."""
    if not isinstance(scores, Tensor):
        raise ScoreError(f"a score must be a tensor, one worth per unit, got {type(scores).__name__}")
    if tuple(scores.shape) != (units.n,):
        raise ScoreError(f"a score must have shape ({units.n},), one worth per unit, got {tuple(scores.shape)}")
    if scores.is_complex() or scores.dtype == torch.bool or scores.layout != torch.strided:
        raise ScoreError(f"a score must hold real numbers, got {_kind(scores)}; say what is worth more than what")
    scores = scores.detach().double().cpu()
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).sum())
        raise ScoreError(f"{bad} of {units.n} scores are not finite; stay in log space or guard the division")
    return scores


def check_ranks(scores: Tensor, keep: int) -> None:
    """Raises ScoreError if `keep` of the scores are to be chosen, and all are the same."""
    if keep < len(scores) and bool((scores == scores[0]).all()):
        raise ScoreError(f"all {len(scores)} scores are {scores[0].item():.6g}; a constant cannot rank")


def _kind(scores: Tensor) -> str:
    return str(scores.dtype if scores.layout == torch.strided else scores.layout).removeprefix("torch.")


def globally_best(ranking: Tensor, units: Units, keep: int, floor: int) -> Tensor:
    """The `keep` best units, among them the `floor` best of every layer; boolean, shape (units.n,).

    Raises UsageError where the floors alone are more than `keep`.
    """
    if floor * len(units.layer_sizes) > keep:
        raise UsageError(
            f"keeping {keep} of {units.n} units leaves less than {floor} for each of {len(units.layer_sizes)} layers; "
            "ask for a lower sparsity"
        )
    return best(ranking.masked_fill(best_of_each_layer(ranking, units, floor), math.inf), keep)


def best_of_each_layer(ranking: Tensor, units: Units, floor: int) -> Tensor:
    """The `floor` best units of every layer, or all of a smaller one; boolean, shape (units.n,)."""
    return torch.cat([best(layer, min(floor, len(layer))) for layer in units.split(ranking)])


def best(ranking: Tensor, k: int) -> Tensor:
    """The k largest, the first of equal ones; a threshold is found in linear time, without sorting.

    Boolean, in the shape of `ranking`.
    """
    if k <= 0 or k >= len(ranking):
        return torch.full_like(ranking, k > 0, dtype=torch.bool)
    threshold = ranking.kthvalue(len(ranking) - k + 1).values
    kept = ranking > threshold
    ties = (ranking == threshold).nonzero().flatten()
    kept[ties[: k - int(kept.sum())]] = True
    return kept
