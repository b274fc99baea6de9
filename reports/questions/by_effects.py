"""Analyses by effects: estimates, their verdicts, a table, a table by block, and a picture of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from ..records.frame import span
from ..writing.numbers import capital, p_text
from ..writing.render import Section, Table, row
from .effects import Effects, Estimate, estimated
from .forest import caption, forest
from .question import Answer, Evidence, Finding

Frames = Mapping[str, pd.DataFrame]
Estimates = Mapping[str, Estimate]


def by_effects(
    effects: Callable[[Frames], Effects], unit: str, margin: float,
    answered: Callable[[Estimates], tuple[Answer, Sequence[str]]],
    tables: Callable[[Frames], Iterable[Table]] = lambda frames: (),
    beside: Callable[[Frames], Effects] = lambda frames: {},
) -> Callable[[Evidence], Finding]:  # fmt: skip
    """The analysis of a question that effects decide.

    Args:
        effects: from frames by matrix; they are one family.
        unit: theirs, such as "points of accuracy".
        margin: what a difference must have to matter, in that unit.
        answered: an answer and sentences from the estimates, which all have been run.
        tables: more tables.
        beside: effects that are shown and decide nothing; a family of their own.
    """

    def analysis(evidence: Evidence) -> Finding:
        found, more = estimated(effects(evidence.frames), margin), estimated(beside(evidence.frames), margin)
        missing = [name for name, one in found.items() if one.verdict == "not run"]
        if missing:
            return Finding("not run", (f"Not run yet, or of fewer than two seeds: {', '.join(missing)}.",))
        answer, says = answered(found)
        every = [_table(found, unit, margin), _by_block(found, unit)]
        if more:
            every.insert(1, _table(more, unit, margin, "beside", "Beside these, deciding nothing"))
        figure = forest(list(found.values()), unit, margin)
        text = caption(list(found.values()), unit, margin)
        return Finding(answer, tuple(says), (*every, *tables(evidence.frames)), figure, text, _doubts(found))

    return analysis


def _table(found: Estimates, unit: str, margin: float, name: str = "effects", title: str = "What decides") -> Table:
    rows = tuple(
        row(one.name, interval_text(one), p_text(one.p), f"{_positive(one)} of {len(one.blocks)}", one.verdict)
        for one in found.values()
    )
    columns = ("effect", f"{unit} [95 %]", "p (Holm)", "blocks above zero", "verdict")
    notes = (
        f"Alike: the whole interval lies within ±{margin:g}. Above, below: adjusted p ≤ 0.05 and at least {margin:g} "
        "away from zero. Blocks weigh the same and are held fixed; t intervals over seeds, not adjusted.",
    )
    return Table(name, title, columns, (Section("", rows),), notes)


def _by_block(found: Estimates, unit: str) -> Table:
    blocks = list(dict.fromkeys(name for one in found.values() for name, _ in one.blocks))
    rows = tuple(
        row(one.name, *(number(dict(one.blocks).get(block, math.nan)) for block in blocks)) for one in found.values()
    )
    return Table("by-block", f"By block, {unit}", ("effect", *blocks), (Section("", rows),))


def _positive(one: Estimate) -> int:
    return sum(value > 0 for _, value in one.blocks)


def _doubts(found: Estimates) -> tuple[str, ...]:
    blocks = [len(one.blocks) for one in found.values()]
    seeds = [one.seeds for one in found.values()]
    return (
        f"Each effect rests on {span(blocks)} blocks of at least {min(seeds)} seeds. Blocks are small networks on "
        "small data, and held fixed: intervals say what more seeds of these blocks would give, not what other networks "
        "would.",
    )


def by_parts(found: Estimates, parts: Mapping[str, Iterable[str]]) -> tuple[Answer, list[str]]:
    """The answer that all parts of a question have, else it depends; and a sentence for each, of the named effects."""
    answers: dict[str, Answer] = {part: agreed(found, names) for part, names in parts.items()}
    says = [f"{capital(part)}: {answer}." for part, answer in answers.items()]
    first, *others = answers.values()
    answer: Answer = first if all(other == first for other in others) else "it depends"
    return answer, says


def agreed(found: Estimates, names: Iterable[str]) -> Answer:
    """Yes if all of these effects are above; no if all are alike or below; undecided if one is; else it depends."""
    verdicts = [found[name].verdict for name in names]
    if all(verdict == "above" for verdict in verdicts):
        return "yes"
    if all(verdict in ("alike", "below") for verdict in verdicts):
        return "no"
    return "undecided" if "undecided" in verdicts else "it depends"


def interval_text(one: Estimate) -> str:
    """`+1.2 [+0.4, +2.0]`."""
    return f"{number(one.value)} [{number(one.low)}, {number(one.high)}]"


def number(value: float) -> str:
    """`+1.2`, `−0.3`; a dash where there is none."""
    return f"{value:+.1f}".replace("-", "−") if math.isfinite(value) else "–"


def listed(names: Iterable[str]) -> str:
    """`a, b and c`; `none` of nothing."""
    *most, last = [*names] or ["none"]
    return f"{', '.join(most)} and {last}" if most else last
