"""The ledger as a table: what was published, ours beside it, the difference of protocol, the verdict, the command."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from ..writing.render import Row, Section, Table, row
from .entry import Check, Quantity
from .judge import Finding, Judged

COLUMNS = (
    "claim", "published", "ours", "verdict", "rule, and when it was written", "difference of protocol", "source",
    "command",
)  # fmt: skip


def ledger_table(judged: Sequence[Judged], name: str = "ledger", title: str = "Published claims") -> Table:
    """Every entry, paper by paper."""
    papers = dict.fromkeys(j.entry.paper for j in judged)
    sections = tuple(Section(_heading(p, judged), tuple(_row(j) for j in judged if j.entry.paper == p)) for p in papers)
    return Table(
        name, title, COLUMNS, sections, (counts(judged), *_NOTES), wrapped=frozenset(COLUMNS[:1] + COLUMNS[2:])
    )


def counts(judged: Iterable[Judged]) -> str:
    """How many entries of how many papers came out how, as a sentence."""
    listed = list(judged)
    decided = Counter(j.verdict for j in listed if j.decides)
    parts = [f"{decided[v]} {w}" for v, w in _WORDS.items()]
    remembered = sum(not j.decides for j in listed)
    more = f"; {remembered} only remembered, which decides nothing" if remembered else ""
    return f"{len(listed)} entries of {len({j.entry.paper for j in listed})} papers: {', '.join(parts)}{more}."


_WORDS = {"held": "held", "in part": "held in part", "did not hold": "did not hold", "not run": "not run yet"}
_NOTES = (
    "Ours: the mean over seeds with its 95 % t interval, and how many there are on how many networks. Held in part: "
    "some rules of an entry are kept, or the interval holds the bound. A verdict is about the networks and budgets of "
    "the cells named, not about the published ones.",
)


def _heading(paper: str, judged: Sequence[Judged]) -> str:
    numbers = {j.entry.arxiv for j in judged if j.entry.paper == paper} - {None}
    return f"{paper}{f' (arXiv {min(map(str, numbers))})' if numbers else ''}"


def _row(judged: Judged) -> Row:
    entry = judged.entry
    verdict = judged.verdict if judged.decides else f"remembered, decides nothing ({judged.verdict})"
    return row(
        f"{entry.says} [{entry.id}]",
        entry.published,
        "; ".join(map(finding_text, judged.findings)),
        verdict,
        "; ".join(f"{rule_text(c)} ({entry.written})" for c in entry.checks),
        " ".join(filter(None, (entry.differs, entry.note))) or "–",
        f"{entry.source}{' [from memory]' if entry.remembered else ''}",
        judged.command,
    )


def finding_text(found: Finding) -> str:
    """`1.58 [1.50, 1.66], n = 3 on 1 network`; a dash where nothing has been run."""
    if not found.values:
        return "–"
    interval = f" [{_number(found.low)}, {_number(found.high)}]" if math.isfinite(found.low) else ""
    networks = f"{found.places} network{'s' * (found.places != 1)}"
    return f"{_number(found.mean)}{interval}, n = {found.seeds} on {networks}"


def _number(value: float) -> str:
    return f"{round(value, 9) + 0.0:.4g}"


def rule_text(check: Check) -> str:
    """A rule in words."""
    what = _quantity(check.of)
    if other := check.minus or check.over:
        what = f"{what} {'minus' if check.minus else 'over'} {_quantity(other)}"
    if check.near is not None:
        return f"{what}: {check.near:g} within max(2 s.e., {check.within:g})"
    bounds = [f">= {check.at_least:g}"] if check.at_least is not None else []
    bounds += [f"<= {check.at_most:g}"] if check.at_most is not None else []
    how = {"mean": "", "every": " under every seed", "interval": " by the 95 % interval"}[check.by]
    return f"{what} {' and '.join(bounds)}{how}"


def _quantity(asked: Quantity) -> str:
    levels = asked.sparsity if isinstance(asked.sparsity, list) else [asked.sparsity]
    at = (
        ", ".join("auto" if s == "auto" else f"{100 * s:g} %" for s in levels if s is not None and s != "")
        if levels
        else ""
    )
    parts = [asked.method, at, asked.dataset, asked.architecture, asked.units]
    parts += [f"layer {asked.layer}"] if asked.layer is not None else []
    parts += [f"{asked.retraining} epochs of retraining"] if asked.retraining is not None else []
    return f"{asked.column} of {', '.join(filter(None, parts))}"
