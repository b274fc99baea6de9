"""One call writes a report: a self-contained page, figures and tables for a paper, and the records as CSV."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import jinja2
import pandas as pd
from markupsafe import Markup

from ..bench.results.columns import IDENTITY, RESULTS, SECONDS
from ..bench.results.frames import csv_text
from ..bench.results.scores import Scores
from ..datasets.atomic import write_atomically
from ..datasets.errors import UsageError
from . import summary
from .drawing.panels import Drawing, save
from .figures import drawings_of
from .interactive.embedding import embedded
from .interactive.payload import payload
from .records.division import Part, divided
from .records.frame import Records, prepare
from .records.ranking import Ranking, rankings
from .tables import tables_of
from .writing import render
from .writing.render import Table

TRACEBACKS = 20
NONE: Mapping[str, str] = MappingProxyType({})
NO_SCORES: Mapping[str, Scores] = MappingProxyType({})
PIXELS_PER_INCH = 135  # on the page; the figures are drawn for the narrower columns of a paper


@dataclass(frozen=True)
class _Image:
    """A figure as the page holds it: inside the file, with links to the files beside it."""

    drawing: Drawing
    source: str
    width: int
    height: int


def report(
    frame: pd.DataFrame, out: Path | str, *, title: str = "Pruning report", missing: Sequence[str] = (),
    says: Sequence[str] = (), leading: Sequence[Table] = (), pages: Mapping[str, str] = NONE,
    scores: Mapping[str, Scores] = NO_SCORES,
) -> Path:  # fmt: skip
    """Write a report of the records in `frame` to the folder `out`; returns the path of index.html.

    Written are index.html (one file that needs no other and no network), figures/*.{pdf,svg,png},
    tables/*.{md,tex} and results.csv. The same frame gives the same bytes. index.html comes last and in one
    piece. `missing` are sentences about records that should be in `frame` and are not; the page shows them on
    top, under "Read with care". `says` are sentences and `leading` tables that come before those of the records;
    `pages` are names of files beside index.html that it links to, with their titles. `scores` of test examples, by
    key of the record, let the page test differences as the reader chooses; without them it only ranks. Raises
    UsageError if `out` cannot be a folder.
    """
    out = _folder(Path(out))
    records = prepare(frame)
    parts = divided(records)
    ranked = rankings(parts[0].ranked)
    drawings = drawings_of(records, parts[0], ranked)
    images = [_image(drawing, out / "figures") for drawing in drawings]
    found = [*leading, *tables_of(records, parts, ranked)]
    _write_tables(out, found)
    _write(out / "results.csv", _csv(frame))
    data = payload(parts[0], scores, drawings)
    _write(out / "index.html", page(records, parts[0], ranked, images, found, title, missing, says, pages, data))
    return out / "index.html"


def page(
    records: Records, part: Part, ranked: Sequence[Ranking], images: list[_Image], found: list[Table], title: str,
    missing: Sequence[str] = (), says: Sequence[str] = (), pages: Mapping[str, str] = NONE, data: str = "",
) -> str:  # fmt: skip
    """The page as HTML, with the findings of one part of the records; their text and `missing` are escaped.

    `data` is what its scripts read, as `payload` makes it safe.
    """
    return _template().render(
        title=title,
        of_records=True,
        facts=summary.facts(records),
        headlines=[*filter(None, [part.budget.sentence]), *says, *summary.headlines(part.records, ranked)],
        doubts=[*missing, *summary.doubts(part.records, ranked), *summary.apart(part)],
        incomplete=bool(missing),
        missing=summary.missing_controls(part.ranked),
        images=images,
        tables=[(table, Markup(render.html_table(table))) for table in found if table.name != "failures"],  # noqa: S704
        failures=[(table, Markup(render.html_table(table))) for table in found if table.name == "failures"],  # noqa: S704
        tracebacks=_tracebacks(records),
        pages=pages,
        embedded=embedded(data),
    )


def tables_page(
    out: Path | str, title: str, says: Sequence[str], found: Sequence[Table], name: str = "index.html"
) -> Path:
    """Write a page of sentences and tables alone, and the tables beside it; raises UsageError as `report`."""
    out = _folder(Path(out))
    _write_tables(out, found)
    shown = [(table, Markup(render.html_table(table))) for table in found]  # noqa: S704
    nothing = {part: [] for part in ("facts", "doubts", "missing", "images", "failures", "tracebacks", "pages")}
    text = _template().render(
        title=title, of_records=False, headlines=says, tables=shown, incomplete=False, embedded=embedded(""), **nothing
    )
    _write(out / name, text)
    return out / name


def _write_tables(out: Path, found: Sequence[Table]) -> None:
    for table in found:
        _write(out / "tables" / f"{table.name}.md", render.markdown(table))
        _write(out / "tables" / f"{table.name}.tex", render.latex(table))


def _template() -> jinja2.Template:
    folder = Path(__file__).with_name("templates")
    loader = jinja2.FileSystemLoader(folder, encoding="utf-8")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2")


def _image(drawing: Drawing, folder: Path) -> _Image:
    data = base64.b64encode(save(drawing, folder)).decode("ascii")
    width, height = (round(PIXELS_PER_INCH * float(inches)) for inches in drawing.figure.get_size_inches())
    return _Image(drawing, f"data:image/svg+xml;base64,{data}", width, height)


def _tracebacks(records: Records) -> list[tuple[str, str]]:
    """One (cell, traceback) for each different traceback of the failed cells."""
    failed = records[(records["status"] == "failed") & (records["traceback"] != "")].drop_duplicates("traceback")
    names = failed[["method", "dataset", "architecture", "units"]].agg(" · ".join, axis=1) if len(failed) else []
    return list(zip(names, failed["traceback"], strict=True))[:TRACEBACKS]


def _csv(frame: pd.DataFrame) -> str:
    """results.csv as the store writes it, also for a frame that lacks some of its columns."""
    return csv_text(frame.reindex(columns=list(dict.fromkeys([*frame.columns, *IDENTITY, *RESULTS, *SECONDS]))))


def _folder(out: Path) -> Path:
    try:
        for folder in ("figures", "tables"):
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write a report to {str(out)!r}: {error.strerror}; choose another folder") from error
    return out


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode())
