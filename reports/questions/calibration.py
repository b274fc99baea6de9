"""Does pruning harm calibration? With and without retraining and temperature, of short and of long training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from .by_effects import Estimates, Frames, by_effects
from .effects import Effects
from .measures import measured
from .question import Answer, Question

TRAININGS = {"short": "question-calibration-short", "long": "question-calibration-long"}
RETRAINED = {"not retrained": "", "retrained": "-retrained"}
COLUMNS = {"as it is": "ece", "temperature": "ece_scaled"}
SPARSITIES = (0.5, 0.8)
MARGIN = 1.0
METHOD = "magnitude(precision=0.01)"
CONDITIONS = {
    f"{training}, {again}, {scaled}": (TRAININGS[training] + RETRAINED[again], COLUMNS[scaled])
    for training, again, scaled in itertools.product(TRAININGS, RETRAINED, COLUMNS)
}


def effects(frames: Frames) -> Effects:
    """Calibration error of the pruned network less that of the whole one, trained for as long, under each condition."""
    return {
        name: measured(frames[matrix], METHOD, SPARSITIES, column) - measured(frames[matrix], METHOD, 0.0, column)
        for name, (matrix, column) in CONDITIONS.items()
    }


def beside(frames: Frames) -> Effects:
    """What each condition changes of the effect, on average over the others."""
    own, found = effects(frames), {}
    for place, (first, second) in enumerate(map(tuple, (TRAININGS, RETRAINED, COLUMNS))):
        pairs = [name.split(", ") for name in CONDITIONS if name.split(", ")[place] == first]
        gaps = [own[", ".join([*n[:place], second, *n[place + 1 :]])] - own[", ".join(n)] for n in pairs]
        found[f"{second} instead of {first}"] = sum(gaps[1:], gaps[0]) / len(gaps)
    return found


def answered(found: Estimates) -> tuple[Answer, Sequence[str]]:
    """By the rule below."""
    by_verdict = {
        verdict: [name for name, one in found.items() if one.verdict == verdict]
        for verdict in ("above", "below", "alike", "undecided")
    }
    harms, rest = by_verdict["above"], by_verdict["below"] + by_verdict["alike"]
    answer: Answer = "undecided"
    if len(harms) == len(found):
        answer = "yes"
    elif len(rest) == len(found):
        answer = "no"
    elif harms and rest:
        answer = "it depends"
    words = {"above": "Harmed", "below": "Helped", "alike": "Neither", "undecided": "Undecided"}
    return answer, [f"{words[verdict]}: {'; '.join(names)}." for verdict, names in by_verdict.items() if names]


CALIBRATION = Question(
    name="calibration",
    asks="Does pruning harm calibration?",
    disagree=(
        "Pruning is reported to improve calibration (arXiv 2405.20876) and to harm it (a study in TMLR); training, "
        "retraining and temperature differ between them."
    ),
    design=(
        "The expected calibration error (15 bins) of magnitude pruning, averaged over two sparsities, less that of the "
        "whole network trained for as many epochs: eight conditions, of short or long training (little weight decay, "
        "so that long training is overconfident) × retrained for as long as trained or not × as it is or with a "
        "temperature fitted on the validation split."
    ),
    matrices=tuple(training + again for training in TRAININGS.values() for again in RETRAINED.values()),
    rule=(
        f"An effect is the calibration error of the pruned network less that of the whole one, in points (per cent); "
        f"what matters is {MARGIN:g} point. Above: harmed; below: helped; alike: neither.",
        "Yes if all eight conditions are harmed; no if none is, and none undecided; it depends if at least one is "
        "harmed and at least one is not; else undecided.",
        "What a condition changes is shown beside, and decides nothing.",
    ),
    written="2026-11-30",
    analysis=by_effects(effects, "points of calibration error", MARGIN, answered, beside=beside),
    remarks=(
        "What turns the sign is retraining: it changes the effect more than a temperature or the length of training "
        "does (beside). After long training a retrained network is surely a little better calibrated than the whole "
        "one trained for as long, by less than the margin, hence undecided.",
    ),
)
