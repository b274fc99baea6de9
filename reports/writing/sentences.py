"""What is seen in each figure, in words: the band, the number of seeds, and what is missing."""

from __future__ import annotations

import math

import pandas as pd

from ..records.frame import Records, seed_counts, seeds_text
from ..records.statistics import Comparison
from .numbers import capital, p_text


def no_difference(comparison: Comparison) -> str:
    """That the test finds no difference, in a sentence, or why there is no test."""
    if comparison.blocks < 2:
        return "With a single block no test of the ranks is possible."
    if not math.isfinite(comparison.p_value):
        return "All methods tie in every block."
    test = capital(comparison.test)
    return f"{test} over blocks finds no difference between the methods ({p_text(comparison.p_value)})."


def per_point(rows: pd.DataFrame) -> str:
    """The number of seeds behind each point, as text."""
    return f"{seeds_text(seed_counts(rows))} per point"


def band_text(rows: pd.DataFrame) -> str:
    """What line and band are; one seed has no band."""
    band = "; band: 95 % bootstrap interval of that mean" if max(seed_counts(rows), default=0) > 1 else ""
    return f"line: mean over seeds{band}"


def failed_cells(records: Records) -> str:
    """How many cells are missing because they failed; nothing if none did."""
    count = int((records["status"] == "failed").sum())
    verb = "failed cell is" if count == 1 else "failed cells are"
    return f"{count} {verb} missing here; see the list of failures." if count else ""
