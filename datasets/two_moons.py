"""Two moons: interleaved half circles, a classifier's boundary that can be looked at."""

from __future__ import annotations

import numpy as np
from pydantic import NonNegativeFloat, PositiveInt

from . import register
from .seeds import numpy_stream
from .source import Source


@register("two-moons")
def two_moons(*, n: PositiveInt = 1000, noise: NonNegativeFloat = 0.2) -> Source:
    """Two interleaved half circles, n rows of 2 features, 2 classes (synthetic)."""
    rng = numpy_stream(0, "two-moons")
    y = np.arange(n) % 2
    angle = np.pi * rng.random(n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    x = np.where(y[:, None] == 0, upper, lower) + noise * rng.standard_normal((n, 2))
    # rounded: the last bits of sines and logarithms differ between platforms, the digest must not
    return Source(x=x.round(6), y=y, classes=("upper", "lower"))
