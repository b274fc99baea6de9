"""Judging entries by records: held, in part, did not hold, not run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from ..leaderboard.student import t_quantile
from .entry import Check, Entry, Quantity, Share

Verdict = Literal["held", "in part", "did not hold", "not run"]
_PLACE = ["dataset", "architecture", "units", "sparsity_target", "seed"]
_NO_VALUES = pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[]] * len(_PLACE), names=_PLACE))


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        values: one for each seed and place; none where nothing has been run.
        mean: over seeds in each place, and then over places (data set, architecture, units), which weigh the same.
        low, high: its 95 % t interval, NaN where no place has two seeds.
        error: its standard error, 0 there.
        seeds: in the place that has most.
        places: how many there are; of those with one seed none counts where others have more.
    """

    check: Check
    verdict: Verdict
    values: tuple[float, ...] = ()
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    error: float = 0.0
    seeds: int = 0
    places: int = 0


@dataclass(frozen=True)
class Judged:
    """An entry, and what became of it. Of one that is only remembered the verdict is shown and decides nothing."""

    entry: Entry
    findings: tuple[Finding, ...]
    command: str

    @property
    def verdict(self) -> Verdict:
        """Held if all rules are; did not hold if none is; not run if no rule could be judged."""
        found: set[Verdict] = {f.verdict for f in self.findings}
        first, *others = found
        return "in part" if others else first

    @property
    def decides(self) -> bool:
        """Whether the verdict counts."""
        return not self.entry.remembered


def judge(entries: Sequence[Entry], frames: Mapping[str, pd.DataFrame], command: str) -> list[Judged]:
    """Judge entries by the records of their matrices; `command` computes the cells, with {} for the entry's id."""
    nothing = pd.DataFrame()
    return [
        Judged(
            entry, tuple(_found(c, frames.get(entry.matrix, nothing)) for c in entry.checks), command.format(entry.id)
        )
        for entry in entries
    ]


def _found(check: Check, frame: pd.DataFrame) -> Finding:
    values = _values(check, frame)
    if not len(values):
        return Finding(check, "not run")
    places = [own.to_numpy() for _, own in values.groupby(level=_PLACE[:3])]
    repeated = [own for own in places if len(own) > 1]
    found = Finding(check, "not run", tuple(values), float(np.mean([own.mean() for own in repeated or places])))
    if repeated:
        error, df = _error(repeated)
        half = t_quantile(df) * error
        found = replace(found, low=found.mean - half, high=found.mean + half, error=error)
    return replace(found, verdict=_verdict(check, found), seeds=max(map(len, places)), places=len(repeated or places))


def _error(places: Sequence[np.ndarray]) -> tuple[float, float]:
    """Standard error of a mean over places of means over seeds, and its degrees of freedom (Satterthwaite)."""
    parts = np.array([own.var(ddof=1) / len(own) for own in places]) / len(places) ** 2
    terms = sum(part**2 / (len(own) - 1) for part, own in zip(parts, places, strict=True))
    return math.sqrt(parts.sum()), float(parts.sum() ** 2 / terms) if terms else float(len(places[0]) - 1)


def _values(check: Check, frame: pd.DataFrame) -> pd.Series:
    """The values of what is checked, by place and seed; empty if a part of it has not been run."""
    first = quantity(check.of, frame)
    other = check.minus or check.over
    if other is None:
        return first
    pair = pd.concat([first, quantity(other, frame)], axis=1, keys=["one", "two"], join="inner")
    combined = pair["one"] - pair["two"] if check.minus else pair["one"] / pair["two"]
    return combined[np.isfinite(combined)]


def quantity(asked: Quantity, frame: pd.DataFrame) -> pd.Series:
    """Values of the finished records that match, by data set, architecture, units, sparsity (0 if several) and seed."""
    if not len(frame):
        return _NO_VALUES
    rows = frame[_matching(asked, frame)]  # at once: each selection copies a hundred columns
    if asked.sparsity is not None:
        rows = rows[_complete(asked.sparsity, rows)]
    keys = rows[_PLACE].assign(sparsity_target=0.0)
    values = pd.Series(_column(asked, rows).to_numpy(float), pd.MultiIndex.from_frame(keys))
    return values[np.isfinite(values)].groupby(level=_PLACE).mean()


def _matching(asked: Quantity, frame: pd.DataFrame) -> pd.Series:
    """Which records are meant, but for their sparsity."""
    there = frame["status"] == "done"
    for column in ("method", "dataset", "architecture"):
        if (wanted := getattr(asked, column)) is not None:
            there = _named(wanted, frame[column], there)
    for column, wanted in (("units", asked.units), ("epochs_finetune", asked.retraining)):
        if wanted is not None:
            there &= frame[column] == wanted
    return there


def _named(wanted: str, labels: pd.Series, there: pd.Series) -> pd.Series:
    """Records of this label; where there is none, those of this name, whatever their options."""
    exact = there & (labels == wanted)
    return exact if exact.any() else there & (labels.str.partition("(")[0] == wanted)


def _complete(asked: Share | list[Share], rows: pd.DataFrame) -> pd.Series:
    """Records at the sparsities asked for; a seed and place that lacks one of them is left out."""
    wanted = {-1.0 if s == "auto" else round(float(s), 9) for s in (asked if isinstance(asked, list) else [asked])}
    level = rows["sparsity_target"].astype(float).round(9).mask(rows["sparsity_auto"].astype(bool), -1.0)
    level = level.where(level.isin(wanted))
    places = [rows[place] for place in ("dataset", "architecture", "units", "method", "seed")]
    return level.notna() & (level.groupby(places).transform("nunique") == len(wanted))


def _column(asked: Quantity, rows: pd.DataFrame) -> pd.Series:
    name = asked.column
    if asked.layer is not None:
        place = asked.layer
        return rows["layer_density"].map(lambda density: _zeros_in(density, place))
    if name in ("error", "dense_error"):
        return 100 * (1 - rows[name.replace("error", "accuracy")])
    if name in ("accuracy", "dense_accuracy"):
        return 100 * rows[name]
    if name == "zeros":
        return 100 * rows["sparsity"]
    if name == "masked":
        return 100 * rows["parameters_masked"] / rows["parameters"]
    return pd.to_numeric(rows[name], errors="coerce") if name in rows else pd.Series(math.nan, rows.index)


def _zeros_in(density: object, place: int) -> float:
    shares = list(density.values()) if isinstance(density, Mapping) else []
    return 100 * (1 - shares[place]) if place < len(shares) else math.nan


def _verdict(check: Check, found: Finding) -> Verdict:
    if check.near is not None:
        return "held" if abs(found.mean - check.near) <= max(2 * found.error, check.within) + 1e-9 else "did not hold"
    least = -math.inf if check.at_least is None else check.at_least
    most = math.inf if check.at_most is None else check.at_most
    if check.by == "mean":
        return "held" if least <= found.mean <= most else "did not hold"
    if check.by == "every":
        kept = sum(least <= value <= most for value in found.values)
        return "held" if kept == len(found.values) else "in part" if kept else "did not hold"
    if math.isnan(found.low):  # one seed has no interval: it cannot decide
        return "in part" if least <= found.mean <= most else "did not hold"
    if least <= found.low and found.high <= most:
        return "held"
    return "did not hold" if found.high < least or found.low > most else "in part"
