"""The area under the ROC curve of scores that tell two kinds of things apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def auroc(positive: Tensor, negative: Tensor) -> float:
    """Chance that one of the `positive` scores, (n,), is larger than one of the `negative`, (m,); ties count half.

    NaN if a score is, or if there is nothing to tell apart.
    """
    pairs = len(positive) * len(negative)
    if not pairs or positive.isnan().any() or negative.isnan().any():
        return math.nan
    ordered = negative.sort().values
    below, not_above = (torch.searchsorted(ordered, positive.contiguous(), right=right) for right in (False, True))
    return int((below + not_above).sum()) / (2 * pairs)
