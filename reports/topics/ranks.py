"""Figures at one sparsity: quality against cost, calibration, accuracy under shift; and average ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..drawing import panels as layout
from ..drawing.panels import styled
from ..drawing.style import Style, styles
from ..records import statistics as st
from ..records.frame import (
    Records,
    percent,
    seeds_text,
)
from ..records.metrics import LESS_IS_BETTER, QUALITY
from ..records.ranking import BASELINE, Ranking, Standing
from ..writing.numbers import capital, interval_text, p_text
from ..writing.render import Row, Section, Table, row
from ..writing.sentences import no_difference


@styled
def ranks(ranking: Ranking, look: Mapping[str, Style] | None = None) -> Figure:
    """Average ranks with their intervals, and the critical difference as a shaded band behind the best method."""
    look = styles(s.label for s in ranking.standings) if look is None else look
    figure = Figure(figsize=(layout.NARROWEST, 0.85 + 0.22 * len(ranking.standings)))
    axis = figure.subplots()
    for place, standing in enumerate(ranking.standings):
        rank, style = standing.rank, look[standing.label]
        axis.plot([rank.low, rank.high], [place, place], color=style.color, linewidth=1.6)
        axis.plot([rank.value], [place], color=style.color, marker=style.marker, markersize=6, linestyle="none")
    best, distance = ranking.standings[0].rank.value, ranking.comparison.critical_difference
    if math.isfinite(distance):
        axis.axvspan(best, best + distance, color="#999999", alpha=0.15, linewidth=0)
    axis.set_yticks(range(len(ranking.standings)), layout.told_apart([s.label for s in ranking.standings], 40))
    axis.set_ylim(len(ranking.standings) - 0.4, -0.6)
    axis.set_xlim(0.7, len(ranking.standings) + 0.3)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(
        "average rank (1 is best)"
        + ("; shaded: within the critical difference of the best" if math.isfinite(distance) else "")
    )
    return figure


def ranking_table(found: Ranking, records: Records) -> Table:
    """Methods by average rank, with the area under their curve relative to dense, and P(better than magnitude)."""
    suffix = f"-{found.units}" if records["units"].nunique() > 1 else ""
    title = "Ranking" + (f", units: {found.units}" if suffix else "")
    columns = ("method", "mean rank", "area relative to dense (%)", "IQM (%)", f"P(better than {BASELINE})")
    notes = (
        _ranking_note(found),
        *_test_note(found),
        *filter(None, (found.left_out_text,)),
        *st.few_seeds(min(found.seeds)),
        *found.comparison.warnings,
        *found.notes,
    )
    return Table(f"ranking{suffix}", title, columns, (Section("", tuple(map(_standing, found.standings))),), notes)


def _standing(standing: Standing) -> Row:
    better = interval_text(standing.improvement, 1, 2) if standing.improvement else "–"
    return row(
        standing.label,
        interval_text(standing.rank, 1, 2),
        interval_text(standing.area, 100, 1),
        interval_text(standing.iqm, 100, 1),
        better,
    )


def _ranking_note(found: Ranking) -> str:
    blocks = found.comparison.blocks
    levels = ", ".join(map(percent, found.sparsities))
    brackets = "Brackets: 95 % bootstrap intervals over seeds, the blocks held fixed. " if min(found.seeds) > 1 else ""
    return (
        f"Over {blocks} block{'s' * (blocks != 1)} of data set × architecture, {seeds_text(found.seeds)} in each, "
        f"averaged inside a block; sparsities: {levels}. {brackets}"
        "Area: average over these sparsities, on the scale of log compression, of accuracy / dense accuracy "
        f"({LESS_IS_BETTER}). IQM: interquartile mean of it over all seeds and blocks. "
        f"P: how often the relative area of one seed is larger than that of one seed of {BASELINE}, averaged over "
        "blocks."
    )


def _test_note(found: Ranking) -> list[str]:
    c, notes = found.comparison, []
    if math.isfinite(c.p_value):
        first = min(s.label for s in found.standings)
        wins = f"{first} is better in {c.statistic:.0f} of {c.blocks}"
        what = f"chi-squared {c.statistic:.2f}" if len(c.ranks) > 2 else wins
        notes.append(f"{capital(c.test)} over blocks: {what}, {p_text(c.p_value)}.")
    if math.isfinite(c.critical_difference):
        notes.append(
            f"Nemenyi critical difference (5 %): {c.critical_difference:.2f} ranks; methods closer than that cannot be "
            "told apart."
        )
    return notes


RANKED = f"area under the curve of {QUALITY} against sparsity"


def ranks_caption(ranking: Ranking) -> str:
    """Caption of average ranks."""
    c = ranking.comparison
    bar = "bar: 95 % bootstrap interval over seeds, " if min(ranking.seeds) > 1 else ""
    apart = (
        f"Methods closer than the critical difference (Nemenyi, 5 %: {c.critical_difference:.2f} ranks) "
        "cannot be told apart."
    )
    parts = [
        f"Average rank (1 is best) of the {RANKED} over {c.blocks} block{'s' * (c.blocks != 1)} of data set × "
        f"architecture; {bar}{seeds_text(ranking.seeds)}, blocks held fixed.",
        apart if math.isfinite(c.critical_difference) else "",
        "" if c.significant else no_difference(c),
        *c.warnings,
    ]
    return " ".join(filter(None, parts))
