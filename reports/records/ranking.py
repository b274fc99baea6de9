"""Which method is better over all data sets and architectures: areas under curves, ranks, and what was left out.

The unit of comparison is the area under a method's curve of accuracy (gaussian data: RMSE; language models: bits per
character) against sparsity, over log2 of the compression, divided by the width of the range: an average over
sparsities that weighs each halving of the network alike. Methods are compared only where all of them have a result;
whatever had to be left out for that is named in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from . import statistics as st
from .frame import Panel, Records, by_seed, dense_by_seed, halvings, labels, panel_metric, panels, percent, pruned
from .metrics import Metric

BASELINE = "magnitude"


@dataclass(frozen=True)
class Block:
    """One panel's complete part: areas, shape (seeds, methods), and the same relative to the dense network.

    Relative areas are 1 where a method is as good as the dense network, less where it is worse.
    """

    panel: Panel
    metric: Metric
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    sparsities: tuple[float, ...]
    areas: np.ndarray
    relative: np.ndarray
    notes: tuple[str, ...]

    def column(self, method: str, relative: bool = False) -> np.ndarray:
        """One method's values, one per seed; not relative: signed so that larger is better."""
        values = self.relative if relative else self.metric.sign * self.areas
        return values[:, self.methods.index(method)]


@dataclass(frozen=True)
class Standing:
    """One method over all common blocks; `improvement` is P(better than the baseline), None without one."""

    label: str
    rank: st.Interval
    area: st.Interval
    iqm: st.Interval
    improvement: st.Interval | None


