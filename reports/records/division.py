"""What a report may compare: the records of one budget, and who may be ranked among them; the rest stands apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .budgets import Budget, budgets, of_budget
from .frame import Records
from .undertrained import Undertrained, marked, ranked, undertrained


@dataclass(frozen=True)
class Part:
    """The records of one budget, methods that it was too short for carrying their mark, and the reasons."""

    budget: Budget
    records: Records
    undertrained: Sequence[Undertrained]

    @property
    def ranked(self) -> Records:
        """Those that may be ranked."""
        return ranked(self.records)


def divided(records: Records) -> list[Part]:
    """A part for each budget, that of the headline first; one without a budget where there are no records."""
    return [_part(records, budget) for budget in budgets(records)] or [Part(Budget(-1, -1), records, ())]


def _part(records: Records, budget: Budget) -> Part:
    own = of_budget(records, budget)
    found = undertrained(own)
    return Part(budget, marked(own, found), found)
