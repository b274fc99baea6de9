"""What to cite: the papers of methods, or of everything that a matrix names. Nothing is loaded but names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...architectures import registry as architectures
from ...bench.spec.shipped import find_matrix, shipped_matrices
from ...bench.spec.yaml_text import parsed, text_of
from ...datasets import registry as datasets
from ...datasets.errors import UsageError, unknown
from ...datasets.registry import Entry, Registry
from ...methods import registry as methods
from ..writing.bibliography import bibtex

KINDS: Mapping[str, Registry] = {"methods": methods, "architectures": architectures, "datasets": datasets}


def cite(names: Sequence[str]) -> str:
    """BibTeX of the suite, and of what methods and matrices, by name or file, rest on.

    Raises UsageError for a name that is neither a method nor a matrix, and for a matrix that is none.
    """
    return bibtex(entry for name in names for entry in _entries(name))


def _entries(name: str) -> Iterable[Entry]:
    try:
        return methods.entries(name)
    except UsageError:
        if not name.endswith((".yaml", ".yml")) and name not in shipped_matrices():
            raise unknown("method or matrix", name, {**methods.catalogue(), **shipped_matrices()}) from None
    path = find_matrix(name)
    _, content = parsed(text_of(path), str(path))
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} is no matrix: it must be a mapping with the keys {', '.join(KINDS)}")
    return [entry for kind in KINDS for choice in content.get(kind) or () for entry in _of(kind, choice)]


def _of(kind: str, choice: Any) -> Iterable[Entry]:
    """The entries of `magnitude`, or of `{name: random, like: opd}`."""
    given = choice if isinstance(choice, Mapping) else {"name": choice}
    names = [str(given.get("name", "")), *(str(given[n]) for n in ("like",) if kind == "methods" and n in given)]
    return [entry for name in names for entry in KINDS[kind].entries(name)]
