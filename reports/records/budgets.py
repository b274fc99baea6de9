"""Budgets: how long networks were trained and retrained, by which the order of methods may turn.

Results of different budgets never stand in one ranking or table; see docs/protocol.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .frame import Records, done


@dataclass(frozen=True, order=True)
class Budget:
    """Epochs of training and of retraining (-1 where records do not say), and the protocol they follow, if any."""

    training: int
    retraining: int
    protocol: str = ""

    @property
    def is_known(self) -> bool:
        """Whether the records say it."""
        return self.training >= 0 and self.retraining >= 0

    @property
    def share(self) -> float:
        """R / T; NaN for networks whose weights were given."""
        return self.retraining / self.training if self.training > 0 else math.nan

    @property
    def text(self) -> str:
        """`30 epochs of training and 30 of retraining`."""
        s = "s" * (self.training != 1)
        return f"{self.training} epoch{s} of training and {self.retraining} of retraining"

    @property
    def note(self) -> str:
        """What stands under whatever ranks or compares; empty where the records do not say the budget."""
        return f"Budget: {self.text}, {self.protocol or 'no protocol'}." if self.is_known else ""

    @property
    def sentence(self) -> str:
        """The first sentence of a page; empty where the records do not say the budget."""
        if not self.is_known:
            return ""
        if self.protocol:
            return (
                f"Protocol {self.protocol}: {self.text} for every method, the rate falling by a cosine that begins "
                "again after pruning. Methods that prune at initialisation train their mask in both phases; beside "
                "each result stand the epochs with its final mask. Other budgets may order methods otherwise."
            )
        return f"No protocol: {self.text}. Other budgets may order methods otherwise."


def budgets(records: Records) -> list[Budget]:
    """All budgets with results, that of the headline first: R = T, or else the one with the most results."""
    rows = done(records) if len(done(records)) else records
    columns = (rows["epochs_train"].fillna(-1), rows["epochs_finetune"].fillna(-1), rows["protocol"])
    counts: dict[Budget, int] = {}
    for t, r, protocol in zip(*columns, strict=True):
        budget = Budget(int(t), int(r), protocol)
        counts[budget] = counts.get(budget, 0) + 1
    found = sorted(counts)
    if found:
        first = max(found, key=lambda b: (b.is_known and b.training == b.retraining, counts[b], b))
        found.sort(key=lambda b: b != first)
    return found


def of_budget(records: Records, budget: Budget) -> Records:
    """The records of one budget."""
    same = (records["epochs_train"].fillna(-1) == budget.training) & (
        records["epochs_finetune"].fillna(-1) == budget.retraining
    )
    return Records(records[same & (records["protocol"] == budget.protocol)].reset_index(drop=True))
