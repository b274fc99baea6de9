"""The first screen of a report: what ran, the finding with its interval and n, and every reason for doubt."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from .records import statistics as st
from .records.budgets import budgets
from .records.division import Part
from .records.frame import (
    Panel,
    Records,
    crowded,
    dense_by_seed,
    done,
    labels,
    panel_metric,
    panels,
    percent,
    pruned,
    seed_counts,
    seeds_text,
    span,
    targets,
)
from .records.metrics import METRICS, PRIMARY, RELATIVE
from .records.ranking import BASELINE, Ranking, Standing
from .topics.savings import structure_doubts
from .writing.numbers import capital, interval_text, p_text
from .writing.sentences import no_difference


def facts(records: Records) -> list[tuple[str, str]]:
    """What ran, where and with what, as (name, text)."""
    counts = records["status"].value_counts()
    cells = ", ".join(f"{int(counts.get(status, 0))} {status}" for status in ("done", "failed", "skipped"))
    found = [
        ("Cells", f"{len(records)}: {cells}"),
        ("Data sets", _listed(records["dataset"])),
        ("Architectures", _listed(records["architecture"])),
        ("Methods", _listed(records["label"])),
        ("Units", _listed(records["units"])),
        ("Sparsities", _sparsities(records)),
        (
            "Seeds",
            f"{_listed(map(str, records['seed']))} (n = {span(seed_counts(records))} per result)"
            if len(records)
            else "",
        ),
        ("Budget", _budgets(records)),
        ("Inference", _listed(records["inference"])),
        ("Predictive", _listed(records["predictive"])),
        (
            "Hardware",
            "; ".join(filter(None, (_listed(records["device"]), _listed(records["host_cpu"]), _threads(records)))),
        ),
        ("Versions", _versions(records)),
        ("Revision", _listed(records["git_revision"])),
        ("Started", _started(records)),
    ]
    return [(name, text) for name, text in found if text]


def _budgets(records: Records) -> str:
    return "; ".join(f"{b.text} ({b.protocol or 'no protocol'})" for b in budgets(records) if b.is_known)


def _listed(values: Iterable[str]) -> str:
    """Distinct non-empty texts in the order of their names, numbers by size."""
    return ", ".join(
        sorted({str(v) for v in values if v}, key=lambda v: (not v.isdigit(), int(v) if v.isdigit() else 0, v))
    )


def _sparsities(records: Records) -> str:
    chosen = ["chosen by the method"] if records["auto"].any() else []
    return ", ".join([*map(percent, targets(records)), *chosen])


def _versions(records: Records) -> str:
    texts = {part: _listed(records[f"version_{part}"]) for part in ("bayesprune", "torch", "python")}
    return "; ".join(f"{part} {text}" for part, text in texts.items() if text)


def _started(records: Records) -> str:
    """The first and the last time; skipped cells have none."""
    times = sorted(set(records["started"]) - {""})
    return " to ".join(dict.fromkeys([*times[:1], *times[-1:]]))


def _threads(records: Records) -> str:
    counts = sorted({int(n) for n in records["threads"].dropna()})
    return f"{', '.join(map(str, counts))} thread{'s' * (counts != [1])}" if counts else ""


# ---------------------------------------------------------------- the finding


def headlines(records: Records, rankings: Sequence[Ranking]) -> list[str]:
    """The finding in sentences, one entry per kind of units; or why there is none."""
    if len(pruned(records)) == 0:
        return [
            "There are no results of pruned networks yet."
            + (" Every cell failed or was skipped." if len(records) else " The results are empty.")
        ]
    found = [_headline(records, ranking) for ranking in rankings]
    return found or ["No two results can be compared: no panel has a method with a value at a target sparsity."]


def _headline(records: Records, ranking: Ranking) -> str:
    best = ranking.standings[0]
    scope = f"Units: {ranking.units}. " if records["units"].nunique() > 1 else ""
    if len(ranking.standings) == 1:
        return (
            f"{scope}Only one method has comparable results: {_kept(ranking, [best])}. {ranking.left_out_text}".strip()
        )
    blocks = ranking.comparison.blocks
    others = [s for s in ranking.standings[1:] if s.label == BASELINE]
    interval = ", 95 % interval over seeds" if math.isfinite(best.rank.low) else ""
    text = (
        f"{scope}Over {blocks} block{'s' * (blocks != 1)} of data set × architecture and {_range(ranking.sparsities)}, "
        f"{_leaders(ranking)} the best mean rank, {interval_text(best.rank, 1, 2)} of {len(ranking.standings)} methods "
        f"({seeds_text(ranking.seeds)}{interval}): {_kept(ranking, [best, *others])}. {_caution(ranking)}"
    )
    return f"{text} {ranking.left_out_text}".strip()


def _leaders(ranking: Ranking) -> str:
    names = [s.label for s in ranking.standings if s.rank.value == ranking.standings[0].rank.value]
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'share'}"


def _range(sparsities: Sequence[float]) -> str:
    if len(sparsities) == 1:
        return f"at {percent(sparsities[0])} pruned"
    return f"{len(sparsities)} sparsities from {percent(sparsities[0])} to {percent(sparsities[-1])}"


def _kept(ranking: Ranking, standings: Sequence[Standing]) -> str:
    """`opd keeps 97.1 [96.9, 97.4] % of the dense network's accuracy, magnitude 96.0 [...] %`."""
    if not math.isfinite(standings[0].area.value):
        return "how much of the dense network's quality it keeps is not known, for lack of a dense reference"
    first, *rest = (f"{interval_text(s.area, 100, 1)} %" for s in standings)
    more = "".join(f", {s.label} {text}" for s, text in zip(standings[1:], rest, strict=True))
    relative = ", ".join(text for name, text in RELATIVE.items() if name in ranking.metrics)
    what = relative if ranking.metrics == {"accuracy"} else f"quality ({relative})"
    return f"{standings[0].label} keeps {first} of the dense network's {what}{more}"


def _caution(ranking: Ranking) -> str:
    """What the ranks show and what they do not; a difference only where a test of all methods finds one."""
    c, best = ranking.comparison, ranking.standings[0]
    if not c.significant:
        return no_difference(c)
    found = f"{capital(c.test)} over blocks finds a difference ({p_text(c.p_value)})"
    if len(ranking.standings) == 2:
        return f"{found}."
    near = [s.label for s in ranking.standings[1:] if s.rank.value - best.rank.value < c.critical_difference]
    told = f"cannot be told apart from {', '.join(near)}" if near else "differs from every other method ranked"
    return f"{found}; by Nemenyi's critical difference of {c.critical_difference:.2f} ranks {best.label} {told}."


# ---------------------------------------------------------------- doubts


def doubts(records: Records, rankings: Sequence[Ranking]) -> list[str]:
    """Reasons not to believe too much: few seeds and blocks, values that are missing, records that do not match."""
    counts = seed_counts(records)
    found = [*st.few_seeds(min(counts)), *st.thin_intervals(int(np.median(counts)))] if counts else []
    found += [text for ranking in rankings for text in ranking.comparison.warnings]
    found += [
        *_failed(records),
        *_missing_values(records),
        *structure_doubts(records),
        *_twins(records),
        *_mixed(records),
        *_moved(records),
        *_crowded(records),
    ]
    return list(dict.fromkeys(found))


def apart(part: Part) -> list[str]:
    """Methods that the budget was too short for."""
    names = list(dict.fromkeys(f"{one.label} ({one.units})" for one in part.undertrained))
    if not names:
        return []
    return [
        f"Undertrained within this budget, marked † and without a rank: {', '.join(names)}; the table "
        "“Undertrained” says why."
    ]


def _failed(records: Records) -> list[str]:
    count = int((records["status"] == "failed").sum())
    verb = "cell failed and is" if count == 1 else "cells failed and are"
    return [f"{count} {verb} missing from figures and means; the table of failures gives the reasons."] if count else []


def _missing_values(records: Records) -> list[str]:
    """Metrics that some done cells lack although others of the same likelihood have them."""
    found, decided = [], "categorical|bernoulli"
    for name, kind in (("accuracy", decided), ("rmse", "gaussian"), ("nll", ""), ("ece", decided)):
        rows = done(records)
        rows = rows[rows["likelihood"].str.contains(kind)] if kind else rows
        count = int(rows[name].isna().sum())
        if count and (name in PRIMARY or count < len(rows)):
            found.append(f"{count} of {len(rows)} done cells have no finite {METRICS[name].label}.")
    return found


def _twins(records: Records) -> list[str]:
    cell = ["dataset", "architecture", "units", "label", "seed", "target", "auto"]
    count = int(done(records).duplicated(cell).sum())
    if not count:
        return []
    verb = "result repeats" if count == 1 else "results repeat"
    return [
        f"{count} {verb} a cell (same method, data, seed and sparsity, trained in another way): their values are "
        "averaged here; report folders of different training settings one by one."
    ]


_ORIGIN = {
    "device": "devices",
    "host_cpu": "processors",
    "version_torch": "versions of torch",
    "git_revision": "revisions",
}


def _mixed(records: Records) -> list[str]:
    rows = done(records)
    found = [word for column, word in _ORIGIN.items() if len(set(rows[column]) - {""}) > 1]
    return (
        [f"The records come from several {', '.join(found)}: seconds and last digits may not compare."] if found else []
    )


def _moved(records: Records) -> list[str]:
    """Cells that were computed on another class of machine than the network they share."""
    rows = done(records)
    pairs = (("host_cpu", "fit_host_cpu"), ("device", "fit_device"))
    moved = [(rows[own] != rows[fit]) & (rows[own] != "") & (rows[fit] != "") for own, fit in pairs]
    if not (count := int((moved[0] | moved[1]).sum())):
        return []
    were = "was" if count == 1 else "were"
    return [
        f"{count} of {len(rows)} done cells {were} computed on another kind of machine than their network was trained "
        "on: last digits may differ from those of a run on one kind; run --pin keeps them together."
    ]


def _crowded(records: Records) -> list[str]:
    rows = done(records)
    if not (count := int(crowded(rows).sum())):
        return []
    verb = "cell" if count == 1 else "cells"
    return [f"{count} {verb} ran on machines with more workers than cores: seconds of these are left out."]


# ---------------------------------------------------------------- controls


def missing_controls(records: Records) -> list[str]:
    """Which of the standard controls are not there, and where."""
    there = panels(records)
    found = [
        _control("dense", [p for p in there if not len(dense_by_seed(records, p, panel_metric(records, p)))], there)
    ]
    for name in ("random", BASELINE):
        found.append(_control(name, [p for p in there if name not in set(p.rows(pruned(records))["label"])], there))
    return [text for text in (*found, _layer_ratios(records)) if text]


def _control(name: str, missing: Sequence[Panel], there: Sequence[Panel]) -> str:
    if not missing:
        return ""
    where = (
        ""
        if len(missing) == len(there)
        else f" (in {', '.join(f'{p.dataset} · {p.architecture} · {p.units}' for p in missing)})"
    )
    return f"{name}{where}"


def _layer_ratios(records: Records) -> str:
    """Random masks with a method's own layer ratios show whether its scores do more than choose those ratios."""
    names = labels(pruned(records))
    have = {match.group(1) for name in names if (match := re.search(r"^random.*like=['\"]?([\w.+-]+)", name))}
    lacking = [name for name in names if not name.startswith("random") and re.split(r"[(\[ ]", name)[0] not in have]
    return f"random with the layer ratios of the method, random(like=…), for: {', '.join(lacking)}" if lacking else ""
