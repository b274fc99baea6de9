"""BibTeX of what docstrings name under "Paper:", from `references.bib` of the methods or beside a plug-in."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from ... import __version__
from ...datasets.described import described
from ...datasets.errors import UsageError
from ...datasets.registry import BUILT_IN, Entry

SHIPPED = Path(__file__).parents[2] / "methods" / "references.bib"
SUITE = "bayesprune"
_ENTRY = re.compile(r"^@\w+\{([^,\s]+),.*?^\}", re.MULTILINE | re.DOTALL)


def references(path: Path = SHIPPED) -> dict[str, str]:
    """The entries of a file of BibTeX, by key, as they stand there; each closes at the start of a line."""
    found = _ENTRY.finditer(path.read_text(encoding="utf-8"))
    return {entry[1]: entry[0].replace("VERSION", __version__) for entry in found}


def bibtex(entries: Iterable[Entry]) -> str:
    """BibTeX of the suite and of every paper that the entries name, each once.

    Raises UsageError for a key that is in no file.
    """
    shipped = references()
    chosen = {SUITE: shipped[SUITE]}
    for entry in entries:
        known = shipped | _beside(entry)
        for key in described(entry).papers:
            if key not in known:
                raise UsageError(
                    f"{entry.name} names the paper {key!r}, which is in no references.bib: add it to one beside "
                    f"{entry.module}"
                )
            chosen[key] = known[key]
    return "\n\n".join(chosen.values())


def _beside(entry: Entry) -> dict[str, str]:
    """References in the folder of a plug-in's module."""
    file = None if entry.origin == BUILT_IN else getattr(sys.modules.get(entry.module), "__file__", None)
    path = Path(file).with_name("references.bib") if file else None
    return references(path) if path and path.is_file() else {}
