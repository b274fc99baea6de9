"""A table of examples as tensors, standardised, for feature selection; and the checks that come before any work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...datasets.arrays import column_names, plain
from ...datasets.assemble import floats, statistics
from ...datasets.data import Data
from ...datasets.errors import UsageError
from ...datasets.own import from_arrays
from ...datasets.source import Source, checked
from ...datasets.split import Split

NAME = "(x, y)"
FEWEST = 10  # rows


@dataclass(frozen=True)
class Table:
    """Standardised examples of named features.

    Attributes:
        split: x (N, F); y labels (N,), or standardised targets (N, K).
        names: of the features.
        outputs: number of classes, targets or labels.
    """

    split: Split
    names: tuple[str, ...]
    outputs: int


def table(x: Any, y: Any = None, names: Sequence[str] | None = None) -> Table:
    """The table of (x, y), or of the training examples of a Data, which know their targets and perhaps their names.

    Raises UsageError for NaN, constant features (by name), too few rows, and names that do not fit.
    """
    if isinstance(x, Data | Split):
        x, y, names = _parts(x, y, names)
    if y is None:
        raise UsageError("y is missing: give the targets of the table x, one for each row")
    inputs = plain("x", x)
    if inputs.dtype.kind not in "buif":
        raise UsageError(f"x must hold numbers, got {inputs.dtype}: encode words as numbers first")
    if inputs.ndim != 2:
        raise UsageError(f"x must be a table of examples by features, (N, F), got shape {inputs.shape}")
    if len(inputs) < FEWEST:
        raise UsageError(f"x has {len(inputs)} rows, too few to select features: give at least {FEWEST}")
    columns = _names(column_names(x) if names is None else names, inputs.shape[1])
    source = checked(NAME, replace(from_arrays(NAME, [inputs, y]), features=columns))
    _check_constant(inputs, columns)
    raw = floats("table", inputs)
    split = Split(statistics(raw).apply_(raw.clone()), _targets(source), source.likelihood)
    return Table(split, columns, _outputs(source))


def _parts(data: Data | Split, y: Any, names: Sequence[str] | None) -> tuple[Tensor, Tensor, Sequence[str] | None]:
    if y is not None:
        raise UsageError("y is given twice: a data set brings its own targets")
    if isinstance(data, Split):
        return data.x, data.y, names
    train = data.train[:]  # in memory
    return train.x, train.y, data.features if names is None else names


def _names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    found = tuple(f"x{i + 1}" for i in range(count)) if names is None else tuple(map(str, names))
    if len(found) != count:
        raise UsageError(f"{len(found)} names are given for {count} features")
    if twice := [name for name, times in Counter(found).items() if times > 1]:
        raise UsageError(f"feature name {twice[0]!r} is given twice: give every feature its own")
    return found


def _check_constant(x: np.ndarray, names: tuple[str, ...]) -> None:
    constant = np.flatnonzero(x.min(axis=0) == x.max(axis=0))
    if len(constant):
        several = ", ".join(names[i] for i in constant[:5]) + (", ..." if len(constant) > 5 else "")
        raise UsageError(f"constant features tell nothing: remove {several} ({len(constant)} of {len(names)})")


def _targets(source: Source) -> Tensor:
    if source.likelihood != "gaussian":
        return torch.from_numpy(np.ascontiguousarray(source.y))
    raw = torch.from_numpy(source.y.astype(np.float64))
    return statistics(raw).apply_(raw)


def _outputs(source: Source) -> int:
    return len(source.classes or ()) if source.likelihood == "categorical" else source.y.shape[1]
