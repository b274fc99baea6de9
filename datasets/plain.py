"""Numbers of numpy and torch as Python's, without importing either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """A scalar of numpy or torch as a number of Python, also inside lists, tuples and mappings.

    Raises TypeError for an array or a tensor of several numbers, where JSON asks for what it does not know.
    """
    if is_scalar(value):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not plain JSON")


def as_plain(value: Any) -> Any:
    """The value with numbers and lists of Python in the place of numpy's and torch's; what is none of these stays."""
    if is_scalar(value):
        return value.item()
    if _is_array(value):
        return value.tolist()
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(as_plain(part) for part in value)
    if isinstance(value, Mapping):
        return {as_plain(name): as_plain(part) for name, part in value.items()}
    return value


def is_scalar(value: Any) -> bool:
    """Whether a value is a single number of numpy or torch."""
    return type(value).__module__.partition(".")[0] in ("numpy", "torch") and getattr(value, "ndim", None) == 0


def _is_array(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(value, "ndim", 0) > 0
