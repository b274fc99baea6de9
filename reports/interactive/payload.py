"""All that the page holds for its scripts, as one JSON text that can end no element of HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...bench.results.scores import Scores
from ..drawing.panels import Drawing
from ..records import statistics as st
from ..records.division import Part
from ..records.frame import DENSE, pruned
from ..records.metrics import METRICS, PRIMARY
from ..records.ranking import BASELINE
from .blocks import cubes, sums
from .columns import columns, in_order
from .looks import looks

METRIC_CHOICES = tuple(PRIMARY) + tuple(name for name in METRICS if name not in PRIMARY)


def payload(part: Part, scores: Mapping[str, Scores], drawings: Sequence[Drawing]) -> str:
    """The records of one budget and what their ranks are computed from; empty where no pruned network has a value."""
    done = pruned(part.records)
    metrics = [_metric(name) for name in METRIC_CHOICES if done[name].notna().any()]
    if not metrics:
        return ""
    records = in_order(part.records)
    ranked = part.ranked
    labels = sorted(set(records.loc[records["method"] != DENSE, "label"]))
    content = {
        "records": columns(records),
        "cubes": cubes(ranked),
        "sums": sums(ranked, scores),
        "labels": labels,
        "looks": looks(labels),
        "metrics": metrics,
        "baseline": BASELINE,
        "draws": _draws(),
        "critical": [st.nemenyi_q(count) if count > 2 else 0.0 for count in range(len(labels) + 1)],
        "figures": [{"name": one.name, "title": one.title} for one in drawings],
        "budget": part.budget.note,
    }
    return safe(content)


def _metric(name: str) -> dict[str, Any]:
    metric = METRICS[name]
    return {
        "name": name, "label": metric.label, "scale": metric.scale, "digits": metric.digits,
        "higher": metric.higher_is_better, "logarithmic": metric.logarithmic,
    }  # fmt: skip


def _draws() -> dict[str, Any]:
    """Where the generator of the bootstraps begins (PCG64), as hexadecimal digits, and how often it resamples."""
    bits: Any = np.random.PCG64(st.SEED)
    state = bits.state["state"]
    return {"state": f"{state['state']:032x}", "increment": f"{state['inc']:032x}", "count": st.DRAWS}


_LIVE = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&"})  # the rest is ASCII already


def safe(content: Any) -> str:
    """JSON in which every character that HTML or JavaScript could read as more than text is escaped."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.translate(_LIVE)
