"""Reading YAML that anybody may have written: small, flat enough, and meaning what it looks like.

YAML 1.1 reads `yes` as true, `010` as eight and `1:30` as ninety, and a few lines of anchors can stand for billions of
values. Here words are words, a number that can be read in two ways is refused, and what a file expands to is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ...datasets.errors import UsageError, one_line
from .yaml_places import refuse_repeated_keys

LONGEST = 1 << 20  # bytes
DEEPEST = 32  # levels of lists and mappings
MOST = 200_000  # values, those that anchors repeat counted each time
DIGITS = 18  # of a whole number, which then fits into 64 bits

_WORDS = "tag:yaml.org,2002:"
_BOOLEANS = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_AMBIGUOUS = re.compile(r"^[-+]?(?:0[0-9_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)$")


class Loader(yaml.SafeLoader):
    """Plain values only: text, numbers, true and false, null, lists and mappings."""


def _without_booleans_and_dates() -> dict[str, list[tuple[str, Any]]]:
    left_out = (f"{_WORDS}bool", f"{_WORDS}timestamp")
    kept = {c: [(t, p) for t, p in found if t not in left_out] for c, found in Loader.yaml_implicit_resolvers.items()}
    for first in "tTfF":
        kept.setdefault(first, []).append((f"{_WORDS}bool", _BOOLEANS))
    return kept


def _number(kind: str) -> Any:
    construct = getattr(yaml.SafeLoader, f"construct_yaml_{kind}")

    def constructed(loader: Loader, node: yaml.ScalarNode) -> Any:
        text = node.value
        if _AMBIGUOUS.match(text):
            raise _problem(
                node,
                f"{text!r} can be read in two ways; write numbers without leading zeros and colons, text in quotes",
            )
        if kind == "int" and len(text.lstrip("+-")) > DIGITS:
            raise _problem(node, f"{text[:DIGITS]}... is too large for a whole number")
        return construct(loader, node)

    return constructed


def _problem(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


Loader.yaml_implicit_resolvers = _without_booleans_and_dates()
Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_WORDS) in ("null", "bool", "str", "seq", "map")
}
for _kind in ("int", "float"):
    Loader.add_constructor(f"{_WORDS}{_kind}", _number(_kind))


def text_of(path: Path) -> str:
    """The text of a file; raises UsageError for one that is not in UTF-8, too long, or cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > LONGEST:
        raise UsageError(f"{path}: longer than {LONGEST:,} bytes, which no matrix needs")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file in UTF-8") from error


def parsed(text: str, place: str) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML text, with their lines, and its content; `place` is the file, for messages.

    Raises UsageError, with the line, for what is not YAML, nested too deeply, too large with its anchors written out,
    or has a key twice.
    """
    try:
        _check_depth(text)
        node = yaml.compose(text, Loader=Loader)
        _check_size(node)
        refuse_repeated_keys(place, node)
        return node, None if node is None else _constructed(text, node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or one_line(error)
        raise UsageError(f"{place}{line}: not valid YAML: {' '.join(reason.split())}") from error


def _constructed(text: str, node: yaml.Node) -> Any:
    loader = Loader("")
    try:
        return loader.construct_document(node)
    except (ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:  # of `!!int x`, and the like
        raise _problem(node, one_line(error)) from error
    finally:
        loader.dispose()


def _check_depth(text: str) -> None:
    """Before anything that recurses."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Events)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST or count > MOST:
            what = f"nested more than {DEEPEST} levels deep" if depth > DEEPEST else f"more than {MOST:,} values"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)


def _check_size(node: yaml.Node | None) -> None:
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = -1
            sizes[id(node)] = 1 + sum(map(size, _parts(node)))
        if sizes[id(node)] < 0:
            raise _problem(node, "an anchor that contains itself")
        if sizes[id(node)] > MOST:
            raise _problem(node, f"its anchors stand for more than {MOST:,} values")
        return sizes[id(node)]

    if node is not None:
        size(node)


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


# libyaml's parser is quick, and does not recurse.
_Events: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
