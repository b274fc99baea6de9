"""The user's own data: an npz file, or a function that returns arrays."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import register
from .errors import UsageError, one_line, unknown
from .files import FOUR, PAIR, read_npz
from .source import Source, pooled


@register("npz:<path>")
def npz(*, path: str) -> Source:
    """Your npz file: x_train, y_train, x_test, y_test, or x and y for seeded splits."""
    name = f"npz:{path}"
    return from_arrays(name, read_npz(name, Path(path).expanduser(), FOUR, PAIR))


@register("<module>:<function>")
def function(*, module: str, function: str) -> Source:
    """Your function, called without arguments: (x, y) or (x_train, y_train, x_test, y_test).

    A dict with these keys will do as well, and so will a `Source`, which may also hold sequences of tokens.
    """
    name = f"{module}:{function}"
    try:
        returned = import_function("data set", module, function)()
        if isinstance(returned, Source):
            return returned
        arrays = [_array(value) for value in _values(name, returned)]
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"data set {name!r} failed: {one_line(error)}") from error
    if len(arrays) not in (2, 4):
        raise UsageError(f"data set {name!r} must return (x, y) or {FOUR}; {len(arrays)} values given")
    return from_arrays(name, arrays)


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


def from_arrays(name: str, arrays: Sequence[np.ndarray], **fields: Any) -> Source:
    """A source of (x, y) or (x_train, y_train, x_test, y_test).

    x is a table (N, F) or images (N, H, W), (N, H, W, C) or (N, C, H, W), where channels are fewer than
    rows and columns. y is regression if it is floating-point and two-dimensional or not whole-numbered,
    else classes.

    Raises UsageError for anything else.
    """
    for x, y in zip(arrays[::2], arrays[1::2], strict=True):
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise UsageError(f"data set {name!r}: as many targets as inputs are needed; x is {x.shape}, y is {y.shape}")
    if len(arrays) == 4 and (arrays[0].shape[1:], arrays[0].dtype) != (arrays[2].shape[1:], arrays[2].dtype):
        raise UsageError(
            f"data set {name!r}: x_train and x_test must agree in shape and type; "
            f"{arrays[0].dtype} {arrays[0].shape} and {arrays[2].dtype} {arrays[2].shape} given"
        )
    inputs = [channels_first(x) for x in arrays[::2]]
    likelihood, targets = _targets(name, arrays[1::2])
    pairs = list(zip(inputs, targets, strict=True))
    if len(pairs) == 1:
        return Source(x=inputs[0], y=targets[0], likelihood=likelihood, **fields)
    return pooled(*pairs, likelihood=likelihood, **fields)


def channels_first(x: np.ndarray) -> np.ndarray:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W); anything else as it is."""
    if x.ndim == 3:
        return x[:, None]
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 and x.shape[3] <= x.shape[1] else x


def one_hot(y: np.ndarray) -> bool:
    """Whether y is (N, K), K > 1, and each row has a single one among zeros."""
    if y.ndim != 2 or y.shape[1] < 2 or not y.size or y.dtype.kind not in "buif":
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def _targets(name: str, ys: Sequence[np.ndarray]) -> tuple[Any, list[np.ndarray]]:
    if all(one_hot(y) for y in ys):
        raise UsageError(
            f"data set {name!r}: y of shape {ys[0].shape} is one-hot; give labels 0..{ys[0].shape[1] - 1} of shape (N,)"
        )
    floating = all(y.dtype.kind == "f" for y in ys)
    if floating and any(y.ndim == 2 or (y != y.round()).any() for y in ys):
        return "gaussian", [y[:, None] if y.ndim == 1 else y for y in ys]
    return "categorical", [y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for y in ys]


def _values(name: str, returned: Any) -> Iterable[Any]:
    """What a function returned, in order; a dict is asked for its keys."""
    if not isinstance(returned, Mapping):
        return returned
    for keys in (FOUR, PAIR):
        if set(keys) <= set(returned):
            return [returned[key] for key in keys]
    held = ", ".join(map(str, returned)) or "nothing"
    raise UsageError(f"data set {name!r}: its dict must hold {', '.join(PAIR)} or {', '.join(FOUR)}; it holds {held}")


def _array(value: Any) -> np.ndarray:
    """As numpy; strings that come as objects, as pandas gives them, become numpy's strings."""
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    is_text = array.dtype == object and all(isinstance(entry, str) for entry in array.flat)
    return array.astype(str) if is_text else array
