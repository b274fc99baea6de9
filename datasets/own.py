"""The user's own data: an npz file, or a function that returns arrays."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import register
from .arrays import column_names, plain
from .errors import UsageError, one_line, unknown
from .files import FOUR, PAIR, read_npz
from .source import Source, pooled
from .split import DataLikelihood
from .targets import one_hot, zeros_and_ones

Channels = Literal["first", "last"]


@register("npz:<path>")
def npz(*, path: str, likelihood: DataLikelihood | None = None, channels: Channels | None = None) -> Source:
    """Your npz file: x_train, y_train, x_test, y_test, or x and y for seeded splits.

    `likelihood` and `channels` say what y and x are where their types and shapes do not: see `from_arrays`.
    """
    name = f"npz:{path}"
    arrays = read_npz(name, Path(path).expanduser(), FOUR, PAIR)
    return from_arrays(name, arrays, likelihood=likelihood, channels=channels)


@register("<module>:<function>")
def function(
    *, module: str, function: str, likelihood: DataLikelihood | None = None, channels: Channels | None = None
) -> Source:
    """Your function, called without arguments: (x, y) or (x_train, y_train, x_test, y_test).

    A dict with these keys will do as well, and so will a `Source`, which may also hold sequences of tokens.
    `likelihood` and `channels` say what y and x are where their types and shapes do not: see `from_arrays`.
    """
    name = f"{module}:{function}"
    try:
        returned = import_function("data set", module, function)()
        if isinstance(returned, Source):
            return _as_told(name, returned, likelihood, channels)
        arrays = list(_values(name, returned))
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"data set {name!r} failed: {one_line(error)}") from error
    if len(arrays) not in (2, 4):
        raise UsageError(f"data set {name!r} must return (x, y) or {FOUR}; {len(arrays)} values given")
    return from_arrays(name, arrays, likelihood=likelihood, channels=channels)


def _as_told(name: str, source: Source, likelihood: DataLikelihood | None, channels: Channels | None) -> Source:
    if channels is not None:
        raise UsageError(f"data set {name!r} returns a Source, whose images are (N, C, H, W): leave channels out")
    return source if likelihood is None else dataclasses.replace(source, likelihood=likelihood)


def import_function(kind: str, module: str, function: str) -> Callable[..., Any]:
    """What `module` calls `function`; the current folder is searched too. Raises UsageError."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        home = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{kind} '{module}:{function}': cannot import {module!r}: {one_line(error)}") from error
    finally:
        sys.path.remove(here)
    found = getattr(home, function, None)
    if not callable(found):
        raise unknown(f"function of {module!r}", function, [n for n, v in vars(home).items() if callable(v)])
    return found


def from_arrays(
    name: str, given: Sequence[Any], likelihood: DataLikelihood | None = None, channels: Channels | None = None,
    **fields: Any,
) -> Source:  # fmt: skip
    """A source of (x, y) or (x_train, y_train, x_test, y_test): arrays, tensors, lists or tables of pandas.

    x is a table (N, F) or images (N, H, W), (N, H, W, C) or (N, C, H, W), where `channels` are "last", or "first", or
    else fewer than rows and columns. y is regression if it is floating-point and two-dimensional or not
    whole-numbered, yes or no of K labels if it is (N, K) of whole numbers 0 and 1, else classes; unless a
    `likelihood` is given: "bernoulli" for real zeros and ones, or "categorical" for probabilities of classes (N, K).
    Columns of a table of pandas are the names of the features.

    Raises UsageError for arrays that do not fit together, missing labels, and images whose channels may be either.
    """
    if len(given) == 1 or len(given) % 2:
        raise UsageError(f"data set {name!r} must have (x, y) or {FOUR}; {len(given)} values given")
    fields = {"features": column_names(given[0]), **fields}
    roles = [f"data set {name!r}: {role}" for role in ("x", "y")] * 2
    arrays = [plain(role, values) for role, values in zip(roles, given, strict=False)]
    for x, y in zip(arrays[::2], arrays[1::2], strict=True):
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise UsageError(f"data set {name!r}: as many targets as inputs are needed; x is {x.shape}, y is {y.shape}")
    if len(arrays) == 4 and (arrays[0].shape[1:], arrays[0].dtype) != (arrays[2].shape[1:], arrays[2].dtype):
        raise UsageError(
            f"data set {name!r}: x_train and x_test must agree in shape and type; "
            f"{arrays[0].dtype} {arrays[0].shape} and {arrays[2].dtype} {arrays[2].shape} given"
        )
    inputs = [channels_first(x, channels, f"data set {name!r}") for x in arrays[::2]]
    likelihood, targets = _targets(name, arrays[1::2], likelihood)
    pairs = list(zip(inputs, targets, strict=True))
    if len(pairs) == 1:
        return Source(x=inputs[0], y=targets[0], likelihood=likelihood, **fields)
    return pooled(*pairs, likelihood=likelihood, **fields)


def channels_first(x: np.ndarray, channels: Channels | None = None, what: str = "x") -> np.ndarray:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W); anything else as it is.

    Raises UsageError, saying `what` holds them, where `channels` are not told and could be either.
    """
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        return x
    return x.transpose(0, 3, 1, 2) if (channels or _place_of_channels(x, what)) == "last" else x


def _place_of_channels(x: np.ndarray, what: str) -> Channels:
    """Where images (N, A, B, C) have fewer channels than rows and columns."""
    a, b, c = x.shape[1:]
    if a >= min(b, c) and c >= min(a, b):
        raise UsageError(
            f"{what}: images of shape {(a, b, c)} may have {a} channels first or {c} channels last; say which by the "
            "option channels: first or channels: last"
        )
    return "first" if a < min(b, c) else "last"


def _targets(
    name: str, ys: Sequence[np.ndarray], told: DataLikelihood | None = None
) -> tuple[DataLikelihood, list[np.ndarray]]:
    kind = told or _likelihood(name, ys)
    if kind == "categorical":
        return kind, [y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for y in ys]
    return kind, [y[:, None] if y.ndim == 1 else y for y in ys]


def _likelihood(name: str, ys: Sequence[np.ndarray]) -> DataLikelihood:
    if all(one_hot(y) for y in ys):
        raise UsageError(
            f"data set {name!r}: y of shape {ys[0].shape} is one-hot; give labels 0..{ys[0].shape[1] - 1} of shape (N,)"
        )
    if all(y.dtype.kind == "f" for y in ys):
        return "gaussian" if any(y.ndim == 2 or (y != y.round()).any() for y in ys) else "categorical"
    several = all(y.ndim == 2 and y.shape[1] > 1 and zeros_and_ones(y) for y in ys)
    return "bernoulli" if several else "categorical"


def _values(name: str, returned: Any) -> Iterable[Any]:
    """What a function returned, in order; a dict is asked for its keys."""
    if not isinstance(returned, Mapping):
        return returned
    for keys in (FOUR, PAIR):
        if set(keys) <= set(returned):
            return [returned[key] for key in keys]
    held = ", ".join(map(str, returned)) or "nothing"
    raise UsageError(f"data set {name!r}: its dict must hold {', '.join(PAIR)} or {', '.join(FOUR)}; it holds {held}")
