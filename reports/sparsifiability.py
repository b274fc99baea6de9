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
from scipy import stats

from . import layout
from . import statistics as st
from .evidence import EVIDENCE, MARKERS, training_styles, used
from .fits import FIT, call, trainings
from .frame import MAP, Panel, by_seed, halvings, panel_metric, percent, prepare, pruned, reference_sparsity
from .layout import styled
from .metrics import Metric
from .style import Style, shortened

WANTED = 0.9
FEWEST_FITS, FEWEST_PRIORS = 4, 2
_DOTS = (0, (1, 1.5))
_MAP_STYLE = Style("#444444", "o", (0, (4, 1.5)))


def _results(frame: pd.DataFrame) -> pd.DataFrame:
    """Networks pruned to a target sparsity after training by MAP or by the evidence, without shuffled controls.

    Added: `variant`, how the same criterion is applied in several ways: the method where several have it, and
    its options beyond those of the training.
    """
    rows = trainings(pruned(frame))
    rows = rows[(rows["criterion"] != "") & (rows["training"] != "") & rows["target"].notna()]
    rows = rows[~rows["method"].str.startswith("random(")]
    names = rows["method"].map(lambda text: call(str(text))[0])
    several = names.groupby([rows["criterion"], rows["learned"].notna()]).transform("nunique") > 1
    variants = [
        ", ".join([*([name] if many else []), *_own_options(method, inference)])
        for name, many, method, inference in zip(names, several, rows["method"], rows["inference"], strict=True)
    ]
    return rows.assign(variant=variants)


def _own_options(method: str, inference: str) -> list[str]:
    """A method's options that its inference does not take."""
    taken = call(inference)[1]
    return [f"{name}={value}" for name, value in call(method)[1].items() if name not in taken]


def _scopes(rows: pd.DataFrame, *columns: str) -> list[Panel]:
    """Single weights first, then by name."""
    every = ["dataset", "architecture", "units", *columns]
    found = {Panel(**dict(zip(every, key, strict=True))) for key in rows[every].itertuples(index=False, name=None)}
    return sorted(found, key=lambda panel: (panel.units != "weights", panel))


def _title(axis: Axes, frame: pd.DataFrame, panel: Panel) -> None:
    detail = " · ".join(filter(None, (panel.criterion, panel.evidence)))
    axis.set_title(f"{shortened(panel.name(frame), 38)}\n{shortened(detail, 38)}")


# ---------------------------------------------------------------- with and without


def pair_panels(frame: pd.DataFrame) -> list[Panel]:
    """Criteria that pruned both a MAP network and one trained by an evidence; expects a prepared frame."""
    rows = _results(frame)
    scopes = _scopes(rows[rows["learned"].notna()], "criterion", "evidence")
    return [panel for panel in scopes if _both(_measured(rows, panel, panel_metric(rows, panel)))]


def _measured(rows: pd.DataFrame, panel: Panel, metric: Metric) -> pd.DataFrame:
    """The networks of a panel, and those that its criterion pruned after MAP training."""
    own = replace(panel, evidence="").rows(rows)
    own = own[(own["evidence"] == panel.evidence) | own["learned"].isna()]
    return own[own[metric.name].notna() & own["sparsity"].notna()]


def _both(rows: pd.DataFrame) -> bool:
    return 0 < rows["learned"].notna().sum() < len(rows)


@styled
def sparsifiability(frame: pd.DataFrame, only: Sequence[Panel] | None = None) -> Figure:
    """The primary metric against sparsity: solid after training by the evidence, dashed after MAP training."""
    frame = prepare(frame)
    there = pair_panels(frame) if only is None else list(only)
    rows = _results(frame)
    parts = [_lines(_measured(rows, panel, panel_metric(rows, panel))) for panel in there]
    look = _line_styles(rows, parts)
    figure, axes = layout.grid(len(there), _pair_legend(look))
    for axis, panel, lines in zip(axes, there, parts, strict=True):
        _pair_panel(axis, lines, panel_metric(rows, panel), look)
        _title(axis, frame, panel)
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
    mean, low, high = st.mean_band(metric.scale * by_seed(rows, metric.name).to_numpy(float), rng)
    axis.plot(x, mean, color=style.color, marker=style.marker, linestyle=style.line)
    axis.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0)
    dense = metric.scale * rows.groupby("seed")[metric.dense_column].mean().mean()
    if math.isfinite(dense):
        axis.axhline(dense, color=style.color, linestyle=_DOTS, linewidth=0.9, zorder=1.5)


