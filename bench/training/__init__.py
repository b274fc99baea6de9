"""Training: the one loop, and the fits that cells share."""

from typing import Any as _Any


def __getattr__(name: str) -> _Any:
    from ...datasets.former_names import former

    return former("bench.training", name)
