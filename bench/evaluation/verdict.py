"""What an interval of speed-ups says. Never imports torch, so that reports can ask."""

from __future__ import annotations

import math


def verdict(low: float, high: float) -> str:
    """`faster`, `slower`, or `no faster` where the interval holds 1; a dash without an interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return "faster" if low > 1 else "slower" if high < 1 else "no faster"
