"""The figures of a report, in its order, with captions: each is a pure function of the records."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from .drawing import panels as layout
from .drawing.panels import Drawing
from .drawing.style import styles
from .records.division import Part
from .records.frame import Panel, Records, labels, panels, percent, reference_sparsity
from .records.metrics import METRICS, Metric
from .records.ranking import Ranking
from .topics.budgets import sensitivities, sensitivity, sensitivity_caption
from .topics.calibration import calibration, calibration_caption, calibration_panels
from .topics.cost import cost, cost_caption, cost_panels
from .topics.curves import curves, curves_caption
from .topics.densities import densities, density_caption, density_panels
from .topics.evidence import rise, rise_caption, rise_panels
from .topics.evidence_relation import relation, relation_caption, relation_panels
from .topics.inclusion import inclusion, inclusion_caption, inclusion_panels
from .topics.prior_precisions import precision_panels, precisions, precisions_caption
from .topics.ranks import ranks, ranks_caption
from .topics.recurrent import account_panels, gates, gates_caption, kept, kept_caption
from .topics.reduction import reduction, reduction_caption, reduction_panels
from .topics.savings_figures import (
    latency,
    latency_caption,
    latency_panels,
    structure,
    structure_caption,
    structure_panels,
)
from .topics.shift import shift, shift_caption, shift_panels
from .topics.sparsifiability import pair_panels, sparsifiability, sparsifiability_caption

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

CURVES = ("bpc", "accuracy", "average_precision", "rmse", "nll", "ece", "ood_auroc")
CURVES_PER_PAGE = 4
WIDE_PER_PAGE = 4  # panels that take a whole row


def drawings_of(records: Records, part: Part, ranked: Sequence[Ranking]) -> list[Drawing]:
    """Every figure of a report: those of the headline's budget, which each names, and the curve over budgets."""
    curves = sensitivities(records)
    found = [
        replace(one, caption=f"{part.budget.note} {one.caption}".strip()) for one in drawings(part.records, ranked)
    ]
    pages = [curves[i : i + CURVES_PER_PAGE] for i in range(0, len(curves), CURVES_PER_PAGE)]
    title = "How the order of methods depends on the epochs of retraining"
    return found + [
        Drawing(f"sensitivity-{i}" if len(pages) > 1 else "sensitivity", title, sensitivity_caption(p), sensitivity(p))
        for i, p in enumerate(pages, 1)
    ]


def drawings(records: Records, ranked: Sequence[Ranking]) -> list[Drawing]:
    """Every figure that the records has numbers for, panels split over pages, in the order of the report."""
    at = reference_sparsity(records)
    found = [drawing for metric in CURVES for drawing in _against_sparsity(records, METRICS[metric])]
    found += [_average_ranks(records, ranking) for ranking in ranked if len(ranking.standings) > 1]
    found += _at(records, at) if math.isfinite(at) else []
    return found + removed(records) + learned(records) + decided(records) + recurrent(records) + included(records)


def _against_sparsity(records: Records, metric: Metric) -> list[Drawing]:
    name = f"{metric.name.replace('_', '-')}-sparsity"
    title = f"{metric.label[0].upper()}{metric.label[1:]} against sparsity"
    there = panels(records, metric.name)
    return _paged(name, title, curves_caption(records, metric), there, lambda page: curves(records, metric.name, page))


def _average_ranks(records: Records, ranking: Ranking) -> Drawing:
    several = records["units"].nunique() > 1
    name = f"ranks-{ranking.units}" if several else "ranks"
    title = f"Average ranks, units: {ranking.units}" if several else "Average ranks"
    return Drawing(name, title, ranks_caption(ranking), ranks(ranking, styles(labels(records))))


def _at(records: Records, at: float) -> list[Drawing]:
    """The figures at one target sparsity."""
    kinds = [
        ("cost", "Quality against cost", cost_caption, cost_panels, cost),
        ("density", "What is kept in each layer", density_caption, density_panels, densities),
        ("calibration", "Calibration before and after temperature scaling", calibration_caption, calibration_panels,
         calibration),
        ("shift", "Accuracy under shift", shift_caption, shift_panels, shift),
    ]  # fmt: skip
    return [
        drawing
        for name, title, caption, there, draw in kinds
        for drawing in _paged(
            name,
            f"{title} at {percent(at)} pruned",
            caption(records, at),
            there(records, at),
            functools.partial(draw, records, at),
            WIDE_PER_PAGE if name == "density" else layout.PER_PAGE,
        )
    ]


def learned(records: Records) -> list[Drawing]:
    """The figures of methods that learn a prior by the evidence, none without such."""
    kinds = [
        ("evidence-pruning", "Pruning after training by the evidence and after MAP training", sparsifiability_caption,
         pair_panels, sparsifiability, layout.PER_PAGE),
        ("evidence-training", "Evidence and effective parameters during training", rise_caption, rise_panels, rise,
         WIDE_PER_PAGE),
        ("evidence-priors", "What the evidence learned: prior precisions in each layer", precisions_caption,
         precision_panels, precisions, WIDE_PER_PAGE),
        ("evidence-relation", "Does more evidence mean better pruning?", relation_caption, relation_panels, relation,
         layout.PER_PAGE),
    ]  # fmt: skip
    return _drawn(records, kinds)


def recurrent(records: Records) -> list[Drawing]:
    """The figures of gated recurrent networks, none without such."""
    return _drawn(records, [
        ("recurrent-gates", "Gates of an LSTM that are not constant", gates_caption, account_panels, gates,
         layout.PER_PAGE),
        ("recurrent-kept", "Words, inputs and neurons of an LSTM that stay", kept_caption, account_panels, kept,
         layout.PER_PAGE),
    ])  # fmt: skip


def decided(records: Records) -> list[Drawing]:
    """The figures of Bayesian model reduction, none without such."""
    return _drawn(records, [
        ("reduction", "What model reduction decides", reduction_caption, reduction_panels, reduction, WIDE_PER_PAGE),
    ])  # fmt: skip


def included(records: Records) -> list[Drawing]:
    """The figures of inclusion probabilities, none without such."""
    return _drawn(records, [
        ("inclusion", "Inclusion probabilities of the input features", inclusion_caption, inclusion_panels, inclusion,
         WIDE_PER_PAGE),
    ])  # fmt: skip


def removed(records: Records) -> list[Drawing]:
    """The figures of structured pruning, none without measured compact networks."""
    return _drawn(records, [
        ("structure", "Quality against operations and parameters removed", structure_caption, structure_panels,
         structure, WIDE_PER_PAGE),
        ("latency", "Measured speed-up of compact networks", latency_caption, latency_panels, latency,
         layout.PER_PAGE),
    ])  # fmt: skip


def _drawn(records: Records, kinds: Sequence[tuple]) -> list[Drawing]:
    """The drawings of each (name, title, caption, panels, figure, panels per page)."""
    return [
        drawing
        for name, title, caption, there, draw, size in kinds
        for drawing in _paged(name, title, caption(records), there(records), functools.partial(draw, records), size)
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
