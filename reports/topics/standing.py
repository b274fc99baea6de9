"""Standings on a leaderboard: places with bounds, groups, split halves, and what would tell neighbours apart."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from ..leaderboard.profiles import profile
from ..leaderboard.standings import Leaderboard, Standing, leaderboard
from ..records.blocks import Field, field
from ..records.budgets import budgets, of_budget
from ..records.frame import percent, prepare, span
from ..reference.results import Reference
from ..writing.render import Cell, Row, Section, Table, row

NEAR = (0.01, 0.05)


def reference_standing(part: Reference, name: str, title: str) -> Table | None:
    """Who stands where in the rows of one matrix, at the budget of its headline; None of fewer than two methods."""
    if len({row["method"] for row in part.rows if row["status"] == "done"}) < 2:
        return None
    records = prepare(part.frame())
    budget = budgets(records)[0]
    found = field(of_budget(records, budget), part.scores, records["units"].iloc[0])
    if found is None or len(found.blocks[0].entrants) < 2:
        return None
    epochs = f"{budget.training} + {budget.retraining} epochs"
    return standing_table(leaderboard(found.blocks), found, name, f"{title}, {epochs}")


def standing_table(board: Leaderboard, field: Field, name: str, title: str, own: Collection[str] = ()) -> Table:
    """Entrants by place; `own` ones stand in bold."""
    near = dict(zip(board.blocks[0].entrants, profile(board.blocks, np.array(NEAR)), strict=True))
    above = [None, *board.entrants[:-1]]
    rows = tuple(
        _row(board, s, other, near[s.entrant], s.entrant in own)
        for s, other in zip(board.standings, above, strict=True)
    )
    columns = (
        "method", "place", "may be", "group", "score (%)", "behind the first (points)", "mean rank",
        *(f"within {100 * n:.0f} of the best (% of blocks)" for n in NEAR), "moves between halves",
        "seeds, blocks to tell it from the one above",
    )  # fmt: skip
    return Table(name, title, columns, (Section("", rows),), _notes(board, field))


def _row(board: Leaderboard, s: Standing, above: str | None, near: np.ndarray, own: bool) -> Row:
    needs = board.needed(s.entrant, above) if above else None
    seeds, blocks = (needs.seeds, needs.blocks) if needs else (None, None)
    texts = (
        f"{s.place:g}",
        f"{s.best}–{s.worst}" if s.best < s.worst else f"{s.best}",
        _group(board, s),
        f"{100 * s.score:.1f}",
        _behind(s),
        f"{s.mean_rank:.1f}",
        *(f"{100 * share:.0f}" for share in near),
        f"{s.moved:.1f}",
        f"{_count(seeds)}, {_count(blocks)}" if above else "–",
    )
    return row(Cell(s.entrant, bold=own), *(Cell(text, bold=own) for text in texts))


def _group(board: Leaderboard, s: Standing) -> str:
    """The letters; where there are more than the alphabet has, from how many others the entrant is not told apart."""
    if not any(character.isdigit() for one in board.standings for character in one.group):
        return s.group
    alike = sum(not board.separates(s.entrant, other) for other in board.entrants if other != s.entrant)
    return f"like {alike}"


def _behind(s: Standing) -> str:
    value, low, high = (100 * end for end in s.lead)
    if s.best == s.worst == 1 or value == 0:
        return "–"
    return f"{-value:.1f} [{-high:.1f}, {-low:.1f}]" if math.isfinite(low) else f"{-value:.1f}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}" if number < 10_000 else "> 10,000"


def _notes(board: Leaderboard, field: Field) -> tuple[str, ...]:
    count, seeds = len(field.blocks), [len(s) for s in field.seeds]
    levels = ", ".join(percent(s) for s in sorted({s for levels in field.sparsities for s in levels}))
    left = f"Left out, for lack of comparable results: {', '.join(field.left_out)}." if field.left_out else ""
    one = "With one seed in a block nothing can be told apart: networks differ more than their test examples say."
    return tuple(filter(None, (
        f"Over {count} block{'s' * (count != 1)} ({'; '.join(b.name for b in field.blocks)}), {span(seeds)} seeds in "
        f"each, sparsities {levels}. Score: area under the curve of accuracy (of real targets: the share of their "
        "variance that is explained) against sparsity, on the scale of log compression, averaged over seeds and then "
        "over blocks, which all weigh the same.",
        "Methods that share a letter are not told apart (where letters do not suffice: from how many others), and "
        "'may be' holds all places at once with 95 %: paired t tests over seeds on the same test examples, never "
        "narrower than these examples allow, Holm's procedure over all pairs. Brackets: 95 % intervals of the gap "
        "to the first, one by one. The blocks are held fixed.",
        f"Moves between halves: by how many places, where two halves share neither network nor test example; Kendall's "
        f"tau of the two orders is {board.halves.agreement:.2f} on average over {board.halves.splits} splits.",
        "Seeds in each of these blocks, and blocks like these, that would tell a method from the one above (5 %, power "
        "80 %), were their difference what it seems to be.",
        one if min(seeds) < 2 else "",
        left, *field.notes,
    )))  # fmt: skip
