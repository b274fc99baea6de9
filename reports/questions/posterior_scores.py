"""In variational networks: magnitude, spread or signal to noise? Three scores on the same posteriors."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .by_effects import Estimates, Frames, by_effects, by_parts
from .effects import Effects
from .measures import measured
from .question import Answer, Question

MATRIX = "question-posterior-scores"
SPARSITY = 0.8
MARGIN = 1.0
BOTH = {
    "mean field": "mean-field(prior=scalar)",
    "IVON": "ivon-opd",
    "variational dropout": "variational-dropout",
}
MEAN = {
    "mean field": "mean-field(by=mean, prior=scalar)",
    "IVON": "ivon-opd(by=mean)",
    "variational dropout": "variational-dropout(by=mean)",
}
PRECISION = {name: label.replace("by=mean", "by=precision") for name, label in MEAN.items()}


def effects(frames: Frames) -> Effects:
    """Accuracy under signal to noise over that under the mean alone, and under the precision alone."""
    rivals = {"magnitude": MEAN, "precision": PRECISION}
    return {
        f"{name}: SNR over {rival}": _gap(frames, BOTH[name], labels[name])
        for rival, labels in rivals.items()
        for name in BOTH
    }


def beside(frames: Frames) -> Effects:
    """Accuracy under signal to noise, and under the mean, over that of magnitude after MAP training."""
    return {
        f"{name}: {score} over MAP's magnitude": _gap(frames, labels[name], "magnitude")
        for score, labels in (("SNR", BOTH), ("mean", MEAN))
        for name in labels
    }


def _gap(frames: Frames, one: str, other: str) -> pd.Series:
    first, second = (measured(frames[MATRIX], label, SPARSITY) for label in (one, other))
    return first - second


def answered(found: Estimates) -> tuple[Answer, Sequence[str]]:
    """By the rule below."""
    return by_parts(found, {f"SNR over {rival}": [f"{name}: SNR over {rival}" for name in BOTH]
                            for rival in ("magnitude", "precision")})  # fmt: skip


POSTERIOR_SCORES = Question(
    name="posterior-scores",
    asks="Is signal to noise the score for variational networks?",
    disagree=(
        "Graves (2011) and Blundell et al. (2015) prune by signal to noise |μ|/σ; later work prefers the magnitude |μ| "
        "(arXiv 2602.18825), or a signal to noise of |θ| (arXiv 2402.11025)."
    ),
    design=(
        "Mean field under one Gaussian prior, IVON and variational dropout, each network trained once and pruned by "
        "|μ|, by 1/σ², and by |μ|/σ, by which model reduction ranks, too. Without retraining."
    ),
    matrices=(MATRIX,),
    rule=(
        f"An effect is accuracy under signal to noise less that under |μ| alone, or under 1/σ² alone, on the same "
        f"networks, in points; what matters is {MARGIN:g} point.",
        "For each rival: yes if signal to noise is above it under all three inferences, no if it is alike or below "
        "under all, undecided if one is undecided, else it depends.",
        "The answer is that for both rivals if they agree, else it depends.",
    ),
    written="2026-11-30",
    analysis=by_effects(effects, "points of accuracy", MARGIN, answered, beside=beside),
)
