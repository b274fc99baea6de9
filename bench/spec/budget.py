"""What a sparsity is a share of: units, parameters or floating-point operations; and layers of round sizes."""

from __future__ import annotations

from typing import Literal

from ...datasets.errors import UsageError
from .settings import Count, Settings


class Budget(Settings):
    """What a target sparsity counts, and what every layer keeps.

    Attributes:
        of: the share of "units" removed; of the network's "parameters", or of its "flops", that leave it.
        at_least: units that every layer keeps; of single weights none has to stay.
        round_to: layers keep multiples of this many units, rounded up, as hardware likes them.
    """

    of: Literal["units", "parameters", "flops"] = "units"
    at_least: Count = 1
    round_to: Count = 1

    @property
    def exact(self) -> bool:
        """Whether the number of units kept follows from the sparsity alone."""
        return self.of == "units" and self.round_to == 1

    def check(self, structured: bool) -> None:
        """Raises UsageError for a share of operations where only single weights are masked, which saves none."""
        if self.of == "flops" and not structured:
            raise UsageError("flops are only saved by removing structures: prune groups, or ask for a share of units")


OF_UNITS = Budget()
