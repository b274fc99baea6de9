"""Blocks for the leaderboard: a panel's records with the scores of their test examples.

An entrant's score on an example is the average over sparsities, each halving of the network weighing alike, of the
scores of its networks there: its mean over examples is the area under the curve of accuracy against sparsity, by which
methods are ranked everywhere else too. Only networks retrained for equally long meet in a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...bench.results.scores import Scores
from ..leaderboard.paired import Block
from .frame import Panel, Records, panels, percent, pruned
from .ranking import area, common_part, complete_part


@dataclass(frozen=True)
class Field:
    """Who meets whom.

    Attributes:
        blocks: with the same entrants in each.
        sparsities: that count, in each block.
        seeds: of each block.
        left_out: entrants without comparable results.
        notes: sentences that say what else had to be left out.
    """

    blocks: tuple[Block, ...]
    sparsities: tuple[tuple[float, ...], ...]
    seeds: tuple[tuple[int, ...], ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The complete part of a panel: every entrant under every seed at every sparsity, and the keys of the records."""

    panel: Panel
    entrants: tuple[str, ...]
    seeds: tuple[int, ...]
    sparsities: tuple[float, ...]
    keys: Mapping[tuple[str, int, float], str]


def field(
    records: Records, scores: Mapping[str, Scores], units: str, must: Sequence[str] = (), others: Sequence[str] = ()
) -> Field | None:
    """The blocks of one kind of units; None if there is no result.

    Args:
        records: of one budget.
        scores: by key of the record.
        units: what leaves.
        must: entrants that stay whatever it costs the others; blocks that they lack are left out.
        others: entrants to compare them with; all, if none is named.
    """
    rows = _scored(records, scores)
    if others:
        rows = rows[rows["label"].isin([*must, *others])]
    there = [panel for panel in panels(records) if panel.units == units]
    parts = [part for part in (_part(panel, panel.rows(rows), must) for panel in there) if part]
    parts = [part for part in parts if len(part.seeds) > 1] or parts  # one seed would spoil the tests of all
    if not parts:
        return None
    entrants, common = common_part({part.panel: part.entrants for part in parts})
    kept = [part for part in parts if part.panel in common]
    blocks = [block_of(records, part, entrants, scores) for part in kept]
    every = sorted({label for panel in there for label in panel.rows(rows)["label"]})
    away = [p.name(records) for p in there if p not in {part.panel for part in kept}]
    notes = [f"Blocks not compared, for lack of common results or of a second seed: {', '.join(away)}."] if away else []
    return Field(
        tuple(blocks),
        tuple(part.sparsities for part in kept),
        tuple(part.seeds for part in kept),
        tuple(label for label in every if label not in entrants),
        (*notes, *_note(records, kept, rows)),
    )


def complete_parts(records: Records, scores: Mapping[str, Scores]) -> list[Part]:
    """The complete part of each panel that has one, before entrants of several panels meet."""
    rows = _scored(records, scores)
    return [part for panel in panels(records) if (part := _part(panel, panel.rows(rows), ()))]


def _scored(records: Records, scores: Mapping[str, Scores]) -> pd.DataFrame:
    """Pruned networks at a target sparsity, those with scores."""
    rows = pruned(records)
    return rows[rows["key"].isin(list(scores)) & rows["target"].notna()]


def _part(panel: Panel, rows: pd.DataFrame, must: Sequence[str]) -> Part | None:
    """Entrants, seeds and sparsities of a panel without a gap, among those that all of `must` have."""
    if not len(rows) or not set(must) <= set(rows["label"]):
        return None
    keys = {
        (str(label), int(seed), float(target)): str(key)
        for label, seed, target, key in rows[["label", "seed", "target", "key"]].itertuples(index=False, name=None)
    }
    names, seeds, levels = sorted({k[0] for k in keys}), sorted({k[1] for k in keys}), sorted({k[2] for k in keys})
    seeds = [s for s in seeds if all(any(k[:2] == (name, s) for k in keys) for name in must)]
    levels = [t for t in levels if all((name, s, t) in keys for name in must for s in seeds)]
    if not seeds or not levels:
        return None
    m, s, t = complete_part(np.array([[[(n, x, y) in keys for y in levels] for x in seeds] for n in names]))
    return Part(panel, tuple(names[i] for i in m), tuple(seeds[i] for i in s), tuple(levels[i] for i in t), keys)


def block_of(records: Records, part: Part, entrants: Sequence[str], scores: Mapping[str, Scores]) -> Block:
    """The scores of some entrants of a part; raises ValueError where results of one seed have other test examples."""
    weights = area(np.eye(len(part.sparsities)), part.sparsities)
    arrays, tests = [], set[str]()
    for seed in part.seeds:
        found = [[scores[part.keys[name, seed, level]] for level in part.sparsities] for name in entrants]
        tests |= (own := {s.test for row in found for s in row})
        if len(own) > 1:
            raise ValueError(f"{part.panel}: under seed {seed} not all results are of the same test examples")
        arrays.append(np.stack([sum(w * s.values for w, s in zip(weights, row, strict=True)) for row in found]))
    return Block(part.panel.name(records), tuple(entrants), tuple(arrays), len(tests) == 1)


def _note(records: Records, parts: Sequence[Part], rows: pd.DataFrame) -> list[str]:
    """What blocks had to leave out of seeds and sparsities."""
    found = []
    for part in parts:
        own = part.panel.rows(rows)
        seeds = sorted(set(own["seed"]) - set(part.seeds))
        levels = sorted(set(own["target"]) - set(part.sparsities))
        gone = [f"seeds {', '.join(map(str, seeds))}"] * bool(seeds)
        gone += [f"sparsities {', '.join(map(percent, levels))}"] * bool(levels)
        if gone:
            found.append(f"{part.panel.name(records)}: left out, as not every entrant has them: {'; '.join(gone)}.")
    return found
