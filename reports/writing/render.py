"""Tables as Markdown, LaTeX (booktabs) and HTML; every text is escaped for where it goes."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Cell:
    """Plain text, perhaps set in bold; the renderers escape it."""

    text: str
    bold: bool = False


Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    """Rows under a common heading (empty: none)."""

    heading: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table with its file name (no suffix), heading, columns, sections, and notes that belong under it.

    Columns are aligned right except the first and those in `words`; those in `wrapped` hold sentences and
    wrap.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()
    wrapped: frozenset[str] = frozenset()

    @property
    def rows(self) -> list[Row]:
        """All rows, without headings."""
        return [row for section in self.sections for row in section.rows]


def by_label(rows: pd.DataFrame, make: Callable[[str, pd.DataFrame], Row]) -> tuple[Row, ...]:
    """A row for each method, made of its label and its rows."""
    return tuple(make(str(label), own) for label, own in rows.groupby("label"))


def row(*texts: str | Cell) -> Row:
    """A row of plain texts and cells."""
    return tuple(text if isinstance(text, Cell) else Cell(text) for text in texts)


# ---------------------------------------------------------------- Markdown


def markdown(table: Table) -> str:
    """GitHub Markdown; sections become rows in italics."""
    lines = [f"## {md(table.title)}", "", _pipes([md(c) for c in table.columns]), _pipes(_md_rule(table))]
    for section in table.sections:
        if section.heading:
            lines.append(_pipes([f"*{md(section.heading)}*"] + [""] * (len(table.columns) - 1)))
        lines += [_pipes([_strong(cell, md, "**{}**") for cell in cells]) for cells in section.rows]
    return "\n".join([*lines, *(line for note in table.notes for line in ("", md(note)))]) + "\n"


def _md_rule(table: Table) -> list[str]:
    return [":--" if left else "--:" for left in _left(table)]


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def md(text: str) -> str:
    """Escape for Markdown, in which raw HTML is live."""
    escaped = re.sub(r"([\\`*_{}\[\]|~#])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# ---------------------------------------------------------------- LaTeX

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "–": "--", "…": r"\ldots{}", "≥": r"$\geq$", "≤": r"$\leq$",
    "[": "{[}", "]": "{]}", "−": "$-$", "→": r"$\to$", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}",
}  # fmt: skip


_TEX_NEEDS = ("% needs \\usepackage{booktabs} and \\usepackage{graphicx}",)
_TEX_SMALL = (
    "\\smallskip",
    "\\footnotesize",
    "\\setlength{\\tabcolsep}{3pt}",
    "% a table wider than the text is scaled down to its width",
    "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
)


def latex(table: Table) -> str:
    """A `table` with booktabs rules, scaled down to the width of the text where it is wider.

    Needs the packages booktabs and graphicx.
    """
    count = len(table.columns)
    body = [f"\\toprule\n{_tex_line([tex(c) for c in table.columns])}\n\\midrule"]
    for index, section in enumerate(table.sections):
        if section.heading:
            rule = "\\midrule\n" if index else ""
            body.append(f"{rule}\\multicolumn{{{count}}}{{l}}{{\\textit{{{tex(section.heading)}}}}} \\\\")
        body += [_tex_line([_strong(cell, tex, "\\textbf{{{}}}") for cell in cells]) for cells in section.rows]
    spec = "".join(
        "p{0.4\\linewidth}" if c in table.wrapped else "l" if left else "r"
        for c, left in zip(table.columns, _left(table), strict=True)
    )
    caption = tex(" ".join([table.title + ".", *table.notes]))
    head = [*_TEX_NEEDS, "\\begin{table}", "\\centering", f"\\caption{{{caption}}}", f"\\label{{tab:{table.name}}}"]
    begin = [*_TEX_SMALL, f"\\begin{{tabular}}{{{spec}}}"]
    return "\n".join([*head, *begin, *body, "\\bottomrule", "\\end{tabular}%", "}", "\\end{table}", ""])


def _tex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"


def tex(text: str) -> str:
    """Escape for LaTeX; newlines become spaces."""
    return "".join(_TEX.get(character, character) for character in " ".join(text.split()))


# ---------------------------------------------------------------- HTML


def html_table(table: Table) -> str:
    """A `<table>` with everything escaped; the notes and the heading are the page's."""
    styles = [
        "wrapped left" if c in table.wrapped else "left" if left else ""
        for c, left in zip(table.columns, _left(table), strict=True)
    ]
    head = "".join(_td(html.escape(c), style, "th") for c, style in zip(table.columns, styles, strict=True))
    body = "".join(_html_section(section, styles) for section in table.sections)
    return f"<table><thead><tr>{head}</tr></thead>{body}</table>"


def _html_section(section: Section, styles: Sequence[str]) -> str:
    heading = (
        f'<tr><th class="section" colspan="{len(styles)}">{html.escape(section.heading)}</th></tr>'
        if section.heading
        else ""
    )
    rows = (
        "".join(
            _td(_strong(cell, html.escape, "<strong>{}</strong>"), style)
            for cell, style in zip(cells, styles, strict=True)
        )
        for cells in section.rows
    )
    return f"<tbody>{heading}{''.join(f'<tr>{cells}</tr>' for cells in rows)}</tbody>"


def _td(text: str, style: str, tag: str = "td") -> str:
    return f'<{tag} class="{style}">{text}</{tag}>' if style else f"<{tag}>{text}</{tag}>"


def _left(table: Table) -> list[bool]:
    return [index == 0 or column in table.words | table.wrapped for index, column in enumerate(table.columns)]


def _strong(cell: Cell, escape: Callable[[str], str], template: str) -> str:
    text = escape(cell.text)
    return template.format(text) if cell.bold else text
