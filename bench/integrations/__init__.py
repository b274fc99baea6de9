"""Methods in the training loops of other libraries; each file needs its library, see the extras of the package."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lightning import LightningPruning
    from .transformers import TrainerPruning

__all__ = ["LightningPruning", "TrainerPruning"]
_HOMES = {"LightningPruning": ".lightning", "TrainerPruning": ".transformers"}


def __getattr__(name: str) -> Any:
    """Its library is imported when a callback is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name], __name__), name)
