"""Patterns of cells, by which a matrix leaves some out, or repeats some under other budgets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from ...architectures.units.vector import Granularity
from .run import Run
from .settings import Number, Seed, Settings

# -0.0 is 0.0, and has to have its key.
Sparsity = Annotated[Number, Field(ge=0, lt=1), AfterValidator(lambda share: share + 0.0)] | Literal["auto"]


T = TypeVar("T")
OneOrMore = T | Annotated[list[T], Field(min_length=1)] | None


class Pattern(Settings):
    """Cells that match everything given, of a list any of its items; names match with or without options."""

    dataset: OneOrMore[str] = None
    architecture: OneOrMore[str] = None
    method: OneOrMore[str] = None
    sparsity: OneOrMore[Sparsity] = None
    seed: OneOrMore[Seed] = None
    units: OneOrMore[Granularity] = None

    def matches(self, run: Run) -> bool:
        """Whether `run` is one of them."""
        plain = {name: (getattr(run, name),) for name in ("sparsity", "seed", "units")}
        named = {name: getattr(run, name) for name in ("dataset", "architecture", "method")}
        values = plain | {name: (choice.name, choice.label) for name, choice in named.items()}
        return all(_among(getattr(self, name), own) for name, own in values.items())


def _among(wanted: Any, own: Sequence[Any]) -> bool:
    items = wanted if isinstance(wanted, list) else [wanted]
    return wanted is None or any(item in own for item in items)


def match(patterns: Iterable[Pattern], run: Run) -> bool:
    """Whether any of the patterns has `run` among its cells."""
    return any(pattern.matches(run) for pattern in patterns)
