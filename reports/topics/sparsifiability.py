"""Does training by the evidence help pruning: criteria with and without it, and whether more evidence prunes better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..drawing import panels as layout
from ..drawing.axes import banded
from ..drawing.panels import styled
from ..drawing.style import Style
from ..drawing.training_styles import MARKERS, criterion_title, training_styles
from ..records import statistics as st
from ..records.frame import MAP, Panel, Records, by_seed, halvings, panel_metric, pruned, scopes
from ..records.metrics import Metric
from ..records.trainings import criterion_results
from ..writing.sentences import band_text, per_point

_DOTS = (0, (1, 1.5))
_MAP_STYLE = Style("#444444", "o", (0, (4, 1.5)))


# ---------------------------------------------------------------- with and without


def pair_panels(records: Records) -> list[Panel]:
    """Criteria that pruned both a MAP network and one trained by an evidence."""
    rows = criterion_results(records)
    candidates = scopes(rows[rows["learned"].notna()], "criterion", "evidence")
    return [panel for panel in candidates if _both(_measured(rows, panel, panel_metric(rows, panel)))]


def _measured(rows: pd.DataFrame, panel: Panel, metric: Metric) -> pd.DataFrame:
    """The networks of a panel, and those that its criterion pruned after MAP training."""
    own = replace(panel, evidence="").rows(rows)
    own = own[(own["evidence"] == panel.evidence) | own["learned"].isna()]
    return own[own[metric.name].notna() & own["sparsity"].notna()]


def _both(rows: pd.DataFrame) -> bool:
    return 0 < rows["learned"].notna().sum() < len(rows)


@styled
def sparsifiability(records: Records, only: Sequence[Panel] | None = None) -> Figure:
    """The primary metric against sparsity: solid after training by the evidence, dashed after MAP training."""
    there = pair_panels(records) if only is None else list(only)
    rows = criterion_results(records)
    parts = [_lines(_measured(rows, panel, panel_metric(rows, panel))) for panel in there]
    look = _line_styles(rows, parts)
    figure, axes = layout.grid(len(there), _pair_legend(look))
    for axis, panel, lines in zip(axes, there, parts, strict=True):
        _pair_panel(axis, lines, panel_metric(rows, panel), look)
        criterion_title(axis, records, panel)
    return figure


def _lines(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each line by its name: the training, and of the method as little as tells the lines apart."""
    labels = sorted(set(zip(rows["training"], rows["variant"], rows["label"], strict=True)))
    levels = [
        [", ".join(filter(None, (training, detail))) for detail in ("", variant, _options(label), label)]
        for training, variant, label in labels
    ]
    unique = [next(name for i, name in enumerate(own) if _once(name, levels, i)) for own in levels]
    return {name: rows[rows["label"] == label] for name, (*_, label) in zip(unique, labels, strict=True)}


def _once(name: str, levels: Sequence[Sequence[str]], level: int) -> bool:
    return [own[level] for own in levels].count(name) == 1


def _options(label: str) -> str:
    """`tuned=True` of `opd(tuned=True)`; empty where there are none."""
    return label.partition("(")[2].removesuffix(")")


def _line_styles(rows: pd.DataFrame, parts: Sequence[Mapping[str, pd.DataFrame]]) -> dict[str, Style]:
    """Solid lines in the colours of the priors, MAP grey and dashed; no two of one colour have the same marker."""
    learned = {name: replace(style, line="-") for name, style in training_styles(rows).items()}
    known = {MAP: _MAP_STYLE, **learned}
    training = {name: str(own["training"].iloc[0]) for lines in parts for name, own in lines.items()}
    table: dict[str, Style] = {}
    for name in sorted(training, key=lambda name: (list(known).index(training[name]), name)):
        style = known[training[name]]
        taken = {other.marker for other in table.values() if other.color == style.color}
        free = [marker for marker in (style.marker, *MARKERS) if marker not in taken]
        table[name] = replace(style, marker=(free or [style.marker])[0])
    return table


def _pair_legend(look: Mapping[str, Style]) -> list[Line2D]:
    own = Line2D([], [], color="#777777", linestyle=_DOTS, linewidth=1.0, label="dotted: unpruned")
    names = layout.told_apart(list(look), 48)
    return [*(layout.handle(name, style) for name, style in zip(names, look.values(), strict=True)), own]


def _pair_panel(axis: Axes, lines: Mapping[str, pd.DataFrame], metric: Metric, look: Mapping[str, Style]) -> None:
    rng = st.generator()
    for name, style in look.items():
        if name in lines:
            _line(axis, lines[name], metric, style, rng)
    rows = pd.concat(list(lines.values()))
    layout.sparsity_axis(axis, sorted(set(rows["target"])))
    axis.set_ylabel(metric.label)
    if metric.logarithmic:
        layout.log_if_wide(axis, list(rows[metric.name]))


def _line(axis: Axes, rows: pd.DataFrame, metric: Metric, style: Style, rng: np.random.Generator) -> None:
    """Mean and band over seeds; dotted and level: the unpruned network of the same training."""
    x = halvings(by_seed(rows, "sparsity").mean().to_numpy(float))
    banded(axis, x, st.mean_band(metric.scale * by_seed(rows, metric.name).to_numpy(float), rng), style)
    dense = metric.scale * rows.groupby("seed")[metric.dense_column].mean().mean()
    if math.isfinite(dense):
        axis.axhline(dense, color=style.color, linestyle=_DOTS, linewidth=0.9, zorder=1.5)


# ---------------------------------------------------------------- does more evidence prune better


def sparsifiability_caption(records: Records) -> str:
    """Caption of pruning after training by the evidence and after MAP training."""
    rows = pruned(records)
    rows = rows[(rows["criterion"] != "") & rows["target"].notna()]
    return (
        "The same criterion on networks trained by the evidence (solid, one colour per prior structure) and by MAP "
        f"(dashed); {band_text(rows)}, {per_point(rows)}. Dotted and level: the unpruned network of the same training. "
        "Each approximation of the evidence has panels of its own, with the same MAP networks. A criterion without a "
        "partner in the other training is not shown."
    )
