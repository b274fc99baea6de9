"""The figures of a report, in its order, with captions: each is a pure function of the frame of records."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.figure import Figure

from . import captions, layout
from .curves import curves
from .evidence import precision_panels, precisions, rise, rise_panels
from .frame import Panel, labels, panels, percent, prepare, reference_sparsity
from .heatmap import densities, density_panels
from .inclusion import caption as inclusion_caption
from .inclusion import inclusion, inclusion_panels
from .layout import Drawing
from .metrics import METRICS, Metric
from .points import calibration, calibration_panels, cost, cost_panels, ranks, shift, shift_panels
from .ranking import Ranking, rankings
from .recurrent import account_panels, gates, kept
from .reduction import caption as reduction_caption
from .reduction import reduction, reduction_panels
from .sparsifiability import pair_panels, relation, relation_panels, sparsifiability
from .structure import latency, latency_panels, structure, structure_panels
from .style import styles

__all__ = [
    "calibration",
    "cost",
    "curves",
    "densities",
    "drawings",
    "inclusion",
    "latency",
    "precisions",
    "ranks",
    "reduction",
    "relation",
    "rise",
    "shift",
    "sparsifiability",
    "structure",
]

CURVES = ("bpc", "accuracy", "rmse", "nll", "ece", "ood_auroc")
WIDE_PER_PAGE = 4  # panels that take a whole row


def drawings(frame: pd.DataFrame) -> list[Drawing]:
    """Every figure that the frame has numbers for, panels split over pages, in the order of the report."""
    frame = prepare(frame)
    at = reference_sparsity(frame)
    found = [drawing for metric in CURVES for drawing in _against_sparsity(frame, METRICS[metric])]
    found += [_average_ranks(frame, ranking) for ranking in rankings(frame) if len(ranking.standings) > 1]
    found += _at(frame, at) if math.isfinite(at) else []
    return found + removed(frame) + learned(frame) + decided(frame) + recurrent(frame) + included(frame)


def _against_sparsity(frame: pd.DataFrame, metric: Metric) -> list[Drawing]:
    name = f"{metric.name.replace('_', '-')}-sparsity"
    title = f"{metric.label[0].upper()}{metric.label[1:]} against sparsity"
    there = panels(frame, metric.name)
    return _paged(name, title, captions.curves(frame, metric), there, lambda page: curves(frame, metric.name, page))


def _average_ranks(frame: pd.DataFrame, ranking: Ranking) -> Drawing:
    several = frame["units"].nunique() > 1
    name = f"ranks-{ranking.units}" if several else "ranks"
    title = f"Average ranks, units: {ranking.units}" if several else "Average ranks"
    return Drawing(name, title, captions.ranks(ranking), ranks(ranking, styles(labels(frame))))


def _at(frame: pd.DataFrame, at: float) -> list[Drawing]:
    """The figures at one target sparsity."""
    kinds = [
        ("cost", "Quality against cost", captions.cost, cost_panels, cost),
        ("density", "What is kept in each layer", captions.density, density_panels, densities),
        ("calibration", "Calibration before and after temperature scaling", captions.calibration, calibration_panels,
         calibration),
        ("shift", "Accuracy under shift", captions.shift, shift_panels, shift),
    ]  # fmt: skip
    return [
        drawing
        for name, title, caption, there, draw in kinds
        for drawing in _paged(
            name,
            f"{title} at {percent(at)} pruned",
            caption(frame, at),
            there(frame, at),
            functools.partial(draw, frame, at),
            WIDE_PER_PAGE if name == "density" else layout.PER_PAGE,
        )
    ]


def learned(frame: pd.DataFrame) -> list[Drawing]:
    """The figures of methods that learn a prior by the evidence, none without such; expects a prepared frame."""
    kinds = [
        ("evidence-pruning", "Pruning after training by the evidence and after MAP training", captions.sparsifiability,
         pair_panels, sparsifiability, layout.PER_PAGE),
        ("evidence-training", "Evidence and effective parameters during training", captions.rise, rise_panels, rise,
         WIDE_PER_PAGE),
        ("evidence-priors", "What the evidence learned: prior precisions in each layer", captions.precisions,
         precision_panels, precisions, WIDE_PER_PAGE),
        ("evidence-relation", "Does more evidence mean better pruning?", captions.relation, relation_panels, relation,
         layout.PER_PAGE),
    ]  # fmt: skip
    return _drawn(frame, kinds)


def recurrent(frame: pd.DataFrame) -> list[Drawing]:
    """The figures of gated recurrent networks, none without such; expects a prepared frame."""
    return _drawn(frame, [
        ("recurrent-gates", "Gates of an LSTM that are not constant", captions.gates, account_panels, gates,
         layout.PER_PAGE),
        ("recurrent-kept", "Words, inputs and neurons of an LSTM that stay", captions.kept, account_panels, kept,
         layout.PER_PAGE),
    ])  # fmt: skip


def decided(frame: pd.DataFrame) -> list[Drawing]:
    """The figures of Bayesian model reduction, none without such; expects a prepared frame."""
    return _drawn(frame, [
        ("reduction", "What model reduction decides", reduction_caption, reduction_panels, reduction, WIDE_PER_PAGE),
    ])  # fmt: skip


def included(frame: pd.DataFrame) -> list[Drawing]:
    """The figures of inclusion probabilities, none without such; expects a prepared frame."""
    return _drawn(frame, [
        ("inclusion", "Inclusion probabilities of the input features", inclusion_caption, inclusion_panels, inclusion,
         WIDE_PER_PAGE),
    ])  # fmt: skip


def removed(frame: pd.DataFrame) -> list[Drawing]:
    """The figures of structured pruning, none without measured compact networks; expects a prepared frame."""
    return _drawn(frame, [
        ("structure", "Quality against operations and parameters removed", captions.structure, structure_panels,
         structure, WIDE_PER_PAGE),
        ("latency", "Measured speed-up of compact networks", captions.latency, latency_panels, latency,
         layout.PER_PAGE),
    ])  # fmt: skip


def _drawn(frame: pd.DataFrame, kinds: Sequence[tuple]) -> list[Drawing]:
    """The drawings of each (name, title, caption, panels, figure, panels per page)."""
    return [
        drawing
        for name, title, caption, there, draw, size in kinds
        for drawing in _paged(name, title, caption(frame), there(frame), functools.partial(draw, frame), size)
    ]


def _paged(
    name: str,
    title: str,
    caption: str,
    there: Sequence[Panel],
    draw: Callable[[list[Panel]], Figure],
    size: int = layout.PER_PAGE,
) -> list[Drawing]:
    """One drawing, or several numbered ones of `size` panels at most; none without panels."""
    pages = layout.pages(there, size)
    if len(pages) == 1:
        return [Drawing(name, title, caption, draw(pages[0]))]
    return [
        Drawing(f"{name}-{i}", f"{title} ({i} of {len(pages)})", caption, draw(page)) for i, page in enumerate(pages, 1)
    ]
