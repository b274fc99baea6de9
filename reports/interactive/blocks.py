"""What ranks and tests of any entrants, blocks and seeds are computed from, without a digit lost.

Ranks need the metric of each (method, seed, sparsity): the cube of a panel. Tests compare entrants example by example;
of the examples themselves nothing is needed but means and the sums of products of every two (seed, entrant) pairs,
from which the variance of each paired difference follows, within seeds and across them. These sums of a block take half
of `seeds × entrants` squared numbers, whatever the number of test examples.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...bench.results.scores import Scores
from ..records.blocks import Part, block_of, complete_parts
from ..records.frame import Panel, Records, by_seed, dense_by_seed, halvings, panel_metric, panels, pruned

LARGEST = 8 << 20  # bytes of sums of products

Json = dict[str, Any]


def cubes(records: Records) -> list[Json]:
    """One entry for each panel: the primary metric of each (method, seed, sparsity), and that of the dense network."""
    return [found for panel in panels(records) if (found := _cube(records, panel))]


def _cube(records: Records, panel: Panel) -> Json | None:
    rows, metric = panel.rows(pruned(records)), panel_metric(records, panel)
    tables = {label: by_seed(own, metric.name) for label, own in rows.groupby("label")}
    tables = {str(label): table for label, table in tables.items() if np.isfinite(table.to_numpy(float)).any()}
    if not tables:
        return None
    seeds = sorted({int(seed) for table in tables.values() for seed in table.index})
    levels = sorted({float(level) for table in tables.values() for level in table.columns})
    values = [table.reindex(index=seeds, columns=levels).to_numpy(float) for table in tables.values()]
    dense = dense_by_seed(records, panel, metric).reindex(seeds)
    return _place(panel) | {
        "metric": metric.name, "methods": list(tables), "seeds": seeds, "sparsities": levels,
        "halvings": packed(halvings(levels)), "values": packed(np.stack(values)), "dense": packed(dense),
    }  # fmt: skip


def sums(records: Records, scores: Mapping[str, Scores], largest: int = LARGEST) -> list[Json]:
    """One entry for each panel whose networks have scores of examples: means, halves and sums of products.

    Where every entrant has every seed and sparsity, one column stands for each entrant, its average over sparsities.
    Where there are gaps, whoever leaves may give others a sparsity back: there is a column for each sparsity then, as
    long as all sums take no more than `largest` bytes; beyond, the sparsities that all entrants have, or nothing.
    """
    parts = [part for part in complete_parts(records, scores) if _is_paired(part, scores)]
    whole = {part.panel: _whole(part) for part in parts}
    room, kept = largest, dict[Panel, Part]()
    for candidate in sorted(parts, key=_size):
        if _size(candidate) <= room:
            kept[candidate.panel] = candidate
            room -= _size(candidate)
    for part in sorted(kept.values(), key=lambda part: _size(whole[part.panel])):
        more = _size(whole[part.panel]) - _size(part)
        if more <= room:
            kept[part.panel] = whole[part.panel]
            room -= more
    return [_sums(records, kept[part.panel], scores) for part in parts if part.panel in kept]


def _whole(part: Part) -> Part:
    """The panel with its gaps: all entrants, seeds and sparsities that any result has."""
    names, seeds, levels = (sorted({key[axis] for key in part.keys}) for axis in range(3))
    return Part(part.panel, tuple(map(str, names)), tuple(map(int, seeds)), tuple(map(float, levels)), part.keys)


def _has_gaps(part: Part) -> bool:
    return len(part.keys) < len(part.entrants) * len(part.seeds) * len(part.sparsities)


def _columns(part: Part) -> int:
    """How many columns stand for an entrant."""
    return len(part.sparsities) if _has_gaps(part) else 1


def _size(part: Part) -> int:
    return 4 * (len(part.seeds) * len(part.entrants) * _columns(part)) ** 2


def _is_paired(part: Part, scores: Mapping[str, Scores]) -> bool:
    """Whether the results of a seed are all of the same test examples; if data changed in between they are not."""
    seeds = {seed for _, seed, _ in part.keys}
    return len({(seed, scores[key].test) for (_, seed, _), key in part.keys.items()}) == len(seeds)


def _sums(records: Records, part: Part, scores: Mapping[str, Scores]) -> Json:
    tests = [next(scores[key].test for (_, s, _), key in part.keys.items() if s == seed) for seed in part.seeds]
    names = list(dict.fromkeys(tests))
    found = _by_sparsity(part, scores) if _has_gaps(part) else block_of(records, part, part.entrants, scores).scores
    halves = [[_means(own[:, half::2]) for half in (0, 1)] for own in found]
    return _place(part.panel) | {
        "entrants": list(part.entrants), "seeds": list(part.seeds), "sparsities": list(part.sparsities),
        "halvings": packed(halvings(part.sparsities)), "columns": _columns(part),
        "tests": [names.index(test) for test in tests], "examples": [own.shape[1] for own in found],
        "means": packed(np.array([_means(own) for own in found])), "halves": packed(np.array(halves)),
        "products": packed(products(found, tests)),
    }  # fmt: skip


def _by_sparsity(part: Part, scores: Mapping[str, Scores]) -> list[np.ndarray]:
    """For each seed the scores of every (entrant, sparsity), NaN where there is no result."""
    found = []
    for seed in part.seeds:
        own = [part.keys.get((name, seed, level)) for name in part.entrants for level in part.sparsities]
        examples = next(len(scores[key].values) for key in own if key)
        rows = [scores[key].values.astype(float) if key else np.full(examples, np.nan) for key in own]
        found.append(np.stack(rows))
    return found


def _means(rows: np.ndarray) -> np.ndarray:
    return rows.mean(axis=1)


def products(rows: Sequence[np.ndarray], tests: Sequence[str]) -> np.ndarray:
    """Sums over examples of centred products: for each two seeds s <= t with one test set a (columns, columns) array.

    Row by row, in the order (0, 0), (0, 1), ..., (1, 1), ...; of a seed with itself the upper triangle alone.
    """
    centred = [np.nan_to_num(own - own.mean(axis=1, keepdims=True)) for own in rows]
    upper = np.triu_indices(len(rows[0]))
    found = [
        (centred[s] @ centred[t].T)[upper] if s == t else (centred[s] @ centred[t].T).ravel()
        for s in range(len(tests)) for t in range(s, len(tests)) if tests[s] == tests[t]
    ]  # fmt: skip
    return np.concatenate(found)


def _place(panel: Panel) -> Json:
    return {"dataset": panel.dataset, "architecture": panel.architecture, "units": panel.units}


def packed(values: Iterable[float] | np.ndarray) -> str:
    """Float64, little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, "<f8").tobytes()).decode("ascii")
