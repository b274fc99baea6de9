"""Patched code: functions and classes of this package, of torch and of Python that are not what they were.

Watched are the modules of this package, those that they import, and torch's layers, optimisers and functions. New
names are nobody's harm in a module; in a class they may hide inherited ones.
"""

from __future__ import annotations

import builtins
import inspect
import operator
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PACKAGE = __name__.partition(".")[0]
WATCHED = ("torch.nn", "torch.optim", "torch.autograd", "torch.func", "torch.linalg", "torch.distributions")
# What the interpreter, and class decorators, put into a class when it is first used.
_BOOKKEEPING = (
    "__abstractmethods__",
    "_abc_impl",
    "__doc__",
    "__annotations__",
    "__match_args__",
    "__dict__",
    "__weakref__",
)
_FOLLOWS = ("torch.Storage",)  # the default dtype, which is an aspect of its own
_MISSING = object()
_TORCH = str(Path(torch.__file__).parent)

Snapshot = list[tuple[Any, dict[str, Any]]]


def snapshot() -> Snapshot:
    """What the watched modules and classes hold now."""
    return [(home, vars(home).copy()) for home in _homes(len(sys.modules))]  # the copy of a class is its dictionary's


def undo(before: Snapshot, imported: bool) -> tuple[list[str], list[str]]:
    """Put back what was patched; returns the names of what was, and of what could not be put back.

    If modules were `imported` in the meantime, torch may have wrapped functions of its own, as torch._dynamo does.
    """
    patched, lasting = [], []
    for home, content in before:
        now = vars(home)
        if len(now) == len(content) and all(map(operator.is_, now.values(), content.values())):
            continue
        for name, value in _changes(home, content, dict(now)):
            full = f"{_name(home)}.{name}"
            if full in _FOLLOWS or (imported and _is_code_of_torch(vars(home).get(name))):
                continue
            patched.append(full)
            if not _put(home, name, value):
                lasting.append(patched[-1])
    return patched, lasting


def _changes(home: Any, before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in before.items():
        later = now.get(name, _MISSING)
        if later is value or name in _BOOKKEEPING or not _matters(home, value):
            continue
        if not _is_step_wrapped_by_torch(value, later):
            yield name, value
    if isinstance(home, type):
        yield from (
            (name, _MISSING) for name in now.keys() - before.keys() if _is_code(now[name]) and name not in _BOOKKEEPING
        )


def _matters(home: Any, value: Any) -> bool:
    """Whether a value is one that code relies on; constants are, in this package."""
    name = home.__name__ if isinstance(home, ModuleType) else home.__module__
    return _is_code(value) or name.partition(".")[0] == PACKAGE


def _is_code(value: Any) -> bool:
    return (
        callable(value) or isinstance(value, property | classmethod | staticmethod) or inspect.isdatadescriptor(value)
    )


def _is_code_of_torch(value: Any) -> bool:
    """Whether a function was written in torch, whatever it calls itself."""
    function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    return getattr(getattr(function, "__code__", None), "co_filename", "").startswith(_TORCH)


def _is_step_wrapped_by_torch(before: Any, now: Any) -> bool:
    """An optimiser's step is wrapped when the first one of its class is made."""
    return getattr(now, "hooked", None) is True and getattr(now, "__wrapped__", None) is before


def _put(home: Any, name: str, value: Any) -> bool:
    try:
        delattr(home, name) if value is _MISSING else setattr(home, name, value)
    except (AttributeError, TypeError):
        return False
    return vars(home).get(name, _MISSING) is value


@lru_cache(maxsize=1)
def _homes(modules: int) -> list[Any]:
    """Watched modules, and the classes that are defined in them, while there are so many `modules`."""
    found: dict[int, Any] = {id(builtins): builtins}
    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", None)
        if not isinstance(module, ModuleType) or not isinstance(name, str):
            continue
        if name.partition(".")[0] == PACKAGE:
            found |= {id(value): value for value in vars(module).values() if isinstance(value, ModuleType)}
            found[id(module)] = module
        elif name == "torch" or name.startswith(WATCHED):
            found[id(module)] = module
    classes: dict[int, type] = {}
    for module in found.values():
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                classes[id(value)] = value
    return [*found.values(), *classes.values(), torch.Tensor]


def _name(home: Any) -> str:
    return home.__name__ if isinstance(home, ModuleType) else f"{home.__module__}.{home.__qualname__}"
