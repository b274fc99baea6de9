"""The tables of a report, in its order: each is a function of the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .records.budgets import Budget
from .records.division import Part
from .records.frame import Records
from .records.metrics import PRIMARY
from .records.ranking import Ranking, rankings
from .topics.averaged import averaged
from .topics.budgets import sensitivities, sensitivity_table, undertrained_table
from .topics.cost import cost_table
from .topics.evidence import evidence
from .topics.failures import failures
from .topics.inclusion import selections
from .topics.operating import decisions
from .topics.ranks import ranking_table
from .topics.recurrent import remains
from .topics.reduction import reductions
from .topics.results import results
from .topics.savings import structure
from .writing.render import Table

MAIN = (
    "bpc",
    "accuracy",
    "average_precision",
    "rmse",
    "nll",
    "ece",
    "risk_bound",
    "bits_per_weight",
    "bits_compression",
    "bits_accuracy",
)


def tables_of(records: Records, parts: Sequence[Part], ranked: Sequence[Ranking]) -> list[Table]:
    """Every table of a report: those of the headline's budget, then what stands apart from it, each under its own.

    Results of different budgets are in no table together but that of the curve.
    """
    first, *others = parts
    found = [_under(first.budget, table) for table in tables(first.records, ranked) if table.name != "failures"]
    found += [undertrained_table(first.undertrained), sensitivity_table(sensitivities(records))]
    for part in others:
        own = [ranking_table(one, part.records) for one in rankings(part.ranked)]
        own += [results(part.records, name) for name in PRIMARY]
        found += [_elsewhere(part.budget, table) for table in own]
    return [table for table in (*found, failures(records)) if table.rows]


def _under(budget: Budget, table: Table) -> Table:
    """A table that names its budget, where the records say it."""
    return replace(table, notes=(budget.note, *table.notes)) if budget.note else table


def _elsewhere(budget: Budget, table: Table) -> Table:
    name = f"{table.name}-{budget.training}-{budget.retraining}" + ("" if budget.protocol else "-no-protocol")
    return replace(_under(budget, table), name=name, title=f"{table.title}: {budget.text}")


def tables(records: Records, ranked: Sequence[Ranking]) -> list[Table]:
    """Every table that the records has numbers for, in the order of the report."""
    found = [ranking_table(one, records) for one in ranked]
    found += [decisions(records)] + [results(records, name) for name in MAIN]
    found += [averaged(records), reductions(records), selections(records)]
    found += [structure(records), evidence(records), remains(records), cost_table(records), failures(records)]
    return [table for table in found if table.rows]