# ---------------------------------------------------------------- does more evidence prune better


def _evidences(frame: pd.DataFrame) -> pd.DataFrame:
    """The results with an evidence, every way of applying a criterion as a criterion of its own."""
    rows = _results(frame)
    rows = rows[rows["learned"].notna()]
    names = [", ".join(filter(None, pair)) for pair in zip(rows["criterion"], rows["variant"], strict=True)]
    return rows.assign(criterion=names)


def relation_panels(frame: pd.DataFrame) -> list[Panel]:
    """Criteria with enough fits, under one approximation of the evidence, to relate it to a metric."""
    rows = _evidences(frame)
    scopes = _scopes(rows, "criterion", "evidence")
    return [panel for panel in scopes if _enough(_points(rows, panel))]


def _enough(points: pd.DataFrame) -> bool:
    return len(points) >= FEWEST_FITS and points["prior"].nunique() >= FEWEST_PRIORS


def _points(rows: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """One row per fit: its log evidence and the metric at the sparsity nearest to 90 %."""
    metric, own = panel_metric(rows, panel), panel.rows(rows)
    own = own[own[metric.name].notna() & own["log_evidence"].notna()]
    own = own[np.isclose(own["target"].to_numpy(float), reference_sparsity(own, WANTED), rtol=0, atol=1e-9)]
    return own.groupby([*FIT, "prior", "training"], as_index=False)[["log_evidence", metric.name]].mean()


@styled
def relation(frame: pd.DataFrame, only: Sequence[Panel] | None = None) -> Figure:
    """The primary metric near 90 % pruned against the final log evidence, a point per fit, with Spearman's ρ."""
    frame = prepare(frame)
    there = relation_panels(frame) if only is None else list(only)
    rows = _evidences(frame)
    look = training_styles(rows)
    points = [_points(rows, panel) for panel in there]
    shown = used(look, points)
    figure, axes = layout.grid(len(there), layout.handles(shown, line=False))
    for axis, panel, own in zip(axes, there, points, strict=True):
        at = reference_sparsity(panel.rows(rows), WANTED)
        _relation_panel(axis, own, panel_metric(rows, panel), at, shown)
        _title(axis, frame, panel)
    return figure


def _relation_panel(axis: Axes, points: pd.DataFrame, metric: Metric, at: float, look: Mapping[str, Style]) -> None:
    for name, style in look.items():
        own = points[points["training"] == name]
        axis.plot(
            own["log_evidence"],
            metric.scale * own[metric.name],
            color=style.color,
            marker=style.marker,
            linestyle="none",
            alpha=0.85,
        )
    axis.margins(0.08, 0.08)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.14 * (high - low))  # room for the text
    axis.set_xlabel(EVIDENCE.label)
    axis.set_ylabel(f"{metric.label}\nat {percent(at)} pruned")
    text = rho_text(points["log_evidence"].to_numpy(float), points[metric.name].to_numpy(float))
    axis.annotate(text, (0.02, 0.98), xycoords="axes fraction", va="top", fontsize=7.5)


def rho_text(x: np.ndarray, y: np.ndarray) -> str:
    """`ρ = 0.83, n = 12`; a dash for ρ where one side does not vary."""
    varies = len(set(x)) > 1 and len(set(y)) > 1
    rho = f"{np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1]:.2f}".replace("-", "−") if varies else "–"
    return f"ρ = {rho}, n = {len(x)} fits"
