"""The page of the reproduction ledger: published claims beside the reference results."""

from __future__ import annotations

from bayesprune.reports.ledger.judge import judge
from bayesprune.reports.ledger.page import ledger_table
from bayesprune.reports.ledger.records import frames, shipped_entries
from bayesprune.reports.reference.results import shipped

from .markdown import table

WORDS = """# Reproduction ledger

What papers claim, beside what the reference results say, by rules that were written before the runs; an entry whose
rule was corrected afterwards says so. The command `bayesprune ledger` makes the same table, also with results of your
own; that of a line computes what decides it.
"""


def page() -> str:
    """The page."""
    entries = shipped_entries()
    judged = judge(entries, frames(entries, shipped(), []), "bayesprune ledger --run {}")
    return f"{WORDS}\n{table(ledger_table(judged))}\n"
