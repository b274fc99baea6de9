"""Cells whose options are tuned: every candidate is trained and pruned, and validation data choose among them.

By accuracy on the validation split after pruning (by root mean squared error for real targets), then by negative log
likelihood, then the first. The cost of all of them is that of the cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...methods.tuning import grids
from ..evaluation.evaluate import validated
from ..pruning.engine import Outcome
from .workbench import Workbench


@dataclass(frozen=True)
class Tuned:
    """What was chosen: the workbench it was made on, the outcome, and what there is to say of it in the record."""

    bench: Workbench
    outcome: Outcome
    report: dict[str, Any] | None


def pruned(bench: Workbench, sparsity: float | None) -> Tuned:
    """The outcome of a cell, and where options are tuned that of the candidate which validation data prefer.

    A candidate whose training diverges is not chosen; raises DivergedError where all of them do.
    """
    if len(bench.candidates) == 1:
        return Tuned(bench, bench.prune(sparsity), None)
    best: Tuned | None = None
    tried: list[dict[str, Any]] = []
    costs: list[Outcome] = []
    diverged: ArithmeticError | None = None
    for candidate in bench.candidates:
        values = {name: candidate.run.method.options[name] for name in grids(bench.run.method.options)}
        try:
            outcome = candidate.prune(sparsity)
            found = validated(outcome.network, bench.data)
        except ArithmeticError as error:
            diverged = error
            tried.append({"options": values})
            continue
        tried.append({"options": values, **found})
        if best is None or _worth(found) > _worth(best.report or {}):
            best = Tuned(candidate, outcome, tried[-1])
        costs.append(outcome)
    if best is None:
        raise diverged or AssertionError("a grid has candidates")
    _add_costs(best.outcome, [other for other in costs if other is not best.outcome])
    return Tuned(best.bench, best.outcome, {"chosen": (best.report or {})["options"], "tried": tried})


def _worth(found: dict[str, Any]) -> tuple[float, float]:
    quality = found["validation_accuracy"] if "validation_accuracy" in found else -found["validation_rmse"]
    return quality, -found["validation_nll"]


def _add_costs(outcome: Outcome, others: list[Outcome]) -> None:
    for phase in ("train", "score", "finetune", "adjust"):
        setattr(outcome, phase, sum((getattr(other, phase) for other in others), getattr(outcome, phase)))
