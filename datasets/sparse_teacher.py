"""A sparse teacher: the mask that pruning should find is known."""

from __future__ import annotations

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt

from . import register
from .errors import UsageError
from .seeds import numpy_stream
from .source import Source


@register("sparse-teacher")
def sparse_teacher(
    *,
    n: PositiveInt = 1000,
    features: PositiveInt = 20,
    relevant: PositiveInt = 5,
    noise: NonNegativeFloat = 0.1,
) -> Source:
    """A linear teacher that reads only the first `relevant` features, 2 classes (synthetic).

    The class is the sign of wᵀx + noise · ε with x and ε standard normal, w of unit length, wⱼ = ±1/√relevant
    for the first `relevant` features and 0 for all others: those are what a pruner should remove.
    The best accuracy that can be had is 1 − arctan(noise) / π.
    """
    if relevant > features:
        raise UsageError(f"relevant={relevant} of data set 'sparse-teacher' must not exceed features={features}")
    rng = numpy_stream(0, "sparse-teacher")
    x = rng.standard_normal((n, features)).round(6)
    weights = np.where(np.arange(relevant) % 2 == 0, 1.0, -1.0) / np.sqrt(relevant)
    score = x[:, :relevant] @ weights + noise * rng.standard_normal(n)
    return Source(x=x, y=(score > 0).astype(np.int64), classes=("negative", "positive"))
