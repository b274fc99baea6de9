"""Metrics of labels that hold or not: pure functions of logits (N, K) and zeros and ones (N, K), float64.

Each of the K labels is judged by itself, and the values are means over labels; the negative log likelihood is that of
all labels of an example together. Targets between 0 and 1 count as 1 above ½ where a decision is needed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..spec.metrics import register
from .metrics import ECE_BINS


@register("bernoulli")
def bernoulli(logits: Tensor, y: Tensor) -> dict[str, Any]:
    """Accuracy, NLL, Brier score, ECE and mean average precision.

    Of several labels also the share of examples with all of them right, and the values label by label. Labels that
    hold for no example have no average precision.
    """
    p, y = logits.sigmoid(), y.to(logits)
    each = {
        "accuracy": ((logits > 0) == (y > 0.5)).double().mean(0),
        "brier": (p - y).square().mean(0),
        "ece": torch.stack([calibration_error(*pair) for pair in zip(p.unbind(1), y.unbind(1), strict=True)]),
        "average_precision": torch.stack(
            [average_precision(*pair) for pair in zip(logits.unbind(1), y.unbind(1), strict=True)]
        ),
    }
    found: dict[str, Any] = {name: _mean(values) for name, values in each.items()}
    found = {name: value for name, value in found.items() if value is not None}
    found["nll"] = negative_log_likelihood(logits, y)
    if logits.shape[1] > 1:
        found["exact_match"] = ((logits > 0) == (y > 0.5)).all(1).double().mean().item()
        found["labels"] = {name: list(map(_number, values.tolist())) for name, values in each.items()}
    return found


@register("bernoulli_nll")
def negative_log_likelihood(logits: Tensor, y: Tensor) -> float:
    """Mean over examples of -Σ_k log p(y_k), in nats."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y.to(logits), reduction="none")
    return loss.sum(1).mean().item()


@register("bernoulli_ece")
def calibration_error(p: Tensor, y: Tensor, bins: int = ECE_BINS) -> Tensor:
    """Mean |share that holds - p| of one label over equal-width bins of p (N,), weighted by their share; a scalar."""
    bin_of = (p * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=y.device).index_add_(0, bin_of, (y - p).double())
    return gaps.abs().sum() / len(y)


@register("average_precision")
def average_precision(scores: Tensor, y: Tensor) -> Tensor:
    """Σ (R_n - R_{n-1}) P_n over the thresholds of one label's scores (N,); NaN where no example holds; a scalar."""
    order = scores.argsort(descending=True, stable=True)
    held, sorted_scores = (y[order] > 0.5).double().cumsum(0), scores[order]
    last = torch.ones_like(held, dtype=torch.bool)  # of equal scores, which no threshold tells apart
    last[:-1] = sorted_scores[1:] != sorted_scores[:-1]
    held, count = held[last], torch.arange(1, len(y) + 1, device=y.device)[last]
    recall = torch.cat([held.new_zeros(1), held]) / held[-1]
    return (recall.diff() * held / count).sum()


def log_confidence(logits: Tensor) -> Tensor:
    """Log probability of the most probable labels of each example, all together: (N,)."""
    return torch.nn.functional.logsigmoid(logits.abs()).sum(1)


def log_probabilities(logits: Tensor) -> Tensor:
    """Of every label, that it holds and that it does not: (2, N, K)."""
    return torch.nn.functional.logsigmoid(torch.stack([logits, -logits]))


def logits_of(log_probabilities: Tensor) -> Tensor:
    """What `log_probabilities` were of, (N, K)."""
    return log_probabilities[0] - log_probabilities[1]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Tensor) -> float | None:
    return values.nanmean().item() if not values.isnan().all() else None
