"""A seal on test data: inside the block, whoever reads it is told, and cannot hide it.

A seal holds in the whole process: threads that are started inside the block are under it too. What one process cannot
forbid are threads that outlive the block, and code that looks for the tensors in memory instead of asking for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class TestSplitError(RuntimeError):
    """Something that may see only training data read the test split, its partner or a shifted copy."""

    __test__ = False  # not a test class, whatever its name suggests to a collector


Violations = list[TestSplitError]

_own: ContextVar[Violations | None] = ContextVar("own", default=None)
_opened: ContextVar[bool] = ContextVar("opened", default=False)
_active: dict[int, Violations] = {}  # of all threads, by the identity of the list


@contextmanager
def sealed() -> Iterator[None]:
    """Forbid reading `test`, `ood` and `shifted` of any `Data` inside the block, in this thread and in new ones.

    Blocks may be nested. Raises TestSplitError at the read, and once more at the end of the block if
    the first was swallowed or turned into another exception on the way.
    """
    outer = _own.get()
    violations: Violations = [] if outer is None else outer
    token, opened = _own.set(violations), _opened.set(False)
    _active[id(violations)] = violations
    try:
        yield
    except (TestSplitError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if violations:
            raise violations[0] from error
        raise
    finally:
        _opened.reset(opened)
        _own.reset(token)
        if outer is None:
            _active.pop(id(violations), None)
    if violations:
        raise violations[0]


@contextmanager
def opened() -> Iterator[None]:
    """Let the harness, which judges, read what is sealed; nothing of a method runs inside such a block."""
    token = _opened.set(True)
    try:
        yield
    finally:
        _opened.reset(token)


def guard(name: str, part: str) -> None:
    """Raise TestSplitError, and remember it, if a seal is active: that of this thread, or else of any."""
    if _opened.get():
        return
    own = _own.get()
    under = list(_active.values()) if own is None else [own]
    if under:
        error = TestSplitError(f"{part} of data set {name!r} was read where only training data may be")
        for violations in under:
            violations.append(error)
        raise error
