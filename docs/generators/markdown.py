"""Markdown from names, docstrings and tables of reports."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from bayesprune.reports.writing.render import Table, md


def slug(name: str) -> str:
    """The file of a name: `timm/<model>` is `timm-model`."""
    return re.sub(r"[^\w]+", "-", name).strip("-")


def code(text: str) -> str:
    """Text in the type of code, also in a table; a dash for nothing."""
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`" if text else "–"


# A symbol of one letter and its index, as docstrings write them: θ_k, Λ_kk, h_{t-1}.
_INDEXED = re.compile(r"(?<![^\W\d_])([^\W\d_]\u0302?)\\_(?:\\\{(.+?)\\\}|((?:(?![²³¹])\w)+))")


def formula(text: str) -> str:
    """Text with symbols, their indices set below the line."""
    return _INDEXED.sub(lambda found: f"{found[1]}<sub>{found[2] or found[3]}</sub>", md(text))


def values(annotation: str) -> str:
    """What an option may be, without the words of type hints."""
    return re.sub(r"Literal\[(.*?)\]", r"\1", annotation).replace(" | ", " or ")


def prose(paragraph: str) -> str:
    """A paragraph of a docstring: what is indented is shown as it stands, what is in backticks is code."""
    if all(line.startswith("    ") for line in paragraph.splitlines()):
        return f"```text\n{textwrap.dedent(paragraph)}\n```"
    parts = re.split(r"`([^`\n]+)`", " ".join(paragraph.split()))
    return "".join(
        f"`{part}`" if i % 2 else re.sub(r"\S+", lambda word: formula(word[0]), part) for i, part in enumerate(parts)
    )


def pipes(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    head = list(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *map(list, rows)))


def table(found: Table) -> str:
    """A table of a report with its title and notes, sections as rows in italics."""
    width = len(found.columns)
    rows: list[list[str]] = []
    for section in found.sections:
        rows += [[f"*{md(section.heading)}*"] + [""] * (width - 1)] if section.heading else []
        rows += [[f"**{md(cell.text)}**" if cell.bold else md(cell.text) for cell in row] for row in section.rows]
    return "\n\n".join([f"**{md(found.title)}**", pipes(map(md, found.columns), rows), *map(md, found.notes)])


def figure(path: str, alt: str, caption: str) -> str:
    """A figure; `path` begins at the folder of the documentation."""
    return f"```{{figure}} {path}\n:alt: {alt}\n\n{md(caption)}\n```"
