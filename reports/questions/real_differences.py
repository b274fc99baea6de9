"""Are the differences of a leaderboard real? What it separates on half of the evidence, seen in the other half."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ..drawing.panels import styled
from ..leaderboard.groups import holm
from ..leaderboard.paired import Array, Block, Differences, differences
from ..leaderboard.stability import halves
from ..leaderboard.standings import ALPHA, Leaderboard, leaderboard
from ..records.blocks import Field, field
from ..records.division import divided
from ..records.frame import prepare
from ..topics.standing import standing_table
from ..writing.render import Section, Table, row
from .question import Answer, Evidence, Finding, Question

BOARDS = {"question-ratios": "criteria and controls", "reference-core-weights": "CORE"}
DECIDING = "question-ratios"
KEPT, NEIGHBOURS = 0.95, 0.5
FEWEST_SEEDS = 4  # two in each half


@dataclass(frozen=True)
class Replication:
    """What halves of the seeds and examples say of each other, summed over the splits.

    Attributes:
        apart, kept: pairs that one half tells apart, and how many of these have the same sign in the other.
        alike, same: pairs that it does not tell apart, and how many have the same sign.
        gaps: differences of the pairs in one half and in the other, in points, and whether they were told apart.
    """

    apart: int
    kept: int
    alike: int
    same: int
    gaps: tuple[tuple[float, float, bool], ...]


def replicated(blocks: Sequence[Block]) -> Replication:
    """Separate all pairs on one half, as the leaderboard does, and look at their signs in the other."""
    gaps = [gap for one, other in _halves(blocks) for gap in _pairs(differences(one), differences(other))]
    apart, alike = ([gap for gap in gaps if gap[2] is told] for told in (True, False))
    kept, same = (sum(a * b > 0 for a, b, _ in part) for part in (apart, alike))
    return Replication(len(apart), kept, len(alike), same, tuple(gaps))


def _halves(blocks: Sequence[Block]) -> Iterator[tuple[list[Block], list[Block]]]:
    """Blocks of half of the seeds on every other example, and of other seeds on the other examples; both ways."""
    for one, other in halves(min(len(block.scores) for block in blocks)):
        first, second = ([_part(block, seeds, parity) for block in blocks] for seeds, parity in ((one, 0), (other, 1)))
        yield first, second
        yield second, first


def _part(block: Block, seeds: Sequence[int], parity: int) -> Block:
    scores = tuple(block.scores[seed][:, parity::2] for seed in seeds)
    return Block(block.name, block.entrants, scores, block.is_crossed)


def _pairs(one: Differences, other: Differences) -> Iterator[tuple[float, float, bool]]:
    apart = holm(one.p) <= ALPHA
    for a, b in zip(*np.triu_indices(len(apart), 1), strict=True):
        yield 100 * float(one.values[a, b]), 100 * float(other.values[a, b]), bool(apart[a, b])


def neighbours(board: Leaderboard) -> tuple[int, int]:
    """How many entrants are told apart from the next, and of how many."""
    order = board.entrants
    return sum(board.separates(a, b) for a, b in itertools.pairwise(order)), len(order) - 1


def analysis(evidence: Evidence) -> Finding:
    """By the rule below."""
    found = {name: own for name in BOARDS if (own := _seen(evidence, name)) is not None}
    if DECIDING not in found:
        return Finding("not run", (f"Fewer than {FEWEST_SEEDS} seeds have been run.",))
    _, board, again = found[DECIDING]
    told, count = neighbours(board)
    real = bool(again.apart) and again.kept >= KEPT * again.apart
    says = (
        f"Of the pairs that one half tells apart {_percent(again.kept, again.apart)} have the same sign in the other "
        f"half; of those it does not, {_percent(again.same, again.alike)}.",
        f"On all of the evidence {told} of {count} methods are told apart from the next one.",
    )
    standings = [standing_table(own[1], own[0], name, f"Standings: {BOARDS[name]}") for name, own in found.items()]
    answer = _answer(again.apart, real, told >= NEIGHBOURS * count)
    return Finding(answer, says, (_summary(found), *standings), picture(again), CAPTION, DOUBTS)


DOUBTS = (
    "Halves have half of the seeds, so they tell fewer pairs apart than the whole; splits overlap, so shares are no "
    "independent counts.",
    "Entrants that were chosen otherwise would lie closer together, or farther apart.",
)


def _answer(apart: int, real: bool, places: bool) -> Answer:
    if not apart:
        return "undecided"
    if not real:
        return "no"
    return "yes" if places else "it depends"


def _seen(evidence: Evidence, name: str) -> tuple[Field, Leaderboard, Replication] | None:
    """The leaderboard of single weights at the headline's budget, and its halves; None of too few seeds or methods."""
    frame = evidence.frames[name]
    if not len(frame):
        return None
    own = field(divided(prepare(frame))[0].records, evidence.scores, "weights")
    if own is None or len(own.blocks[0].entrants) < 2 or min(map(len, own.seeds)) < FEWEST_SEEDS:
        return None
    return own, leaderboard(own.blocks), replicated(own.blocks)


