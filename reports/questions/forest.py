"""The picture of effects: mean and interval, a dot for each block, and the margin within which nothing matters."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..drawing.panels import styled
from .effects import Estimate, Verdict

WIDTH, LINE = 6.6, 0.3  # inches
COLORS: dict[Verdict, str] = {"above": "#0072B2", "below": "#D55E00", "alike": "#009E73"}
UNDECIDED = "#7A7A7A"


def caption(found: Sequence[Estimate], unit: str, margin: float) -> str:
    """What is seen."""
    return (
        f"Effects in {unit}: mean over blocks with its 95 % t interval over seeds (blue: above, red: below, green: "
        f"alike, grey: undecided); small dots: blocks; shaded: ±{margin:g}, which does not matter."
    )


@styled
def forest(found: Sequence[Estimate], unit: str, margin: float) -> Figure:
    """A line for each effect, from top to bottom."""
    figure = Figure(figsize=(WIDTH, 0.7 + LINE * len(found)))
    axis = figure.subplots()
    axis.axvspan(-margin, margin, color="#eeeeee", linewidth=0)
    axis.axvline(0, color="#555555", linewidth=0.7)
    for place, one in enumerate(found):
        color = COLORS.get(one.verdict, UNDECIDED)
        values = [value for _, value in one.blocks]
        axis.plot(values, [place] * len(values), "o", color=color, markersize=3, alpha=0.45, markeredgewidth=0)
        axis.plot([one.low, one.high], [place, place], color=color, linewidth=1.6)
        axis.plot([one.value], [place], "D", color=color, markersize=5)
    axis.set_yticks(range(len(found)), [one.name for one in found])
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set_xlabel(unit)
    axis.grid(visible=False, axis="y")
    return figure
