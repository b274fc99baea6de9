"""The tables of docs/posteriors.md: how well every inference trains its network, beside MAP, from records.

    python -m bayesprune.reports.posteriors docs/posteriors.md RESULTS [CHOICE]

RESULTS are records of the matrix `posteriors-digits`, CHOICE those of `posteriors-choice`. What stands in the file
between two marks is replaced; the prose around it stays.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..bench.results.frames import results
from ..datasets.atomic import write_atomically
from ..datasets.errors import UsageError
from .writing.render import Cell, Row, Section, Table, markdown, row

# More points below MAP than this is no trained network.
TOLERANCE = 2.0
# Of the weights, in both matrices.
REMOVED = 0.8
PLACES = {
    "confirmed": (
        ("dense_accuracy", "Dense accuracy on the test split"),
        ("accuracy", "Test accuracy with 80 % of the weights removed, without retraining"),
        ("dense_validation_accuracy", "Dense accuracy on the validation split"),
    ),
    "chosen": (
        ("dense_validation_accuracy", "Dense accuracy on the validation split, variants"),
        ("validation_accuracy", "Validation accuracy with 80 % of the weights removed, variants"),
    ),
}


def accuracies(frame: pd.DataFrame, column: str, title: str) -> Table:
    """A row for each method, a column for each architecture: per cent, and points over MAP with equal seeds.

    Differences are means over the seeds that both have; bold are those of more than `TOLERANCE` points below MAP.
    Raises UsageError for records without MAP.
    """
    rows = frame[(frame["status"] == "done") & (frame["sparsity_target"] == REMOVED)]
    found = rows.pivot_table(index=["method", "seed"], columns="architecture", values=column, sort=False) * 100
    reference = next(iter(rows[rows["inference"].str.startswith("MAP(")]["method"]), None)
    if reference is None:
        raise UsageError("the records have no finished cell of MAP: run the whole matrix")
    against = found.loc[reference]
    methods = [reference, *(m for m in dict.fromkeys(rows["method"]) if m != reference)]
    lines = tuple(_line(str(m), found.loc[m], None if m == reference else against) for m in methods)
    seeds = ", ".join(f"{a} {_span(found[a].notna())}" for a in found.columns)
    notes = (
        f"Per cent, means over seeds ({seeds}); in parentheses points over MAP (first row), seed by seed, with the "
        f"standard deviation of the differences. Bold: more than {TOLERANCE:g} points below MAP.",
    )
    return Table(title.lower(), title, ("method", *map(str, found.columns)), (Section("", lines),), notes)


def _line(method: str, own: pd.DataFrame, against: pd.DataFrame | None) -> Row:
    return row(method, *(_entry(own[a], None if against is None else against[a]) for a in own.columns))


def _span(known: pd.Series) -> str:
    """How many seeds methods have, from the fewest to the most, of those that have any."""
    counts = known.groupby("method").sum()
    fewest, most = int(counts[counts > 0].min()), int(counts.max())
    return f"{most}" if fewest == most else f"{fewest} to {most}"


def _entry(own: pd.Series, against: pd.Series | None) -> Cell:
    if own.notna().sum() == 0:
        return Cell("–")
    gains = pd.Series(dtype=float) if against is None else (own - against).dropna()
    if gains.empty:
        return Cell(f"{own.mean():.1f}")
    spread = f" ± {gains.std():.1f}" if len(gains) > 1 else ""
    return Cell(f"{own.mean():.1f} ({gains.mean():+.1f}{spread})".replace("-", "−"), gains.mean() < -TOLERANCE)


def filled(text: str, place: str, tables: Sequence[Table]) -> str:
    """The text with the tables between the marks of a place; raises UsageError for a text without them."""
    begin, end = f"<!-- {place} -->", f"<!-- end of {place} -->"
    inside = "\n".join([begin, "", *(markdown(t).replace("## ", "### ", 1) for t in tables), end])
    new, count = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: inside, text, flags=re.DOTALL)
    if not count:
        raise UsageError(f"the file has no place for the tables: write {begin} and {end} into it")
    return new


def main(file: str, *folders: str) -> None:
    """Fill the places of `file` from results folders, in the order of `PLACES`."""
    path = Path(file)
    text = path.read_text(encoding="utf-8")
    for (place, wanted), folder in zip(PLACES.items(), folders, strict=False):
        frame = results(folder)
        text = filled(text, place, [accuracies(frame, *what) for what in wanted])
    write_atomically(path, text.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
