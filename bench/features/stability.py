"""Whether selections of features from several trainings agree."""

from __future__ import annotations

import math

import numpy as np


def stability(selections: np.ndarray) -> float:
    """Agreement of selections, corrected for chance: 1 is perfect, 0 that of random sets of these sizes.

    Nogueira, Sechidis, Brown, "On the stability of feature selection algorithms", JMLR 18 (2018), equation 4. NaN of a
    single selection, and where all select nothing, or everything.

    Args:
        selections: what each of them selects, boolean (selections, features).
    """
    count, frequency = len(selections), np.mean(selections, axis=0, dtype=float)
    share = frequency.mean()
    if count < 2 or share in (0.0, 1.0):
        return math.nan
    variance = np.mean(frequency * (1 - frequency)) * count / (count - 1)
    return float(1 - variance / (share * (1 - share)))
