"""Whether more evidence meant better pruned networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from ..drawing import panels as layout
from ..drawing.panels import styled
from ..drawing.style import Style
from ..drawing.training_styles import EVIDENCE, criterion_title, training_styles, used
from ..records.frame import Panel, Records, panel_metric, percent, reference_sparsity, scopes
from ..records.metrics import Metric
from ..records.trainings import FEWEST_FITS, FEWEST_PRIORS, FIT, criterion_results


def relation_caption(records: Records) -> str:
    """Caption of the metric against the final evidence."""
    return (
        "Final log evidence of the unpruned network against the metric after pruning, a point per fit (prior structure "
        "× seed); ρ: Spearman's rank correlation over the points of a panel (where less is better, as with RMSE, a "
        "negative one means that evidence and quality agree). Evidences of different approximations of the curvature "
        "do not compare and stand in panels of their own; fewer than four fits or two prior structures have none. "
        "Seeds of one prior structure are alike, so that ρ has fewer independent points than n: no p value is given."
    )


WANTED = 0.9


def _evidences(records: Records) -> pd.DataFrame:
    """The results with an evidence, every way of applying a criterion as a criterion of its own."""
    rows = criterion_results(records)
    rows = rows[rows["learned"].notna()]
    names = [", ".join(filter(None, pair)) for pair in zip(rows["criterion"], rows["variant"], strict=True)]
    return rows.assign(criterion=names)


def relation_panels(records: Records) -> list[Panel]:
    """Criteria with enough fits, under one approximation of the evidence, to relate it to a metric."""
    rows = _evidences(records)
    candidates = scopes(rows, "criterion", "evidence")
    return [panel for panel in candidates if _enough(_points(rows, panel))]


def _enough(points: pd.DataFrame) -> bool:
    return len(points) >= FEWEST_FITS and points["prior"].nunique() >= FEWEST_PRIORS


def _points(rows: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """One row per fit: its log evidence and the metric at the sparsity nearest to 90 %."""
    metric, own = panel_metric(rows, panel), panel.rows(rows)
    own = own[own[metric.name].notna() & own["log_evidence"].notna()]
    own = own[np.isclose(own["target"].to_numpy(float), reference_sparsity(own, WANTED), rtol=0, atol=1e-9)]
    return own.groupby([*FIT, "prior", "training"], as_index=False)[["log_evidence", metric.name]].mean()


@styled
def relation(records: Records, only: Sequence[Panel] | None = None) -> Figure:
    """The primary metric near 90 % pruned against the final log evidence, a point per fit, with Spearman's ρ."""
    there = relation_panels(records) if only is None else list(only)
    rows = _evidences(records)
    look = training_styles(rows)
    points = [_points(rows, panel) for panel in there]
    shown = used(look, points)
    figure, axes = layout.grid(len(there), layout.handles(shown, line=False))
    for axis, panel, own in zip(axes, there, points, strict=True):
        at = reference_sparsity(panel.rows(rows), WANTED)
        _relation_panel(axis, own, panel_metric(rows, panel), at, shown)
        criterion_title(axis, records, panel)
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
