"""What can be told to a user in one line: errors that name the value and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST_LINE = 500  # characters of somebody else's text that a message or a record repeats


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


def text_of(error: BaseException, most: int = LONGEST_LINE) -> str:
    """The first line of an exception's text, at most so many characters of it, whatever was put there.

    Surrogates, which no file in UTF-8 can hold, are spelt out. Empty if the exception says nothing.
    """
    try:
        text = str(error).lstrip()[: most + 1]
    except Exception as problem:
        text = f"its text cannot be read: {type(problem).__name__}"
    line = next(iter(text.splitlines()), "").rstrip()
    return printable(line if len(line) <= most else f"{line[:most]} ...")


def printable(text: str) -> str:
    """The text with lone surrogates spelt out, as every file can hold it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def first_line(error: BaseException) -> str:
    """First line of an exception's text; its class where it has none."""
    return text_of(error) or type(error).__name__


def one_line(error: BaseException) -> str:
    """Class and first line of an exception's text, for messages of one line."""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
