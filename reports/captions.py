"""What is seen in each figure, in words: the band, the number of seeds, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from .curves import has_items
from .frame import at_sparsity, percent, pruned, seed_counts, seeds_text
from .metrics import Metric
from .ranking import Ranking
from .statistics import Comparison
from .tables import capital, p_text

RANKED = "area under the curve of accuracy (gaussian data: RMSE) against sparsity"


def curves(frame: pd.DataFrame, metric: Metric) -> str:
    """Caption of a metric against sparsity."""
    rows = pruned(frame)
    rows = rows[rows[metric.name].notna()]
    parts = [
        f"{metric.label[0].upper()}{metric.label[1:]} on the test split against the share of units pruned "
        f"({metric.direction}); {_band(rows)}, {_n(rows)}.",
        "Equal steps to the right are equal factors of compression.",
        "A star is the sparsity that the method chose itself." if rows["auto"].any() else "",
        "Open markers: at least one layer lost all its units in at least one seed." if _collapsed(rows) else "",
        _missing(frame),
    ]
    return " ".join(filter(None, parts))


def cost(frame: pd.DataFrame, at: float) -> str:
    """Caption of quality against cost."""
    return (
        "Accuracy (gaussian data: RMSE) against the wall-clock seconds of training, scoring and fine-tuning together, "
        f"at {percent(at)} pruned; point: mean over seeds, cross: 95 % bootstrap intervals, "
        f"{_n(at_sparsity(frame, at))}. Training shared by several cells counts in full for each. "
        "Cheap and good is at the upper left (RMSE: lower left)."
    )


def density(frame: pd.DataFrame, at: float) -> str:
    """Caption of the heat maps of layer densities."""
    return (
        f"Share of units kept in each layer (numbers in %) at {percent(at)} pruned, mean over seeds, "
        f"{_n(at_sparsity(frame, at))}; layers in the order of the records. All methods of a panel keep about the same "
        "total; they differ in where."
    )


def calibration(frame: pd.DataFrame, at: float) -> str:
    """Caption of calibration before and after temperature scaling."""
    return (
        f"Expected calibration error on the test split at {percent(at)} pruned, mean over seeds, "
        f"{_n(at_sparsity(frame, at))}; the temperature is fitted on the validation split. Lower is better."
    )


def shift(frame: pd.DataFrame, at: float) -> str:
    """Caption of accuracy under shift."""
    rows = at_sparsity(frame, at)
    kinds = {str(key).partition("/")[0] for value in rows["shift"] if isinstance(value, Mapping) for key in value}
    return (
        f"Accuracy on corrupted test inputs at {percent(at)} pruned, averaged over the kinds of corruption that the "
        f"data set has ({', '.join(sorted(kinds))}); {_band(rows)}, {_n(rows)}. Higher is better."
    )


def ranks(ranking: Ranking) -> str:
    """Caption of average ranks."""
    c = ranking.comparison
    bar = "bar: 95 % bootstrap interval over seeds, " if min(ranking.seeds) > 1 else ""
    apart = (
        f"Methods closer than the critical difference (Nemenyi, 5 %: {c.critical_difference:.2f} ranks) "
        "cannot be told apart."
    )
    parts = [
        f"Average rank (1 is best) of the {RANKED} over {c.blocks} block{'s' * (c.blocks != 1)} of data set × "
        f"architecture; {bar}{seeds_text(ranking.seeds)}, blocks held fixed.",
        apart if math.isfinite(c.critical_difference) else "",
        "" if c.significant else no_difference(c),
        *c.warnings,
    ]
    return " ".join(filter(None, parts))


def no_difference(comparison: Comparison) -> str:
    """That the test finds no difference, in a sentence, or why there is no test."""
    if comparison.blocks < 2:
        return "With a single block no test of the ranks is possible."
    if not math.isfinite(comparison.p_value):
        return "All methods tie in every block."
    test = capital(comparison.test)
    return f"{test} over blocks finds no difference between the methods ({p_text(comparison.p_value)})."


def _n(rows: pd.DataFrame) -> str:
    """The number of seeds behind each point, as text."""
    return f"{seeds_text(seed_counts(rows))} per point"


def _band(rows: pd.DataFrame) -> str:
    """What line and band are; one seed has no band."""
    band = "; band: 95 % bootstrap interval of that mean" if max(seed_counts(rows), default=0) > 1 else ""
    return f"line: mean over seeds{band}"


def _collapsed(rows: pd.DataFrame) -> bool:
    return bool(rows["collapsed"].map(has_items).any())


def _missing(frame: pd.DataFrame) -> str:
    count = int((frame["status"] == "failed").sum())
    verb = "failed cell is" if count == 1 else "failed cells are"
    return f"{count} {verb} missing here; see the list of failures." if count else ""
