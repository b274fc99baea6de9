"""A YAML file with the line of every key, so that an error can name the place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from ...datasets.errors import UsageError


def written(node: yaml.Node | None, loc: Iterable[Any]) -> Iterator[Any]:
    """The part of an error's location that stands in the file; what follows names alternatives of a type."""
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
        else:
            return
        yield part


def line_of(node: yaml.Node | None, place: Iterable[Any]) -> int:
    """The line of the deepest part of a place (keys and positions) that stands in the file, counted from 1."""
    line = 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1  # pyright: ignore[reportOptionalMemberAccess]
    return line


def refuse_repeated_keys(path: str, node: yaml.Node | None) -> None:
    """Raises UsageError, with file and line, for a key that is given twice or that is no word."""
    for mapping in _mappings(node):
        seen: set[str] = set()
        for key, _ in mapping.value:
            place = f"{path}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{place}: a key must be a word, not a list or a mapping")
            if key.value in seen:
                raise UsageError(f"{place}: the key {key.value!r} is given twice")
            seen.add(key.value)


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)
