"""What is tested of which methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..harness.workbench import Workbench


def _always(bench: Workbench) -> bool:
    return True


@dataclass(frozen=True)
class Promise:
    """A promise of the contract.

    Attributes:
        test: raises Broken if a bench, of the class that it takes, shows that the promise is not kept.
        concerns: whether the method of a bench does what the promise speaks of; one that does not has nothing to
            break, and is not put to the test.
    """

    test: Callable[[Any], None]
    concerns: Callable[[Workbench], bool] = _always
