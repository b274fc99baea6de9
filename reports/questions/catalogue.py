"""The questions, in the order in which they are listed."""

from __future__ import annotations

from ...datasets.errors import unknown
from .calibration import CALIBRATION
from .criterion_or_ratios import CRITERION_OR_RATIOS
from .decay import DECAY_OR_EVIDENCE
from .equal_cost import EQUAL_COST
from .own_sparsities import OWN_SPARSITIES
from .posterior_scores import POSTERIOR_SCORES
from .question import Question
from .real_differences import REAL_DIFFERENCES
from .sparsifiability import SPARSIFIABILITY

QUESTIONS = {
    question.name: question
    for question in (
        CRITERION_OR_RATIOS,
        DECAY_OR_EVIDENCE,
        CALIBRATION,
        POSTERIOR_SCORES,
        EQUAL_COST,
        REAL_DIFFERENCES,
        OWN_SPARSITIES,
        SPARSIFIABILITY,
    )
}


def named(name: str) -> Question:
    """The question of this name; raises UsageError if there is none."""
    if name not in QUESTIONS:
        raise unknown("question", name, QUESTIONS)
    return QUESTIONS[name]
