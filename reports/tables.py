"""The tables of a report, in its order: each is a function of the records."""

from __future__ import annotations

from collections.abc import Sequence

from .records.frame import Records
from .records.ranking import Ranking
from .topics.averaged import averaged
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

MAIN = ("bpc", "accuracy", "average_precision", "rmse", "nll", "ece")


def tables(records: Records, ranked: Sequence[Ranking]) -> list[Table]:
    """Every table that the records has numbers for, in the order of the report."""
    found = [ranking_table(one, records) for one in ranked]
    found += [decisions(records)] + [results(records, name) for name in MAIN]
    found += [averaged(records), reductions(records), selections(records)]
    found += [structure(records), evidence(records), remains(records), cost_table(records), failures(records)]
    return [table for table in found if table.rows]
