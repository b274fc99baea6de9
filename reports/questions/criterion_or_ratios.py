"""Does a criterion find weights, or only how many each layer keeps? Every method against its shuffled control."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..writing.render import Section, Table, row
from .by_effects import Estimates, Frames, by_effects, by_parts, listed
from .effects import Effects
from .measures import measured
from .question import Answer, Question

MATRIX = "question-ratios"
SPARSITIES = (0.9, 0.95)
MARGIN = 1.0
TRAINED = ("magnitude", "opd", "lamp")
INITIAL = ("snip", "grasp", "synflow")
BASELINES = dict.fromkeys(TRAINED, "random") | dict.fromkeys(INITIAL, "random(when=before)")


def effects(frames: Frames) -> Effects:
    """Accuracy of each method over that of random weights at its layer densities."""
    frame = frames[MATRIX]
    return {
        method: measured(frame, method, SPARSITIES) - measured(frame, f"random(like={method})", SPARSITIES)
        for method in BASELINES
    }


CORE, EPOCHS = "reference-core-weights", 30  # of retraining, the headline's
BANDS = {"90 and 95 %": (0.9, 0.95), "98 %": (0.98,)}


def in_core(frames: Frames) -> Effects:
    """The same in CORE, whose perceptron has more weights, as far as it has controls."""
    found = {}
    for band, levels in BANDS.items():
        for method in BASELINES:
            one, other = (
                measured(frames[CORE], label, levels, retraining=EPOCHS) for label in (method, f"random(like={method})")
            )
            found[f"{method} in CORE, {band}"] = one - other
    return {name: values for name, values in found.items() if len(values.dropna())}


def answered(found: Estimates) -> tuple[Answer, Sequence[str]]:
    """By the rule below."""
    answer, says = by_parts(found, {"after training": TRAINED, "at initialisation": INITIAL})
    more = [name for name, one in found.items() if one.verdict == "above"]
    ratios = [name for name, one in found.items() if one.verdict in ("alike", "below")]
    open_ = [name for name, one in found.items() if one.verdict == "undecided"]
    says += [f"More than their layer ratios: {listed(more)}.", f"No more than these: {listed(ratios)}."]
    return answer, [*says, *([f"Undecided: {listed(open_)}."] if open_ else [])]


def shares(frames: Frames) -> list[Table]:
    """Which share of a method's gain over random weights its control has, too."""
    frame, rows = frames[MATRIX], []
    for method, baseline in BASELINES.items():
        own, control, least = (
            float(measured(frame, name, SPARSITIES).groupby(level="block").mean().mean())
            for name in (method, f"random(like={method})", baseline)
        )
        share = 100 * (control - least) / (own - least) if own > least else math.nan
        rows.append(row(method, f"{own:.1f}", f"{control:.1f}", f"{least:.1f}", f"{share:.0f}"))
    columns = ("method", "accuracy (%)", "shuffled in layers", "random", "share of its gain that survives (%)")
    return [Table("shares", "What survives shuffling", columns, (Section("", tuple(rows)),))]


CRITERION_OR_RATIOS = Question(
    name="criterion-or-ratios",
    asks="Does a criterion find weights, or only how many each layer keeps?",
    disagree=(
        "Frankle et al. (2021, arXiv 2009.08576) and Su et al. (2020) find that masks at initialisation lose nothing "
        "when they are shuffled within layers; papers that propose criteria claim that the chosen weights matter."
    ),
    design=(
        "Each method beside random weights at exactly its layer densities, on the same networks, data and seeds, "
        "retrained for as long as trained; accuracy averaged over two sparsities."
    ),
    matrices=(MATRIX,),
    rule=(
        f"An effect is accuracy of a method less that of its control, in points; what matters is {MARGIN:g} point.",
        "A method is more than its layer ratios if its effect is above, and no more than these if it is alike or "
        "below.",
        "Yes for the criteria after training (magnitude, OPD, LAMP), and for those at initialisation (SNIP, GraSP, "
        "SynFlow), if all of them are more; no if none is; undecided if any of them is undecided, else it depends.",
        "The answer is that of both groups if they agree, else it depends.",
    ),
    written="2026-11-30",
    analysis=by_effects(effects, "points of accuracy", MARGIN, answered, shares, in_core),
    beside=(CORE,),
    remarks=(
        "The networks are small: at these sparsities they keep some dozens to some hundreds of weights, and shuffling "
        "tears paths apart. So the same was looked at in CORE after the run, on a larger perceptron (beside, deciding "
        "nothing): there masks at initialisation are not told apart from shuffled ones at 90 and 95 %, as the "
        "literature says, and are far ahead of them at 98 %. How few weights are left seems to matter more than when "
        "they are chosen.",
    ),
)