@dataclass(frozen=True)
class Ranking:
    """All methods with one kind of units, best first.

    `seeds` counts the seeds of each block; `left_out` are the methods without a rank; `notes` say what else had
    to be left out.
    """

    units: str
    standings: tuple[Standing, ...]
    comparison: st.Comparison
    metrics: frozenset[str]
    seeds: tuple[int, ...]
    sparsities: tuple[float, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def left_out_text(self) -> str:
        """The methods without a rank in a sentence; empty if there are none."""
        names = ", ".join(self.left_out)
        return f"Left out of the ranking, for lack of comparable results: {names}." if names else ""


def rankings(records: Records) -> list[Ranking]:
    """One ranking per kind of units that has results."""
    found = (_ranking(records, units) for units in dict.fromkeys(panel.units for panel in panels(records)))
    return [ranking for ranking in found if ranking]


def _ranking(records: Records, units: str) -> Ranking | None:
    there = [panel for panel in panels(records) if panel.units == units]
    blocks = [block for block in (_block(records, panel) for panel in there) if block]
    if not blocks:
        return None
    methods, common = common_part({block.panel: block.methods for block in blocks})
    kept = [block for block in blocks if block.panel in common]
    away = [panel.name(records) for panel in there if panel not in common]
    unmatched = [f"Blocks not compared, because a method has no result there: {', '.join(away)}."] if away else []
    return Ranking(
        units,
        tuple(sorted(_standings(kept, methods), key=lambda s: (s.rank.value, s.label))),
        st.compare(_means(kept, methods)),
        frozenset(block.metric.name for block in kept),
        tuple(len(block.areas) for block in kept),
        tuple(sorted({s for block in kept for s in block.sparsities})),
        tuple(label for label in labels(records[records["units"] == units]) if label not in methods),
        (*unmatched, *(note for block in kept for note in block.notes)),
    )


def _means(blocks: Sequence[Block], methods: Sequence[str]) -> np.ndarray:
    return np.array([[block.column(method).mean() for method in methods] for block in blocks])


def _standings(blocks: Sequence[Block], methods: Sequence[str]) -> list[Standing]:
    cubes = [np.stack([block.column(method) for method in methods], axis=1) for block in blocks]
    ranks = st.mean_rank_intervals(cubes, st.generator())
    known = [block for block in blocks if np.isfinite(block.relative).all()]
    return [_standing(method, rank, known, methods) for method, rank in zip(methods, ranks, strict=True)]


def _standing(method: str, rank: st.Interval, known: Sequence[Block], methods: Sequence[str]) -> Standing:
    """Every interval begins the generator anew: all methods, whoever is shown, meet the same resampled seeds."""
    relative = [block.column(method, relative=True) for block in known]
    improvement = None
    if BASELINE in methods and method != BASELINE:
        other = [block.column(BASELINE, relative=True) for block in known]
        improvement = st.improvement_interval(relative, other, st.generator())
    return Standing(
        method,
        rank,
        st.stratified(st.block_mean, relative, st.generator()),
        st.stratified(st.pooled_iqm, relative, st.generator()),
        improvement,
    )


# ---------------------------------------------------------------- one block


def _block(records: Records, panel: Panel) -> Block | None:
    """A part of a panel in which every method has every seed and every sparsity; None if nothing is there."""
    rows, metric = panel.rows(pruned(records)), panel_metric(records, panel)
    tables = {label: by_seed(rows[rows["label"] == label], metric.name) for label in sorted(set(rows["label"]))}
    tables = {label: table for label, table in tables.items() if np.isfinite(table.to_numpy(float)).any()}
    if not tables:
        return None
    methods = list(tables)
    seeds = sorted({int(seed) for table in tables.values() for seed in table.index})
    levels = sorted({float(level) for table in tables.values() for level in table.columns})
    cube = np.stack([table.reindex(index=seeds, columns=levels).to_numpy(float) for table in tables.values()])
    m, s, t = complete_part(np.isfinite(cube))
    some = ([methods[i] for i in m], [seeds[i] for i in s], [levels[i] for i in t])
    areas = area(cube[np.ix_(m, s, t)], some[2]).T
    relative = _relative(areas, dense_by_seed(records, panel, metric), some[1], metric)
    notes = _block_notes(panel.name(records), (methods, seeds, levels), some, relative)
    return Block(panel, metric, tuple(some[0]), tuple(some[1]), tuple(some[2]), areas, relative, notes)


def complete_part(there: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    """Indices (methods, seeds, sparsities) of a part of the boolean cube `there` with no gap.

    Methods that lack half of their cells or more leave; after that the sparsity or the seed with the largest
    share of gaps leaves, one at a time, so that one failed run costs a sparsity and not its method.
    """
    kept = [list(range(size)) for size in there.shape]
    while not (part := there[np.ix_(*kept)]).all():
        gaps = [1 - part.mean(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
        axis = _leaving_axis(gaps)
        del kept[axis][int(gaps[axis].argmax())]
    return kept[0], kept[1], kept[2]


def _leaving_axis(gaps: Sequence[np.ndarray]) -> int:
    """Which axis loses a slice: 0 methods, 1 seeds, 2 sparsities."""
    spare = [axis for axis in (2, 1) if len(gaps[axis]) > 1]
    lost = len(gaps[0]) > 1 and gaps[0].max() >= 0.5
    return 0 if lost or not spare else max(spare, key=lambda axis: gaps[axis].max())


def area(values: np.ndarray, sparsities: Sequence[float]) -> np.ndarray:
    """Average over the sparsities on the last axis, each halving of the network weighing alike."""
    at = halvings(sparsities)
    whole = values[..., 0] if len(at) == 1 else trapezoid(values, at, axis=-1) / (at[-1] - at[0])
    return np.round(whole, 12)  # equal accuracies must tie, whatever the order of summation


def _relative(areas: np.ndarray, dense: pd.Series, seeds: list[int], metric: Metric) -> np.ndarray:
    reference = dense.reindex(seeds).fillna(dense.mean()).to_numpy(float)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = areas / reference if metric.higher_is_better else reference / areas
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _block_notes(name: str, every: tuple[list, ...], some: tuple[list, ...], relative: np.ndarray) -> tuple[str, ...]:
    """What a block had to leave out, as sentences."""
    gone = [[x for x in whole if x not in part] for whole, part in zip(every, some, strict=True)]
    words = (("methods", str), ("seeds", str), ("sparsities", percent))
    parts = [f"{word} {', '.join(map(show, out))}" for (word, show), out in zip(words, gone, strict=True) if out]
    notes = [f"{name}: left out because of missing results: {'; '.join(parts)}."] if parts else []
    if not np.isfinite(relative).all():
        notes.append(f"{name}: no dense reference, so it counts for the ranks and not for the relative area.")
    return tuple(notes)


# ---------------------------------------------------------------- common blocks


def common_part(have: Mapping[Panel, Sequence[str]]) -> tuple[list[str], list[Panel]]:
    """Methods and panels such that each of these methods has results in each of these panels.

    Methods leave one by one, the one with the fewest panels first; of all the stages passed, the one with
    the most (method, panel) pairs is taken, and of equal ones that with more methods.
    """
    methods = sorted(set().union(*map(set, have.values())))
    stages = []
    while methods:
        shared = [panel for panel, names in have.items() if set(methods) <= set(names)]
        stages.append((methods, shared))
        fewest = min(methods, key=lambda m: (sum(m in names for names in have.values()), m))
        methods = [method for method in methods if method != fewest]
    return max(stages, key=lambda stage: (len(stage[0]) * len(stage[1]), len(stage[0])))
