"""Whatever holds numbers or words, as plain numpy: tensors, lists, columns of pandas, arrays of objects.

What is missing is never turned into a value: NaN among real numbers is left for the checks of a data set to find, with
its place; among words, or numbers that came as objects, it is refused here.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np
import torch

from .errors import UsageError

# What becomes of a missing value that was put among words before it came here.
GAPS = ("nan", "<NA>", "NaT")


def plain(what: str, values: Any) -> np.ndarray:
    """`values` as an array of numbers, booleans or strings; `what` they are is said in errors.

    A table is converted column by column, so that columns of different types are numbers together. Numbers come
    first: an array of objects that are all numbers is numeric, one of strings is text. Raises UsageError, naming the
    example, for what is missing among labels, and for a mixture of words and numbers.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if (columns := column_names(values)) is not None:
        parts = [_column(f"{what}, column {name!r},", values.iloc[:, i]) for i, name in enumerate(columns)]
        words = [name for name, part in zip(columns, parts, strict=True) if part.dtype.kind in "US"]
        if words and len(words) < len(columns):
            raise UsageError(f"{what}: column {words[0]!r} holds words, others numbers: encode words as numbers first")
        return np.stack(parts, axis=1) if parts else np.empty((len(values), 0))
    return _column(what, values)


def column_names(values: Any) -> tuple[str, ...] | None:
    """The names of a DataFrame's columns, x1, x2, ... where it only numbers them; None for what is no DataFrame."""
    columns = getattr(values, "columns", None)
    if columns is None or not hasattr(values, "iloc"):
        return None
    listed = list(columns)
    numbered = listed == list(range(len(listed)))
    return tuple(f"x{i + 1}" if numbered else str(name) for i, name in enumerate(listed))


def _column(what: str, values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=object) if _nullable(values) else _array(what, values)
    if array.dtype.kind in "OT":  # objects, and numpy's strings of any length
        return _of_objects(what, array.astype(object))
    if array.dtype.kind in "US" and (gaps := np.isin(array.astype(str), GAPS)).any():
        raise _gap(what, array, int(gaps.ravel().argmax()))
    if array.dtype.kind in "buifUS":
        return array
    raise UsageError(f"{what} must hold numbers, or words as labels, got {array.dtype}")


def _array(what: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UsageError(f"{what} must have one shape per example: {str(error).splitlines()[0]}") from error
    if array.dtype.kind in "US" and isinstance(values, Sequence) and not isinstance(values, str):
        return np.asarray(values, dtype=object)  # numpy makes words of the numbers, and of None, that stand among words
    return array


def _nullable(values: Any) -> bool:
    """Whether these are a column of pandas of one of its own types, with its own sign for what is missing."""
    return hasattr(values, "dtype") and not isinstance(values.dtype, np.dtype)


def _of_objects(what: str, array: np.ndarray) -> np.ndarray:
    entries = array.ravel()
    missing = [_is_missing(entry) for entry in entries]
    present = [entry for entry, gone in zip(entries, missing, strict=True) if not gone]
    if all(_is_number(entry) for entry in present):
        if any(missing) and array.ndim < 2:
            raise _gap(what, array, missing.index(True))
        return _numbers(entries, missing).reshape(array.shape)
    if not all(isinstance(entry, str | bytes) for entry in present):
        words = isinstance(present[0], str | bytes)
        odd = next(e for e in entries if (not _is_missing(e) and isinstance(e, str | bytes) != words) or not _known(e))
        raise UsageError(f"{what} must hold numbers, or words alone; example {_row(array, odd)} is {odd!r}")
    if any(missing):
        raise _gap(what, array, missing.index(True))
    return _column(what, array.astype(str))


def _numbers(entries: np.ndarray, missing: list[bool]) -> np.ndarray:
    """Objects that are numbers, what is missing as NaN, in the type that holds them all."""
    values = [np.nan if gone else entry for entry, gone in zip(entries, missing, strict=True)]
    found = np.array(values)
    return found if found.dtype.kind in "buif" else np.array([float(value) for value in values])


def _gap(what: str, array: np.ndarray, position: int) -> UsageError:
    place = int(np.unravel_index(position, array.shape)[0])
    entry = array.ravel()[position]
    return UsageError(f"{what} has nothing at example {place} ({entry!s}); remove or fill in what is missing")


def _row(array: np.ndarray, entry: Any) -> int:
    position = next(i for i, other in enumerate(array.ravel()) if other is entry)
    return int(np.unravel_index(position, array.shape)[0])


def _is_missing(entry: Any) -> bool:
    """None, NaN, pandas' NA and NaT: all that is not equal to itself, or will not say."""
    if entry is None:
        return True
    try:
        return bool(entry != entry)
    except (TypeError, ValueError):
        return type(entry).__name__ == "NAType"


def _is_number(entry: Any) -> bool:
    return isinstance(entry, Number | np.bool_) and not isinstance(entry, complex)


def _known(entry: Any) -> bool:
    return _is_missing(entry) or _is_number(entry) or isinstance(entry, str | bytes)
