"""Do Bayesian criteria pay at equal cost? Magnitude spends on retraining what they spend on curvature and evidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..writing.render import Section, Table, row
from .by_effects import Estimates, Frames, by_effects, listed
from .effects import Effects
from .measures import measured
from .question import Answer, Question

MATRIX = "question-cost"
SPARSITY = 0.9
MARGIN = 1.0
BASELINE = "magnitude"
METHODS = ("opd(kind=rademacher)", "bmr-laplace(kind=rademacher)", "spam-opd(preset=authors)", "obs")
PHASES = ("passes_train", "passes_score", "passes_finetune")
BUDGETS = {"no retraining": 0, "T/4": 3, "T": 12}
CURVE = (0, 3, 12, 48)


def _cost(frames: Frames, method: str, epochs: int) -> pd.Series:
    """Passes of all phases, by block and seed."""
    first, *others = (measured(frames[MATRIX], method, SPARSITY, phase, epochs) for phase in PHASES)
    return sum(others, first)


def _accuracy(frames: Frames, method: str, epochs: int) -> pd.Series:
    return measured(frames[MATRIX], method, SPARSITY, retraining=epochs)


def at_cost(costs: pd.DataFrame, values: pd.DataFrame, wanted: pd.Series) -> pd.Series:
    """Values of a curve at the costs wanted, linear in the log of the cost; beyond its ends, those of its ends."""
    rows = wanted.index.intersection(costs.dropna().index).intersection(values.dropna().index)
    found = [
        float(np.interp(np.log(wanted[place]), np.log(costs.loc[place].to_numpy(float)), values.loc[place]))
        for place in rows
    ]
    return pd.Series(found, rows, dtype=float)


def effects(frames: Frames) -> Effects:
    """Accuracy of each method at each budget over that of magnitude after as many passes."""
    costs, values = (pd.concat({n: of(frames, BASELINE, n) for n in CURVE}, axis=1) for of in (_cost, _accuracy))
    return {
        f"{method}, {budget}": _accuracy(frames, method, n) - at_cost(costs, values, _cost(frames, method, n))
        for method in METHODS
        for budget, n in BUDGETS.items()
    }


def answered(found: Estimates) -> tuple[Answer, Sequence[str]]:
    """By the rule below."""
    above = {b: [m for m in METHODS if found[f"{m}, {b}"].verdict == "above"] for b in BUDGETS}
    answer: Answer = "it depends"
    if all(above.values()):
        answer = "yes"
    elif not any(above.values()):
        answer = "undecided" if any(one.verdict == "undecided" for one in found.values()) else "no"
    return answer, [f"Ahead of magnitude at equal cost, {budget}: {listed(names)}." for budget, names in above.items()]


def costs(frames: Frames) -> list[Table]:
    """Passes over those of magnitude without retraining."""
    least = _cost(frames, BASELINE, 0)
    rows = tuple(
        row(m, *(f"{float((_cost(frames, m, n) / least).mean()):.2f}" for n in BUDGETS.values()))
        for m in (BASELINE, *METHODS)
    )
    columns = ("method", *BUDGETS)
    return [Table("passes", "Passes, magnitude without retraining = 1", columns, (Section("", rows),))]


EQUAL_COST = Question(
    name="equal-cost",
    asks="Do Bayesian criteria pay at equal cost?",
    disagree=(
        "Papers compare at equal sparsity; Gale et al. (2019), Blalock et al. (2020, arXiv 2003.03033) and Zimmer et "
        "al. (2021, arXiv 2111.00843) ask what the same compute would have given plain magnitude pruning."
    ),
    design=(
        "Criteria on curvature and evidence without retraining, retrained for a quarter of the training, and for as "
        "long; each beside magnitude pruning that was retrained until it had cost as many passes through the network "
        "(training, scoring, retraining), read off its curve of accuracy against log passes on the same network and "
        "seed; 90 % sparsity."
    ),
    matrices=(MATRIX,),
    rule=(
        f"An effect is accuracy of a method at a budget less that of magnitude at the same number of passes, in "
        f"points; what matters is {MARGIN:g} point.",
        "Yes if at every budget a method is above; no if none is at any, and none undecided; undecided if none is "
        "above and one is undecided; else it depends, and the budgets at which methods are above say where it turns.",
    ),
    written="2026-11-30",
    analysis=by_effects(effects, "points of accuracy", MARGIN, answered, costs),
)
