"""What is left of gated recurrent networks: words, inputs and neurons, gates by their kind, and both compressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels as layout
from ..drawing.panels import styled
from ..drawing.style import styles
from ..records.frame import Panel, Records, done, labels, number, seeds_text
from ..records.metrics import Metric
from ..writing.numbers import finite_text
from ..writing.render import Row, Section, Table, by_label, row

GATES = ("input", "forget", "cell", "output")
KINDS = {"words": "words", "dimensions": "inputs", "neurons": "neurons"}
"""What the last word of a structure's name is called here; gates are counted by their kind."""

COMPRESSION = Metric("compression", "compression (×)", True, digits=1)
PUBLISHED = Metric("published", "without merged gates (×)", True, digits=1)
COUNT = Metric("count", "count", False, digits=0)
PER_NEURON = Metric("per neuron", "gates per neuron", False, digits=2)


def accounts(records: Records) -> pd.DataFrame:
    """One row per trained LSTM that was accounted for.

    Columns: dataset, architecture, label, seed, units (empty), `compression`, `published`; `words`, `inputs` and
    `neurons`, kept and (`... total`) there; and each kind of gate: not constant, over all layers.
    """
    rows = done(records)
    found = [
        {"dataset": r.dataset, "architecture": r.architecture, "label": r.label, "seed": r.seed, **_counts(account)}
        for r in rows.itertuples()
        if (account := _account(getattr(r, "reports", None)))
    ]
    columns = ["dataset", "architecture", "label", "seed", "compression", "published", *KINDS.values(), *GATES]
    columns += [f"{kind} total" for kind in KINDS.values()]
    table = pd.DataFrame(found, columns=pd.Index(columns)).assign(units="")
    return table.drop_duplicates(["dataset", "architecture", "label", "seed"]).reset_index(drop=True)


def _account(reports: object) -> Mapping[str, Any] | None:
    """What a method said of an LSTM before anything left it."""
    first = reports[0] if isinstance(reports, Sequence) and len(reports) else None
    return first if isinstance(first, Mapping) and "gates" in first and "alive" in first else None


def _counts(account: Mapping[str, Any]) -> dict[str, float]:
    found = {"compression": number(account["compression"]), "published": number(account["compression_published"])}
    for name, (kept, total) in account["alive"].items():
        if kind := KINDS.get(name.rpartition(" ")[2]):
            found[kind] = found.get(kind, 0) + kept
            found[f"{kind} total"] = found.get(f"{kind} total", 0) + total
    for gate in GATES:
        found[gate] = sum(layer[gate] for layer in account["gates"].values())
    return found


def account_panels(records: Records) -> list[Panel]:
    """One panel for each data set and architecture."""
    rows = accounts(records)
    return sorted({Panel(d, a, "") for d, a in zip(rows["dataset"], rows["architecture"], strict=True)})


# ---------------------------------------------------------------- figures


@styled
def gates(records: Records, only: Sequence[Panel] | None = None) -> Figure:
    """Gates that are not constant over neurons that stay, by kind of gate."""
    rows = accounts(records)
    shares = rows.assign(**{gate: rows[gate] / rows["neurons"].replace(0, np.nan) for gate in GATES})
    return _drawn(records, shares, account_panels(records) if only is None else only, GATES, "gates per neuron")


@styled
def kept(records: Records, only: Sequence[Panel] | None = None) -> Figure:
    """Share of the vocabulary, of input neurons and of hidden neurons that stays."""
    rows, kinds = accounts(records), tuple(KINDS.values())
    shares = rows.assign(**{kind: 100 * rows[kind] / rows[f"{kind} total"] for kind in kinds})
    return _drawn(records, shares, account_panels(records) if only is None else only, kinds, "kept (%)")


def _drawn(records: Records, rows: pd.DataFrame, there: Sequence[Panel], kinds: Sequence[str], axis: str) -> Figure:
    look = {name: style for name, style in styles(labels(records)).items() if name in set(rows["label"])}
    figure, axes = layout.grid(len(there), layout.handles(look, line=False), columns=2)
    for one, panel in zip(axes, there, strict=True):
        own = panel.rows(rows)
        layout.side_by_side(one, own, [kind for kind in kinds if own[kind].notna().any()], look)
        one.set_ylabel(axis)
        layout.title(one, panel, False)
    return figure


# ---------------------------------------------------------------- the table


def remains(records: Records) -> Table:
    """Compression, words, inputs, neurons and gates of each method, mean ± standard deviation over seeds."""
    rows = accounts(records)
    sections = tuple(Section(panel.name(rows), by_label(panel.rows(rows), _row)) for panel in account_panels(records))
    columns = ("method", COMPRESSION.label, PUBLISHED.label, *KINDS.values(), "gates", PER_NEURON.label, "seeds")
    notes = (
        "Of the trained network at the method's own threshold, before any pruning. Compression: entries of all weight "
        "matrices over those that stay; beside it as published, where weights behind the pruned factor of a gate are "
        "counted although they leave. A gate without incoming weights is constant and not counted; 4 per neuron are "
        "the most. A dash: the network has no such structure.",
    )
    return Table("recurrent", "What is left of LSTMs", columns, sections, notes)


def _row(name: str, rows: pd.DataFrame) -> Row:
    every = rows[list(GATES)].sum(axis=1)
    counts = [finite_text(rows[kind], COUNT) for kind in KINDS.values()]
    ratio = finite_text(every / rows["neurons"].replace(0, np.nan), PER_NEURON)
    compressions = (finite_text(rows["compression"], COMPRESSION), finite_text(rows["published"], PUBLISHED))
    return row(name, *compressions, *counts, finite_text(every, COUNT), ratio, str(rows["seed"].nunique()))


def gates_caption(records: Records) -> str:
    """Caption of gates by kind."""
    return (
        "Gates with at least one incoming weight, over neurons that stay, by kind of gate, at the method's own "
        f"threshold; the others are constant, and 1 is the most. {_account_band(records)}."
    )


def kept_caption(records: Records) -> str:
    """Caption of words, inputs and neurons that stay."""
    return (
        "Share of the vocabulary, of the input neurons and of the hidden neurons that stays at the method's own "
        f"threshold. {_account_band(records)}. Rare words hardly change the likelihood, so that the divergence alone "
        "removes them: a vocabulary that stays is in part one of frequent words."
    )


def _account_band(records: Records) -> str:
    counts = list(accounts(records).groupby(["dataset", "architecture", "label"])["seed"].nunique())
    band = "; line: smallest to largest" if max(counts, default=0) > 1 else ""
    return f"Marker: mean over seeds{band}, {seeds_text(counts)}"
