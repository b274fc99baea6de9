"""Options written on a command line, as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...datasets.errors import UsageError
from . import yaml_text


def parsed(options: Sequence[str], flag: str = "--option") -> dict[str, Any]:
    """`depth=8` as {"depth": 8}; values as in a matrix file. Raises UsageError for anything else."""
    found = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"{flag} {text!r} is not valid; give name=value, such as depth=8")
        try:
            found[name] = yaml_text.parsed(value, f"{flag} {name}")[1]
        except UsageError as error:
            raise UsageError(f"{error}; give name=value, such as depth=8") from error
    return found
