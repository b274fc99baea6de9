"""Numbers in words: means, intervals, probabilities."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ..records import statistics as st
from ..records.metrics import Metric


def mean_text(values: np.ndarray, metric: Metric) -> str:
    """`97.2 ± 0.4`; without the deviation for a single seed."""
    spread = f" ± {metric.number(float(values.std(ddof=1)))}" if len(values) > 1 else ""
    return metric.number(float(values.mean())) + spread


def interval_text(interval: st.Interval, scale: float, digits: int) -> str:
    """`2.1 [1.8, 2.4]`; without brackets where there is no interval."""
    if not math.isfinite(interval.value):
        return "–"
    value, low, high = (_signed(scale * end, digits) for end in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]" if math.isfinite(interval.low) else value


def _signed(value: float, digits: int) -> str:
    """Never `-0.0`: what rounds to zero has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def finite_text(values: pd.Series | np.ndarray, metric: Metric) -> str:
    """`mean_text` of the finite values; an en dash where there are none."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    return mean_text(finite, metric) if len(finite) else "–"


def p_text(p: float) -> str:
    """`p = 0.014`, never `p = 0`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
