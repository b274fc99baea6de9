"""Options among whose values validation data choose, judged after pruning: `{tuned: [0.1, 1, 10], at: pruned}`.

What is best for the dense network need not be best for the pruned one. A prior precision that is `tuned` without more
is chosen on the dense network.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from ..datasets.errors import UsageError

AT = "pruned"


def grids(options: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of each option that is tuned."""
    return {name: list(value["tuned"]) for name, value in options.items() if is_tuned(value)}


def is_tuned(value: Any) -> bool:
    """Whether an option's value stands for several."""
    return isinstance(value, Mapping) and "tuned" in value


def candidates(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Options with each combination of values in the place of those that are tuned; themselves if none is."""
    found = grids(options)
    return [dict(options) | dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]


def check_grid(method: str, option: str, value: Mapping[str, Any]) -> None:
    """Raises UsageError for anything but at least two different values, judged after pruning."""
    grid = value["tuned"]
    if set(value) != {"tuned", "at"} or value["at"] != AT:
        raise UsageError(f"method {method!r}: {option}={dict(value)!r} is not valid: give {{tuned: [...], at: {AT}}}")
    if not isinstance(grid, list | tuple) or len(grid) < 2 or any(v in grid[:i] for i, v in enumerate(grid)):
        raise UsageError(
            f"method {method!r}: {option}: tuned={grid!r} is not valid: list at least two different values"
        )
