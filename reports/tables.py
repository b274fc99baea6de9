"""The tables of a report, in its order: each is a function of the frame of records."""

from __future__ import annotations

import math

import pandas as pd

from . import statistics as st
from .averaged import averaged
from .deployment import structure
from .evidence import evidence
from .frame import Panel, panels, percent, prepare, pruned, reference_sparsity, seeds_text
from .inclusion import selections
from .metrics import LESS_IS_BETTER
from .operating import SECONDS, decisions
from .ranking import BASELINE, Ranking, Standing, rankings
from .recurrent import remains
from .reduction import reductions
from .render import Row, Section, Table, row
from .results_table import AUTO, finite_text, interval_text, results

MAIN = ("bpc", "accuracy", "rmse", "nll", "ece")


def tables(frame: pd.DataFrame) -> list[Table]:
    """Every table that the frame has numbers for, in the order of the report."""
    frame = prepare(frame)
    found = [ranking(one, frame) for one in rankings(frame)]
    found += [decisions(frame)] + [results(frame, name) for name in MAIN]
    found += [averaged(frame), reductions(frame), selections(frame)]
    found += [structure(frame), evidence(frame), remains(frame), cost(frame), failures(frame)]
    return [table for table in found if table.rows]


# ---------------------------------------------------------------- ranking


def ranking(found: Ranking, frame: pd.DataFrame) -> Table:
    """Methods by average rank, with the area under their curve relative to dense, and P(better than magnitude)."""
    suffix = f"-{found.units}" if frame["units"].nunique() > 1 else ""
    title = "Ranking" + (f", units: {found.units}" if suffix else "")
    columns = ("method", "mean rank", "area relative to dense (%)", "IQM (%)", f"P(better than {BASELINE})")
    notes = (
        _ranking_note(found),
        *_test_note(found),
        *filter(None, (found.left_out_text,)),
        *st.few_seeds(min(found.seeds)),
        *found.comparison.warnings,
        *found.notes,
    )
    return Table(f"ranking{suffix}", title, columns, (Section("", tuple(map(_standing, found.standings))),), notes)


def _standing(standing: Standing) -> Row:
    better = interval_text(standing.improvement, 1, 2) if standing.improvement else "–"
    return row(
        standing.label,
        interval_text(standing.rank, 1, 2),
        interval_text(standing.area, 100, 1),
        interval_text(standing.iqm, 100, 1),
        better,
    )


def _ranking_note(found: Ranking) -> str:
    blocks = found.comparison.blocks
    levels = ", ".join(map(percent, found.sparsities))
    brackets = "Brackets: 95 % bootstrap intervals over seeds, the blocks held fixed. " if min(found.seeds) > 1 else ""
    return (
        f"Over {blocks} block{'s' * (blocks != 1)} of data set × architecture, {seeds_text(found.seeds)} in each, "
        f"averaged inside a block; sparsities: {levels}. {brackets}"
        "Area: average over these sparsities, on the scale of log compression, of accuracy / dense accuracy "
        f"({LESS_IS_BETTER}). IQM: interquartile mean of it over all seeds and blocks. "
        f"P: how often the relative area of one seed is larger than that of one seed of {BASELINE}, averaged over "
        "blocks."
    )


def _test_note(found: Ranking) -> list[str]:
    c, notes = found.comparison, []
    if math.isfinite(c.p_value):
        first = min(s.label for s in found.standings)
        wins = f"{first} is better in {c.statistic:.0f} of {c.blocks}"
        what = f"chi-squared {c.statistic:.2f}" if len(c.ranks) > 2 else wins
        notes.append(f"{capital(c.test)} over blocks: {what}, {p_text(c.p_value)}.")
    if math.isfinite(c.critical_difference):
        notes.append(
            f"Nemenyi critical difference (5 %): {c.critical_difference:.2f} ranks; methods closer than that cannot be "
            "told apart."
        )
    return notes


def p_text(p: float) -> str:
    """`p = 0.014`, never `p = 0`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------- cost


def cost(frame: pd.DataFrame) -> Table:
    """What each method cost: seconds, passes, peak memory, and the FLOPs of the masked network."""
    frame = prepare(frame)
    at = reference_sparsity(frame)
    sections = tuple(_cost_section(frame, panel, at) for panel in panels(frame))
    seconds, passes = (
        tuple(f"{part} {unit}" for part in ("train", "score", "fine-tune")) for unit in ("(s)", "passes")
    )
    columns = ("method", *seconds, "total (s)", *passes, "peak memory (MB)", "FLOPs left (%)", "cells")
    where = f" at {percent(at)} pruned" if math.isfinite(at) else ""
    notes = (
        "Means over the done cells of a method; total seconds: mean ± standard deviation. Passes: examples that went "
        "forward and backward, in thousands. Training that several cells share counts in full for each. "
        f"FLOPs left{where} count non-zero weights: a mask alone makes nothing faster.",
    )
    return Table("cost", "Cost", columns, sections, notes)


def _cost_section(frame: pd.DataFrame, panel: Panel, at: float) -> Section:
    rows = panel.rows(pruned(frame))
    return Section(panel.name(frame), tuple(_cost_row(str(label), own, at) for label, own in rows.groupby("label")))


def _cost_row(label: str, rows: pd.DataFrame, at: float) -> Row:
    parts = ("train", "score", "finetune")
    seconds = [_mean(rows[f"seconds_{part}"], 1, 2) for part in parts]
    passes = [_mean(rows[f"passes_{part}"], 1e-3, 1) for part in parts]
    peak = rows[[f"peak_bytes_{part}" for part in parts]].max(axis=1)
    there = rows[rows["target"] == at] if math.isfinite(at) else rows
    flops = _mean(there["flops_nonzero"] / there["flops_dense"], 100, 1)
    return row(
        label, *seconds, finite_text(rows["seconds"], SECONDS), *passes, _mean(peak, 1e-6, 1), flops, str(len(rows))
    )


def _mean(values: pd.Series, scale: float, digits: int) -> str:
    mean = float(values.mean()) if values.notna().any() else math.nan
    return f"{scale * mean:.{digits}f}" if math.isfinite(mean) else "–"


# ---------------------------------------------------------------- failures

_GROUP = ["status", "dataset", "architecture", "units", "method", "reason"]


def failures(frame: pd.DataFrame) -> Table:
    """Failed and skipped cells with their reasons, cells with the same reason in one row."""
    frame = prepare(frame)
    bad = frame[frame["status"] != "done"]
    rows = tuple(_failure(own) for _, own in bad.groupby(_GROUP, sort=True))
    columns = ("status", "data set", "architecture", "units", "method", "share to prune", "seeds", "cells", "reason")
    words = frozenset(columns) - {"cells"}
    return Table(
        "failures", "Failed and skipped cells", columns, (Section("", rows),), (), words, frozenset({"reason"})
    )


def _failure(rows: pd.DataFrame) -> Row:
    status, dataset, architecture, units, method, reason = map(str, rows[_GROUP].iloc[0])
    asked = [percent(level) for level in sorted(set(rows["target"].dropna()))] + [AUTO] * bool(rows["auto"].any())
    seeds = ", ".join(str(seed) for seed in sorted(set(rows["seed"])))
    share = ", ".join(asked) or "–"
    reason = reason or "no reason was recorded"
    return row(status, dataset, architecture, units, method, share, seeds, str(len(rows)), reason)
