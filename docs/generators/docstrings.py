"""Docstrings as Sphinx takes them: the field's bars and stars are no markup."""

from __future__ import annotations

import re
from typing import Any


def escape(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Escape |, * and trailing underscores outside of code, in place; sections of `described` become paragraphs."""
    lines[:] = [_line(line) for line in lines]


def _line(line: str) -> str:
    if line.lstrip().startswith((":", ".. ", ">>>")):
        return line
    parts = re.split(r"(``.*?``|`[^`]*`)", line)
    return "".join(part if i % 2 else re.sub(r"([|*]|(?<=\w)_(?!\w))", r"\\\1", part) for i, part in enumerate(parts))
