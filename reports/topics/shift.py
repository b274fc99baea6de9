"""Accuracy on corrupted test inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..drawing import panels as layout
from ..drawing.axes import banded
from ..drawing.panels import occurring, styled
from ..drawing.style import Style, styles
from ..records import statistics as st
from ..records.frame import Panel, Records, at_sparsity, labels, panels, percent, reference_sparsity
from ..writing.sentences import band_text, per_point


def shift_panels(records: Records, sparsity: float) -> list[Panel]:
    """The panels with accuracies under shift."""
    rows = at_sparsity(records, sparsity)
    return panels(rows[rows["shift"].map(lambda value: bool(severities(value)))])


@styled
def shift(records: Records, sparsity: float | None = None, only: Sequence[Panel] | None = None) -> Figure:
    """Accuracy against the severity of corruptions of the test inputs, averaged over their kinds."""
    at = reference_sparsity(records) if sparsity is None else sparsity
    there = shift_panels(records, at) if only is None else list(only)
    rows, look = at_sparsity(records, at), styles(labels(records))
    figure, axes = layout.grid(len(there), layout.handles(occurring(look, rows, there)))
    for axis, panel in zip(axes, there, strict=True):
        _shift_panel(axis, panel.rows(rows), look)
        layout.title(axis, panel, records["units"].nunique() > 1)
    return figure


def _shift_panel(axis: Axes, rows: pd.DataFrame, look: Mapping[str, Style]) -> None:
    rng = st.generator()
    for label, own in rows.groupby("label"):
        curve = pd.DataFrame([{0: a, **severities(s)} for a, s in zip(own["accuracy"], own["shift"], strict=True)])
        curve = 100 * curve.groupby(own["seed"].to_numpy()).mean().sort_index(axis=1)
        banded(axis, curve.columns.to_numpy(float), st.mean_band(curve.to_numpy(float), rng), look[str(label)])
    axis.set_xlabel("severity of the shift (0: none)")
    axis.set_ylabel("accuracy (%)")


def severities(value: object) -> dict[int, float]:
    """Mean accuracy per severity of one record's `shift`, {"noise/3": {"accuracy": ...}, ...}."""
    if not isinstance(value, Mapping):
        return {}
    found: dict[int, list[float]] = {}
    for key, result in value.items():
        severity = str(key).rpartition("/")[2]
        accuracy = result.get("accuracy") if isinstance(result, Mapping) else None
        if severity.isdigit() and isinstance(accuracy, int | float) and math.isfinite(accuracy):
            found.setdefault(int(severity), []).append(float(accuracy))
    return {severity: float(np.mean(values)) for severity, values in sorted(found.items())}


def shift_caption(records: Records, at: float) -> str:
    """Caption of accuracy under shift."""
    rows = at_sparsity(records, at)
    kinds = {str(key).partition("/")[0] for value in rows["shift"] if isinstance(value, Mapping) for key in value}
    return (
        f"Accuracy on corrupted test inputs at {percent(at)} pruned, averaged over the kinds of corruption that the "
        f"data set has ({', '.join(sorted(kinds))}); {band_text(rows)}, {per_point(rows)}. Higher is better."
    )
