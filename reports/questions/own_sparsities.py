"""Do sparsities that methods choose themselves generalise? Their decision beside the best one on validation data."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..records.frame import halvings
from ..writing.render import Section, Table, row
from .by_effects import Estimates, Frames, by_effects, listed
from .effects import Effects
from .measures import measured
from .question import Answer, Question

MATRIX = "question-own-sparsities"
METHODS = ("bmr", "variational-dropout", "pip", "pip-laplace")
GRID = (0.5, 0.8, 0.9, 0.95)
HALVING = 1.0  # points of accuracy that a network of half as many weights is worth
MARGIN = 1.0


def _worth(accuracy: pd.Series, sparsity: pd.Series) -> pd.Series:
    """Points of accuracy, and of the halvings of the network; by block and seed."""
    return accuracy + HALVING * pd.Series(halvings(sparsity.to_numpy(float) / 100), sparsity.index)


def _at(frame: pd.DataFrame, method: str, level: float | str, column: str) -> pd.Series:
    return _worth(measured(frame, method, level, column), measured(frame, method, level, "zeros"))


def _chosen(frame: pd.DataFrame, method: str) -> pd.Series:
    """The sparsity of the grid that is worth most on validation data, by block and seed."""
    worth = pd.concat({level: _at(frame, method, level, "validation_accuracy") for level in GRID}, axis=1).dropna()
    return worth.idxmax(axis=1) if len(worth) else pd.Series(dtype=float, index=worth.index)


def _best(frame: pd.DataFrame, method: str) -> pd.Series:
    """What this sparsity is worth on test data."""
    worth = {level: _at(frame, method, level, "accuracy") for level in GRID}
    chosen = _chosen(frame, method)
    found = [float(worth[level][place]) for place, level in zip(chosen.index, chosen, strict=True)]
    return pd.Series(found, chosen.index, dtype=float)


def effects(frames: Frames) -> Effects:
    """What a method's own sparsity is worth, less what the best one on validation data is."""
    frame = frames[MATRIX]
    return {method: _at(frame, method, "auto", "accuracy") - _best(frame, method) for method in METHODS}


def answered(found: Estimates) -> tuple[Answer, Sequence[str]]:
    """By the rule below."""
    good = [name for name, one in found.items() if one.verdict in ("alike", "above")]
    bad = [name for name, one in found.items() if one.verdict == "below"]
    answer: Answer = "it depends"
    if len(good) == len(found):
        answer = "yes"
    elif len(bad) == len(found):
        answer = "no"
    elif not bad or not good:
        answer = "undecided"
    return answer, [f"As good as the choice on validation data: {listed(good)}.", f"Worse: {listed(bad)}."]


def decisions(frames: Frames) -> list[Table]:
    """Which sparsity each method chose in each block, and which validation data did."""
    frame, rows = frames[MATRIX], []
    blocks = list(dict.fromkeys(measured(frame, METHODS[0], "auto").index.get_level_values("block")))
    for method in METHODS:
        own, best = measured(frame, method, "auto", "zeros"), 100 * _chosen(frame, method)
        means = [[part.groupby(level="block").mean().get(block, float("nan")) for part in (own, best)]
                 for block in blocks]  # fmt: skip
        rows.append(row(method, *(f"{a:.0f} / {b:.0f}" for a, b in means)))
    return [Table("decisions", "Sparsity in %: its own / that of validation data", ("method", *blocks),
                  (Section("", tuple(rows)),))]  # fmt: skip


OWN_SPARSITIES = Question(
    name="own-sparsities",
    asks="Do the sparsities that methods choose themselves generalise?",
    disagree=(
        "Model reduction, variational dropout and inclusion probabilities come with thresholds that were shown on "
        "their authors' own tasks; nobody holds them fixed over data and sizes."
    ),
    design=(
        "Each method decides by its default threshold; beside it the same ranking at the sparsity of a grid that is "
        "worth most on validation data. A network is worth its accuracy in points, and "
        f"{HALVING:g} point for each halving of its weights. Without retraining."
    ),
    matrices=(MATRIX,),
    rule=(
        "An effect is the worth on test data of a method's own decision less that of the sparsity chosen on validation "
        f"data, in points; what matters is {MARGIN:g} point.",
        "Yes if all methods are alike or above, no if all are below, it depends if some are below and others alike or "
        "above, else undecided.",
    ),
    written="2026-11-30",
    analysis=by_effects(effects, "points of worth", MARGIN, answered, decisions),
)
