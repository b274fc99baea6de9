"""Does the evidence of a network say how well it prunes? Ranks of fits by evidence and by what pruning costs them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from .by_effects import Estimates, Frames, by_effects, by_parts
from .effects import Effects
from .measures import measured
from .question import Answer, Question

MATRICES = ("question-evidence-short", "question-evidence-long")
PRECISIONS = (0.1, 1.0, 10.0, 100.0)
CRITERIA = ("magnitude", "opd-kfac")
SPARSITY = 0.8
MARGIN = 20.0  # hundredths of ρ
NOTHING = 1e-6  # beyond a third column that ranks as one of the two does there is nothing to correlate
FIT = ["block", "seed"]

Ranking = Callable[[pd.DataFrame], float]
"""A rank correlation over the fits of one block and seed."""


def fits(frames: Frames) -> pd.DataFrame:
    """A row for each fit: what it is, its evidence and validation loss, its accuracy, and what pruning leaves of it.

    Columns: `block` (data set and depth), `seed`, `evidence`, `validation` (minus the loss), `precision` (of the
    prior), `dense`, and of each criterion `kept`: accuracy after pruning less that before, in points, and `pruned`.
    """
    parts = [_fits(frames[matrix], precision) for matrix in MATRICES for precision in PRECISIONS]
    return pd.concat(parts).dropna()


def _fits(frame: pd.DataFrame, precision: float) -> pd.DataFrame:
    labels = {criterion: _label(criterion, precision) for criterion in CRITERIA}
    dense = {column: measured(frame, labels["opd-kfac"], 0.0, column)
             for column in ("laplace_evidence", "accuracy", "dense_validation_nll")}  # fmt: skip
    found = {"evidence": dense["laplace_evidence"], "dense": dense["accuracy"],
             "validation": -dense["dense_validation_nll"]}  # fmt: skip
    for criterion, label in labels.items():
        found[f"pruned {criterion}"] = measured(frame, label, SPARSITY)
        found[f"kept {criterion}"] = found[f"pruned {criterion}"] - found["dense"]
    own = pd.DataFrame(found).reset_index()
    return own.assign(precision=precision, block=own["block"].map(_family))


def _label(criterion: str, precision: float) -> str:
    return criterion if precision == 1 else f"{criterion}(precision={precision:g})"


def _family(block: str) -> str:
    """`digits · 2 hidden layers` of `digits · mlp(widths=(40,40))`: widths are among what varies within a block."""
    dataset, _, architecture = block.partition(" · ")
    return f"{dataset} · {architecture.count(',') + 1} hidden layers"


def rho(x: str, y: str) -> Ranking:
    """Spearman's ρ of two columns, in hundredths; NaN where one of them does not vary."""

    def ranked(own: pd.DataFrame) -> float:
        varies = own[x].nunique() > 1 and own[y].nunique() > 1
        return 100 * float(own[x].corr(own[y], method="spearman")) if varies else math.nan

    return ranked


def partial_rho(x: str, y: str, given: str) -> Ranking:
    """Spearman's ρ of two columns given a third: the partial correlation of ranks, in hundredths.

    Kendall's partial τ would not do: it is above zero where both columns follow the third and nothing else.
    """

    def ranked(own: pd.DataFrame) -> float:
        xy, xz, yz = (rho(*pair)(own) / 100 for pair in ((x, y), (x, given), (y, given)))
        left = math.sqrt(max((1 - xz**2) * (1 - yz**2), 0.0))
        return 100 * (xy - xz * yz) / left if left > NOTHING else math.nan

    return ranked


def _ranked(frames: Frames, rankings: Mapping[str, Ranking]) -> dict[str, pd.Series]:
    groups = [(place, own) for place, own in fits(frames).groupby(FIT) if len(own) > 2]
    index = pd.MultiIndex.from_tuples([place for place, _ in groups], names=FIT)
    return {name: pd.Series([ranking(own) for _, own in groups], index, dtype=float)
            for name, ranking in rankings.items()}  # fmt: skip


def effects(frames: Frames) -> Effects:
    """ρ of evidence and kept accuracy, and what is left of it given the validation loss."""
    return _ranked(frames, {
        **{f"{c}: evidence": rho("evidence", f"kept {c}") for c in CRITERIA},
        **{f"{c}: evidence given validation": partial_rho("evidence", f"kept {c}", "validation") for c in CRITERIA},
    })  # fmt: skip


def beside(frames: Frames) -> Effects:
    """What else could say it, and what else the evidence says."""
    return _ranked(frames, {
        **{f"{c}: validation": rho("validation", f"kept {c}") for c in CRITERIA},
        **{f"{c}: prior precision": rho("precision", f"kept {c}") for c in CRITERIA},
        **{f"{c}: evidence, accuracy after pruning": rho("evidence", f"pruned {c}") for c in CRITERIA},
        "evidence, dense accuracy": rho("evidence", "dense"),
        "evidence, validation": rho("evidence", "validation"),
    })  # fmt: skip


def answered(found: Estimates) -> tuple[Answer, Sequence[str]]:
    """By the rule below."""
    suffixes = {"by itself": "evidence", "beyond the validation loss": "evidence given validation"}
    return by_parts(found, {part: [f"{c}: {suffix}" for c in CRITERIA] for part, suffix in suffixes.items()})


SPARSIFIABILITY = Question(
    name="evidence",
    asks="Does the evidence of a network say how well it prunes?",
    disagree=(
        "Dhahri et al. (2024, arXiv 2402.15978) train by the marginal likelihood because networks of more evidence "
        "prune better; Lotfi et al. (2022, arXiv 2202.11678) show that it may rank networks the wrong way round."
    ),
    design=(
        f"In each block (a data set, a depth) and under each seed 16 MAP networks: prior precisions "
        f"{', '.join(f'{p:g}' for p in PRECISIONS)}, two widths, 10 and 40 epochs. The evidence is that of the Laplace "
        f"approximation with Kronecker factors; what pruning leaves is accuracy at {100 * SPARSITY:g} % less accuracy "
        "before, without retraining."
    ),
    matrices=MATRICES,
    rule=(
        "An effect is Spearman's rank correlation over the 16 networks of a block and seed, in hundredths, between "
        "evidence and accuracy kept, by itself and partial, given the loss on validation data; what matters is "
        f"{MARGIN:g} hundredths. Seeds of a block where no network loses anything do not count.",
        "For each of both: yes if the effects of both criteria are above, no if both are alike or below, undecided if "
        "one is undecided, else it depends.",
        "The answer is that of both if they agree, else it depends.",
    ),
    remarks=(
        "The correlation is that of the sparse teacher, where the evidence prefers strong priors, as most inputs are "
        "irrelevant; on digits, breast cancer and two moons it hardly does, and its correlation is small or negative.",
        "The prior precision alone says more than the evidence does.",
    ),
    written="2026-11-30",
    analysis=by_effects(effects, "hundredths of ρ", MARGIN, answered, beside=beside),
)
