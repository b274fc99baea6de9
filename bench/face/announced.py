"""A training set of which only some inputs and the size are known yet."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...datasets.data import Split
from ...datasets.trees import rows


@dataclass(frozen=True, eq=False)
class Announced(Split):
    """Inputs `x` of a few examples (n, ...), without targets, and how many terms the likelihood of all has."""

    size: int = 0

    @property
    def terms(self) -> int:
        """Those of the whole set."""
        return self.size

    def __getitem__(self, index: Tensor | slice) -> Announced:
        return Announced(rows(self.x, index), self.y[index], self.likelihood, self.size)
