"""The mark "undertrained": methods that the budget was too short for, which stand apart from a ranking.

Whose own unpruned network is more than two points of accuracy below that of MAP training in a block, or whose own
decision could not yet be made: noise that had no time to grow, gates that had no time to close, a warm-up not over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from .frame import MAP, Records, percent, pruned

MARGIN = 0.02
MARK = " †"
_BLOCK = ["dataset", "architecture"]


@dataclass(frozen=True)
class Undertrained:
    """A method with one kind of units, and why, in one of its blocks."""

    label: str
    units: str
    place: str
    reason: str


def undertrained(records: Records) -> list[Undertrained]:
    """All methods that the budget was too short for, with the reason in each block."""
    rows = pruned(records)
    return sorted(
        {*_below_map(rows), *_undecided(rows)}, key=lambda found: (found.label, found.units, found.place, found.reason)
    )


def _below_map(rows: pd.DataFrame) -> Iterator[Undertrained]:
    judged = rows[rows["dense_accuracy"].notna() & rows["bpc"].isna()]  # language models are judged by their bits
    for key, block in judged.groupby(_BLOCK):
        own = block[block["inference"].str.startswith(MAP)]
        if not len(own):
            continue
        reference = _over_seeds(own)
        for (label, units), method in block.groupby(["label", "units"]):
            if (gap := reference - _over_seeds(method)) > MARGIN:
                reason = f"its unpruned network is {100 * gap:.1f} points below that of MAP training"
                yield Undertrained(str(label), str(units), " · ".join(map(str, key)), reason)


def _over_seeds(rows: pd.DataFrame) -> float:
    return float(rows.groupby("seed")["dense_accuracy"].mean().mean())


def _undecided(rows: pd.DataFrame) -> Iterator[Undertrained]:
    """The reason that inferences gave themselves, with what their own decision removed."""
    for key, cells in rows[rows["unfinished"] != ""].groupby([*_BLOCK, "label", "units"]):
        dataset, architecture, label, units = map(str, key)
        chosen = cells[cells["auto"]]["sparsity"]
        removed = f"; its own decision removed {percent(round(chosen.mean(), 3))}" if len(chosen) else ""
        yield Undertrained(label, units, f"{dataset} · {architecture}", f"{cells['unfinished'].iloc[0]}{removed}")


def marked(records: Records, found: list[Undertrained]) -> Records:
    """Records whose labels carry the mark."""
    pairs = {(one.label, one.units) for one in found}
    marks = [MARK * ((label, units) in pairs) for label, units in zip(records["label"], records["units"], strict=True)]
    return Records(records.assign(label=records["label"] + pd.Series(marks, records.index, dtype=object)))


def ranked(records: Records) -> Records:
    """Those that may be ranked: all without the mark."""
    return Records(records[~records["label"].str.endswith(MARK)].reset_index(drop=True))
