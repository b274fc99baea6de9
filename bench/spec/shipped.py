"""The matrices that come with the package."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

from ...datasets.errors import UsageError, unknown

MATRICES = Path(__file__).parents[1] / "matrices"
DEFAULT = "mission"


def shipped_matrices() -> dict[str, str]:
    """Shipped matrices by name, each with the first sentence of its opening comment."""
    return {path.stem: _first_sentence(path) for path in sorted(MATRICES.glob("*.yaml"))}


def _first_sentence(path: Path) -> str:
    comment = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    text = " ".join(line.lstrip("# ") for line in comment)
    return re.split(r"(?<=\.)(?<!et al\.)\s+", text, maxsplit=1)[0]


def find_matrix(name_or_path: str | Path) -> Path:
    """The file of a matrix given by path, or by the name of a shipped one; raises UsageError if there is none."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = MATRICES / f"{path.stem}.yaml"
    if len(path.parts) == 1 and shipped.is_file():
        return shipped
    if len(path.parts) > 1:
        raise UsageError(f"matrix file {path} does not exist; shipped matrices: {', '.join(shipped_matrices())}")
    raise unknown("matrix", path.stem, shipped_matrices())
