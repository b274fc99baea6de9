"""Patterns of cells, by which a matrix leaves some out, or repeats some under other budgets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ...architectures.units.vector import Granularity
from .run import Run
from .settings import Number, Seed, Settings

# -0.0 is 0.0, and has to have its key.
Sparsity = Annotated[Number, Field(ge=0, lt=1), AfterValidator(lambda share: share + 0.0)] | Literal["auto"]


class Pattern(Settings):
    """Cells that match everything given; names match with or without options."""

    dataset: str | None = None
    architecture: str | None = None
    method: str | None = None
    sparsity: Sparsity | None = None
    seed: Seed | None = None
    units: Granularity | None = None

    def matches(self, run: Run) -> bool:
        """Whether `run` is one of them."""
        named = ("dataset", "architecture", "method")
        plain = all(getattr(self, n) in (None, getattr(run, n)) for n in ("sparsity", "seed", "units"))
        return plain and all(
            (wanted := getattr(self, n)) is None or wanted in (getattr(run, n).name, getattr(run, n).label)
            for n in named
        )


def match(patterns: Iterable[Pattern], run: Run) -> bool:
    """Whether any of the patterns has `run` among its cells."""
    return any(pattern.matches(run) for pattern in patterns)
