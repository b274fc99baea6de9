"""What is seen in each figure, in words: the band, the number of seeds, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from .curves import has_items
from .deployment import batch_text, measured, timed
from .fits import fits
from .frame import at_sparsity, percent, pruned, seed_counts, seeds_text
from .metrics import QUALITY, Metric
from .ranking import Ranking
from .recurrent import accounts
from .statistics import Comparison
from .tables import capital, p_text

RANKED = f"area under the curve of {QUALITY} against sparsity"


def curves(frame: pd.DataFrame, metric: Metric) -> str:
    """Caption of a metric against sparsity."""
    rows = pruned(frame)
    rows = rows[rows[metric.name].notna()]
    parts = [
        f"{metric.label[0].upper()}{metric.label[1:]} on the test split against the share of units pruned "
        f"({metric.direction}); {_band(rows)}, {_n(rows)}.",
        "Equal steps to the right are equal factors of compression.",
        "A star is the sparsity that the method chose itself, its cross 95 % bootstrap intervals over seeds."
        if rows["auto"].any()
        else "",
        "Open markers: at least one layer lost all its units in at least one seed." if _collapsed(rows) else "",
        _missing(frame),
    ]
    return " ".join(filter(None, parts))


def cost(frame: pd.DataFrame, at: float) -> str:
    """Caption of quality against cost."""
    return (
        f"{capital(QUALITY)} against the wall-clock seconds of training, scoring and fine-tuning together, "
        f"at {percent(at)} pruned; point: mean over seeds, cross: 95 % bootstrap intervals, "
        f"{_n(at_sparsity(frame, at))}. Training shared by several cells counts in full for each. "
        "Cheap and good is at the upper left (where less is better: lower left)."
    )


def density(frame: pd.DataFrame, at: float) -> str:
    """Caption of the heat maps of layer densities."""
    return (
        f"Share of units kept in each layer (numbers in %) at {percent(at)} pruned, mean over seeds, "
        f"{_n(at_sparsity(frame, at))}; layers in the order of the records. All methods of a panel keep about the same "
        "total; they differ in where."
    )


def calibration(frame: pd.DataFrame, at: float) -> str:
    """Caption of calibration before and after temperature scaling."""
    return (
        f"Expected calibration error on the test split at {percent(at)} pruned, mean over seeds, "
        f"{_n(at_sparsity(frame, at))}; the temperature is fitted on the validation split. Lower is better."
    )


def shift(frame: pd.DataFrame, at: float) -> str:
    """Caption of accuracy under shift."""
    rows = at_sparsity(frame, at)
    kinds = {str(key).partition("/")[0] for value in rows["shift"] if isinstance(value, Mapping) for key in value}
    return (
        f"Accuracy on corrupted test inputs at {percent(at)} pruned, averaged over the kinds of corruption that the "
        f"data set has ({', '.join(sorted(kinds))}); {_band(rows)}, {_n(rows)}. Higher is better."
    )


def ranks(ranking: Ranking) -> str:
    """Caption of average ranks."""
    c = ranking.comparison
    bar = "bar: 95 % bootstrap interval over seeds, " if min(ranking.seeds) > 1 else ""
    apart = (
        f"Methods closer than the critical difference (Nemenyi, 5 %: {c.critical_difference:.2f} ranks) "
        "cannot be told apart."
    )
    parts = [
        f"Average rank (1 is best) of the {RANKED} over {c.blocks} block{'s' * (c.blocks != 1)} of data set × "
        f"architecture; {bar}{seeds_text(ranking.seeds)}, blocks held fixed.",
        apart if math.isfinite(c.critical_difference) else "",
        "" if c.significant else no_difference(c),
        *c.warnings,
    ]
    return " ".join(filter(None, parts))


def no_difference(comparison: Comparison) -> str:
    """That the test finds no difference, in a sentence, or why there is no test."""
    if comparison.blocks < 2:
        return "With a single block no test of the ranks is possible."
    if not math.isfinite(comparison.p_value):
        return "All methods tie in every block."
    test = capital(comparison.test)
    return f"{test} over blocks finds no difference between the methods ({p_text(comparison.p_value)})."


def sparsifiability(frame: pd.DataFrame) -> str:
    """Caption of pruning after training by the evidence and after MAP training."""
    rows = pruned(frame)
    rows = rows[(rows["criterion"] != "") & rows["target"].notna()]
    return (
        "The same criterion on networks trained by the evidence (solid, one colour per prior structure) and by MAP "
        f"(dashed); {_band(rows)}, {_n(rows)}. Dotted and level: the unpruned network of the same training. "
        "Each approximation of the evidence has panels of its own, with the same MAP networks. A criterion without a "
        "partner in the other training is not shown."
    )


def rise(frame: pd.DataFrame) -> str:
    """Caption of evidence and effective parameters during training."""
    return (
        "Left: Laplace approximation of the log marginal likelihood of the whole training set (nats, not per example) "
        "after each round of steps on the prior, larger is better; it may be compared only between equal "
        "approximations of the curvature. Right: effective parameters Σ h / (h + δ), how many the data determine, as a "
        f"share of all. {_fit_band(frame)}. Where the first epochs would flatten the rest, the left axis begins above "
        "them."
    )


def precisions(frame: pd.DataFrame) -> str:
    """Caption of the learned prior precisions."""
    several = "; averaged over seeds on the log scale" if _most_fits(frame) > 1 else ""
    return (
        "Prior precisions δ that the evidence chose, over the entries of each parameter tensor, in the order of the "
        f"network: median (marker), 25–75 % (thick) and 5–95 % (thin){several}, {seeds_text(_fit_counts(frame))}. "
        "A large δ holds a weight near zero. A prior with one precision for a tensor, or for all, shows a marker alone."
    )


def relation(frame: pd.DataFrame) -> str:
    """Caption of the metric against the final evidence."""
    return (
        "Final log evidence of the unpruned network against the metric after pruning, a point per fit (prior structure "
        "× seed); ρ: Spearman's rank correlation over the points of a panel (where less is better, as with RMSE, a "
        "negative one means that evidence and quality agree). Evidences of different approximations of the curvature "
        "do not compare and stand in panels of their own; fewer than four fits or two prior structures have none. "
        "Seeds of one prior structure are alike, so that ρ has fewer independent points than n: no p value is given."
    )


def structure(frame: pd.DataFrame) -> str:
    """Caption of quality against what structured pruning removed."""
    rows = measured(frame)
    star = "A star is the sparsity that the method chose itself." if rows["auto"].any() else ""
    return (
        "The primary metric of networks pruned by structures against the share of floating-point operations (left) and "
        "of parameters (right) that left the network for good, as the compact network counts them, not the mask; "
        f"{_band(rows)}, {_n(rows)}. Equal steps to the right are equal factors; the dense network stands at 0. {star}"
    ).strip()


def latency(frame: pd.DataFrame) -> str:
    """Caption of measured speed-ups."""
    rows = timed(frame)
    several = ", point and limits averaged over seeds" if max(seed_counts(rows), default=0) > 1 else ""
    masked = rows["speedup_masked"].notna().any()
    return (
        f"Latency of the dense network / own latency at {batch_text(rows)}, measured in turn on one machine "
        f"({_devices(rows)}), against the share of floating-point operations removed; bar: 95 % interval of the median "
        f"over rounds{several}, {_n(rows)}. Both axes are logarithmic; dashed: a speed-up in proportion to the "
        "operations; level line: no faster than dense. "
        + ("Grey: the same networks with the mask alone, which saves no time." if masked else "")
    ).strip()


def gates(frame: pd.DataFrame) -> str:
    """Caption of gates by kind."""
    return (
        "Gates with at least one incoming weight, over neurons that stay, by kind of gate, at the method's own "
        f"threshold; the others are constant, and 1 is the most. {_account_band(frame)}."
    )


def kept(frame: pd.DataFrame) -> str:
    """Caption of words, inputs and neurons that stay."""
    return (
        "Share of the vocabulary, of the input neurons and of the hidden neurons that stays at the method's own "
        f"threshold. {_account_band(frame)}. Rare words hardly change the likelihood, so that the divergence alone "
        "removes them: a vocabulary that stays is in part one of frequent words."
    )


def _account_band(frame: pd.DataFrame) -> str:
    counts = list(accounts(frame).groupby(["dataset", "architecture", "label"])["seed"].nunique())
    band = "; line: smallest to largest" if max(counts, default=0) > 1 else ""
    return f"Marker: mean over seeds{band}, {seeds_text(counts)}"


def _devices(rows: pd.DataFrame) -> str:
    return ", ".join(sorted(set(rows["device"]) - {""})) or "device not recorded"


def _fit_band(frame: pd.DataFrame) -> str:
    band = "; band: 95 % bootstrap interval of that mean" if _most_fits(frame) > 1 else ""
    return f"Line: mean over seeds{band}, {seeds_text(_fit_counts(frame))}"


def _fit_counts(frame: pd.DataFrame) -> list[int]:
    """How many seeds stand behind each training by the evidence."""
    return list(fits(frame).groupby(["dataset", "architecture", "training"])["seed"].nunique())


def _most_fits(frame: pd.DataFrame) -> int:
    return max(_fit_counts(frame), default=0)


def _n(rows: pd.DataFrame) -> str:
    """The number of seeds behind each point, as text."""
    return f"{seeds_text(seed_counts(rows))} per point"


def _band(rows: pd.DataFrame) -> str:
    """What line and band are; one seed has no band."""
    band = "; band: 95 % bootstrap interval of that mean" if max(seed_counts(rows), default=0) > 1 else ""
    return f"line: mean over seeds{band}"


def _collapsed(rows: pd.DataFrame) -> bool:
    return bool(rows["collapsed"].map(has_items).any())


def _missing(frame: pd.DataFrame) -> str:
    count = int((frame["status"] == "failed").sum())
    verb = "failed cell is" if count == 1 else "failed cells are"
    return f"{count} {verb} missing here; see the list of failures." if count else ""
