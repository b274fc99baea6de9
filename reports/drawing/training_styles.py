"""How trainings by the evidence are drawn: a colour for each prior structure."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from ..records.frame import Panel, Records
from ..records.metrics import Metric
from ..records.trainings import fits
from .style import Style, shortened

PRIORS = {"scalar": "#E69F00", "layerwise": "#56B4E9", "unitwise": "#009E73", "parameterwise": "#D55E00"}
"""The colour of each prior structure, coarse to fine."""

_OTHERS = ("#CC79A7", "#332288", "#8C510A", "#44AA99")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
EVIDENCE = Metric("log_evidence", "log evidence (nats)", True, digits=1)


def training_styles(rows: pd.DataFrame) -> dict[str, Style]:
    """A style for each training with an evidence, coarse priors first: the colour is the prior structure's."""
    learned = rows[rows["learned"].notna()]
    pairs = sorted(set(zip(learned["prior"], learned["training"], strict=True)), key=_coarse_first)
    unknown = [prior for prior in dict.fromkeys(prior for prior, _ in pairs) if prior not in PRIORS]
    colors = PRIORS | {prior: _OTHERS[i % len(_OTHERS)] for i, prior in enumerate(unknown)}
    known = list(colors)
    table, used = {}, dict.fromkeys(colors, 0)
    for prior, name in pairs:
        nth, used[prior] = used[prior], used[prior] + 1
        marker = MARKERS[(known.index(prior) + 3 * nth) % len(MARKERS)]
        table[name] = Style(colors[prior], marker, _DASHES[nth % len(_DASHES)])
    return table


def _coarse_first(pair: tuple[str, str]) -> tuple[int, str, str]:
    prior, name = pair
    return (list(PRIORS).index(prior) if prior in PRIORS else len(PRIORS)), prior, name


def fit_panels(records: Records) -> list[Panel]:
    """One panel for each data set and architecture with an evidence."""
    rows = fits(records)
    return sorted({Panel(d, a, "") for d, a in zip(rows["dataset"], rows["architecture"], strict=True)})


def used(look: dict[str, Style], parts: Sequence[pd.DataFrame]) -> dict[str, Style]:
    """The styles of the trainings that occur in any of the tables."""
    names = {name for part in parts for name in part["training"]}
    return {name: style for name, style in look.items() if name in names}


def criterion_title(axis: Axes, records: Records, panel: Panel) -> None:
    """The panel's name above its axes, with the criterion and the evidence on a line of their own."""
    detail = " · ".join(filter(None, (panel.criterion, panel.evidence)))
    axis.set_title(f"{shortened(panel.name(records), 38)}\n{shortened(detail, 38)}")
