"""A block that leaves the process and the data as it found them, and says who did not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ...datasets.data import Data
from .data_digest import changed_tensors, fingerprint
from .patches import Snapshot, snapshot, undo
from .process_state import PROCESS, PYTHON
from .torch_state import TORCH

ASPECTS = (*TORCH, *PYTHON, *PROCESS)
MOST = 3  # of a kind that a reason names


class LeftBehind(RuntimeError):
    """Code of a method changed state that other methods rely on."""


@dataclass
class Traces:
    """What a block left behind.

    Attributes:
        restored: state that was changed, and is as it was.
        lasting: state that was changed and cannot be put back: this process is no good any more.
        data: tensors of the data that were changed in place: load the data anew.
    """

    restored: list[str] = field(default_factory=list)
    lasting: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [
            (self.data, "it changed {} of the data in place, which all methods share: work on a copy"),
            (self.restored, "it left {} changed behind: restore what you change"),
            (self.lasting, "it left {} behind, which nobody else can undo: end what you start"),
        ]
        return "; ".join(text.format(_listed(names)) for names, text in parts if names)

    def __bool__(self) -> bool:
        return bool(self.restored or self.lasting or self.data)


# Whether something in this process has been left behind for good.
_spoiled: list[str] = []


def spoiled() -> str:
    """What was left behind in this process for good, or nothing."""
    return _listed(_spoiled)


@contextmanager
def isolated(data: Data | None = None, importing: bool = False) -> Iterator[Traces]:
    """Put back, after the block, whatever state it changed, also if it raised.

    What importing a module may change for good reason stays, if the block is for `importing`, or did so.

    Raises LeftBehind after a block that raised nothing else, but changed state or `data`. What the block gives, and
    `Traces` once it is over, say what it was.
    """
    traces, before, code = Traces(), _read(), snapshot()
    modules, content = len(sys.modules), None if data is None else fingerprint(data)
    try:
        yield traces
    finally:
        if data is not None and content is not None:
            traces.data += changed_tensors(data, content)
        _undo(traces, before, code, importing or len(sys.modules) > modules)
        _spoiled.extend(traces.lasting)
    if traces:
        raise LeftBehind(str(traces))


@contextmanager
def undone() -> Iterator[None]:
    """Put back without a word what a user's own data or network, which are no method, changed."""
    with suppress(LeftBehind), isolated():
        yield


def _read() -> list[Any]:
    return [aspect.read() for aspect in ASPECTS]


def _undo(traces: Traces, before: list[Any], code: Snapshot, imported: bool) -> None:
    """Code first, then the rest: what restores may itself have been patched."""
    patched, lasting = undo(code, imported)
    traces.lasting += lasting
    traces.restored += [name for name in patched if name not in lasting]
    for aspect, value in zip(ASPECTS, before, strict=True):
        if aspect.silent and aspect.restore is not None:
            aspect.restore(value)
        elif not (aspect.same(value, aspect.read()) or (imported and aspect.imports)):
            (traces.restored if aspect.put_back(value) else traces.lasting).append(aspect.name)


def _listed(names: list[str]) -> str:
    more = len(names) - MOST
    return ", ".join(names[:MOST]) + (f" and {more} more" if more > 0 else "")
