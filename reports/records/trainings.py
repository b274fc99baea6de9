"""Trainings as reports read them: which prior each learned, by which evidence, one row per fitted network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from .frame import MAP, Records, done, number, pruned

FIT = ["dataset", "architecture", "inference", "seed"]
"""The columns that tell fits apart; criteria, sparsities and units share them."""

SEARCH = frozenset({"prior", "frequency", "burn_in", "steps", "lr", "update_rule"})
"""Arguments of an inference that decide where the evidence is raised to, not what the evidence is."""


def trainings(rows: pd.DataFrame) -> pd.DataFrame:
    """The finished rows that were pruned after training, with what their training learned.

    Added: `prior` and `curvature` of the evidence (empty where none was used), its `log_evidence` in nats,
    `effective` and `parameters` (counts); `training`, a name that tells the trainings of the rows apart
    ("MAP", "parameterwise", "parameterwise, kron"; empty for any other inference); and `evidence`, equal for
    trainings whose evidences are approximated alike and may be compared. Expects a prepared rows.
    """
    rows = done(rows)
    rows = rows[rows["when"].isin(("after", ""))]
    rows = rows.assign(learned=rows["learned"].map(_of_evidence))
    found = pd.DataFrame([_summary(value) for value in rows["learned"]], rows.index, _SUMMARY)
    rows = rows.assign(**{name: found[name] for name in _SUMMARY})
    names = _names(rows[rows["learned"].notna()])
    other = [(MAP if text.startswith(MAP) else "", "") for text in rows["inference"]]
    both = [names.get(key, rest) for key, rest in zip(_keys(rows), other, strict=True)]
    return rows.assign(training=[name for name, _ in both], evidence=[group for _, group in both])


def fits(records: Records) -> pd.DataFrame:
    """One row per fit that has an evidence, with the columns of `trainings`; `units` is empty, since fits have none."""
    rows = trainings(records)
    rows = rows[rows["learned"].notna()].sort_values(["training", "seed", "key"])
    return rows.drop_duplicates(FIT).assign(units="")


def _of_evidence(learned: object) -> object:
    """What a training by the evidence learned; other inferences learn something else."""
    return learned if isinstance(learned, Mapping) and "log_evidence" in learned else None


_SUMMARY = ["prior", "curvature", "log_evidence", "effective", "parameters"]


def _summary(learned: object) -> tuple[str, str, float, float, float]:
    value: Mapping = learned if isinstance(learned, Mapping) else {}
    numbers = (number(value.get(name)) for name in ("log_evidence", "effective_parameters", "parameters"))
    evidence, effective, parameters = numbers
    return str(value.get("prior") or ""), str(value.get("curvature") or ""), evidence, effective, parameters


def trace(learned: Mapping) -> np.ndarray:
    """Epoch, log evidence and effective parameters, shape (steps, 3), NaN where a value is missing."""
    steps = [step for step in learned.get("trace") or () if isinstance(step, Sequence) and len(step) == 3]
    return np.array([[number(value) for value in step] for step in steps], dtype=float).reshape(-1, 3)


# ---------------------------------------------------------------- names

Key = tuple[str, str, str]


def _keys(rows: pd.DataFrame) -> list[Key]:
    return list(zip(rows["inference"], rows["prior"], rows["curvature"], strict=True))


def _names(rows: pd.DataFrame) -> dict[Key, tuple[str, str]]:
    """(name, evidence) of each training: the prior and the curvature, then only what differs between trainings."""
    keys = sorted(set(_keys(rows)))
    options = {inference: _arguments(inference) for inference, _, _ in keys}
    several = len({curvature for _, _, curvature in keys}) > 1
    differing = _differing(options.values())
    found = {}
    for inference, prior, curvature in keys:
        said = [f"{name}={options[inference].get(name, 'none')}" for name in differing]
        decisive = [text for name, text in zip(differing, said, strict=True) if name not in SEARCH]
        found[inference, prior, curvature] = (
            ", ".join([prior or "learned", *([curvature] if several else []), *said]),
            ", ".join([curvature, *decisive]),
        )
    return found


def call(text: str) -> tuple[str, dict[str, str]]:
    """`SpaM(prior=scalar, lr=0.1)` as "SpaM" and {"prior": "scalar", "lr": "0.1"}."""
    name, _, rest = text.partition("(")
    parts = re.split(r", (?=\w+=)", rest.removesuffix(")")) if rest else []
    return name, {key: value for key, _, value in (part.partition("=") for part in parts)}


def _arguments(inference: str) -> dict[str, str]:
    name, arguments = call(inference)
    return {"inference": name, **arguments}


def _differing(options: Iterable[Mapping[str, str]]) -> list[str]:
    """Arguments of which several values occur; the name of the training states prior and curvature anyway."""
    options = list(options)
    every = dict.fromkeys(name for arguments in options for name in arguments if name not in ("prior", "curvature"))
    return [name for name in every if len({arguments.get(name) for arguments in options}) > 1]


def fit_counts(records: Records) -> list[int]:
    """How many seeds stand behind each training by the evidence."""
    return list(fits(records).groupby(["dataset", "architecture", "training"])["seed"].nunique())


def most_fits(records: Records) -> int:
    """The most seeds behind one training by the evidence; 0 without any."""
    return max(fit_counts(records), default=0)


FEWEST_FITS, FEWEST_PRIORS = 4, 2


def criterion_results(records: Records) -> pd.DataFrame:
    """Networks pruned to a target sparsity after training by MAP or by the evidence, without shuffled controls.

    Added: `variant`, how the same criterion is applied in several ways: the method where several have it, and
    its options beyond those of the training.
    """
    rows = trainings(pruned(records))
    rows = rows[(rows["criterion"] != "") & (rows["training"] != "") & rows["target"].notna()]
    rows = rows[~rows["method"].str.startswith("random(")]
    names = rows["method"].map(lambda text: call(str(text))[0])
    several = names.groupby([rows["criterion"], rows["learned"].notna()]).transform("nunique") > 1
    variants = [
        ", ".join([*([name] if many else []), *_own_options(method, inference)])
        for name, many, method, inference in zip(names, several, rows["method"], rows["inference"], strict=True)
    ]
    return rows.assign(variant=variants)


def _own_options(method: str, inference: str) -> list[str]:
    """A method's options that its inference does not take."""
    taken = call(inference)[1]
    return [f"{name}={value}" for name, value in call(method)[1].items() if name not in taken]
