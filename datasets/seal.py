"""A seal on test data: inside the block, whoever reads it is told, and cannot hide it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class TestSplitError(RuntimeError):
    """Something that may see only training data read the test split, its partner or a shifted copy."""

    __test__ = False  # not a test class, whatever its name suggests to a collector


_violations: ContextVar[list[TestSplitError] | None] = ContextVar("violations", default=None)


@contextmanager
def sealed() -> Iterator[None]:
    """Forbid reading `test`, `ood` and `shifted` of any `Data` inside the block, in this thread.

    Blocks may be nested. Raises TestSplitError at the read, and once more at the end of the block if
    the first was swallowed or turned into another exception on the way.
    """
    outer = _violations.get()
    violations = [] if outer is None else outer
    token = _violations.set(violations)
    try:
        yield
    except TestSplitError:
        raise
    except Exception as error:
        if violations:
            raise violations[0] from error
        raise
    finally:
        _violations.reset(token)
    if violations:
        raise violations[0]


def guard(name: str, part: str) -> None:
    """Raise TestSplitError, and remember it, if a seal is active."""
    violations = _violations.get()
    if violations is not None:
        error = TestSplitError(f"{part} of data set {name!r} was read where only training data may be")
        violations.append(error)
        raise error