def _summary(found: Mapping[str, tuple[Field, Leaderboard, Replication]]) -> Table:
    rows = []
    for name, (own, board, again) in found.items():
        told, count = neighbours(board)
        rows.append(row(
            BOARDS[name], str(count + 1), str(len(own.blocks)), _percent(again.kept, again.apart),
            _percent(again.same, again.alike), f"{told} of {count}", f"{board.halves.agreement:.2f}",
        ))  # fmt: skip
    columns = (
        "leaderboard", "methods", "blocks", "same sign where told apart", "same sign elsewhere",
        "told apart from the next", "tau of halves",
    )  # fmt: skip
    return Table("summary", "What halves say of each other", columns, (Section("", tuple(rows)),))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} % ({part:,} of {whole:,})" if whole else "– (no pair)"


CAPTION = (
    "Differences of all pairs of methods in one half of the seeds and examples, in points of the score, and in the "
    "other half; blue: told apart on the first half, grey: not. What lies above zero has kept its sign."
)


@styled
def picture(again: Replication) -> Figure:
    """The gaps of pairs in both halves, each with its sign turned so that the first is positive."""
    figure = Figure(figsize=(4.6, 3.4))
    axis = figure.subplots()
    points: Array = np.array([(abs(a), b if a >= 0 else -b, told) for a, b, told in again.gaps])
    for told, color in ((0, "#7A7A7A"), (1, "#0072B2")):
        own = points[points[:, 2] == told]
        axis.plot(own[:, 0], own[:, 1], "o", color=color, markersize=2.5, alpha=0.35, markeredgewidth=0)
    axis.axhline(0, color="#555555", linewidth=0.8)
    axis.set_xlabel("difference in one half (points)")
    axis.set_ylabel("difference in the other half (points)")
    return figure


REAL_DIFFERENCES = Question(
    name="real-differences",
    asks="Are the differences of a leaderboard real?",
    disagree=(
        "Leaderboards rank by means without tests; audits from outside find that neighbours change places with the "
        "draw of the test set or the seed."
    ),
    design=(
        "The methods of the question on layer ratios, with their controls, as a leaderboard; beside "
        "it, deciding nothing, that of CORE's reference results. All pairs are separated on one half of the seeds and "
        "test examples as the leaderboard does it (paired tests, Holm over all pairs), and their signs are looked at "
        "in the other half, which shares no network and no example, for every such split."
    ),
    matrices=(DECIDING,),
    beside=("reference-core-weights",),
    rule=(
        f"Differences are real if at least {100 * KEPT:g} % of the pairs that one half tells apart have the same sign "
        f"in the other half; places are, if at least {100 * NEIGHBOURS:g} % of the methods are told apart from the "
        "next one on all of the evidence.",
        "Yes if both are, it depends if only separated differences are, no if these are not, undecided if no half "
        "tells any pair apart.",
    ),
    written="2026-11-30",
    analysis=analysis,
)
