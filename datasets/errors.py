"""What can be told to a user in one line: errors that name the value and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UsageError(ValueError):
    """The user asked for something that cannot be: one sentence that names the value and the fix."""


class PluginError(UsageError):
    """A plug-in file or entry point could not be loaded."""


class NotApplicable(UsageError):
    """A combination that makes no sense, such as structure in a network whose groups are not known: a skipped cell."""


def unknown(kind: str, name: Any, known: Iterable[str]) -> UsageError:
    """The error for a name that nobody knows, with the nearest valid spelling."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")


def first_line(error: BaseException) -> str:
    """First line of an exception's text; its class where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def one_line(error: BaseException) -> str:
    """Class and first line of an exception's text, for messages of one line."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"
