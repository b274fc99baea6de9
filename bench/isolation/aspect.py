"""One kind of state that computations read without being given it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Aspect:
    """A kind of state: what it is, and how to put it back.

    Attributes:
        name: as a reason says it.
        read: its value now.
        restore: puts such a value back; nothing does where this is None.
        silent: whether a change is no fault: it is undone without a word.
        imports: whether importing a module may change it for good reason.
        same: whether a value of before and one of now mean that nothing happened.
    """

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object] | None
    silent: bool = False
    imports: bool = False
    same: Callable[[Any, Any], bool] = operator.eq

    def put_back(self, before: Any) -> bool:
        """Restore a value; whether that could be done."""
        if self.restore is not None:
            self.restore(before)
        return self.same(before, self.read())


def attributes(home: Any, *names: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Reading and restoring attributes of a module."""

    def restore(before: tuple) -> None:
        for name, value in zip(names, before, strict=True):
            setattr(home, name, value)

    return lambda: tuple(getattr(home, name) for name in names), restore


def contents(home: Any, names: list[str]) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Reading and restoring the content of dictionaries that a module keeps."""

    def restore(before: dict[str, dict]) -> None:
        for name, content in before.items():
            getattr(home, name).clear()
            getattr(home, name).update(content)

    return lambda: {name: dict(getattr(home, name)) for name in names}, restore
