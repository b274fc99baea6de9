"""Is SpaM more than well-tuned weight decay? The same criterion on both, each with its own knob tuned alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..writing.render import Section, Table, row
from .by_effects import Estimates, Frames, by_effects, by_parts
from .effects import Effects
from .measures import measured
from .question import Answer, Question

BUDGETS = {"without retraining": ("question-decay", 0.9), "retrained": ("question-decay-retrained", 0.95)}
CRITERIA = ("magnitude", "opd")
MARGIN = 1.0
DECAY, SPAM = "(precision=tuned at pruned)", "(preset=authors, prior=tuned at pruned)"
PHASES = ("passes_train", "passes_score", "passes_finetune")


def _pairs() -> Iterator[tuple[str, str, str]]:
    for budget in BUDGETS:
        for criterion in CRITERIA:
            yield f"{criterion}, {budget}", budget, criterion


def effects(frames: Frames) -> Effects:
    """Accuracy on SpaM networks with their prior tuned, over that with weight decay tuned."""
    found = {}
    for name, budget, criterion in _pairs():
        frame, level = frames[BUDGETS[budget][0]], BUDGETS[budget][1]
        found[name] = measured(frame, f"spam-{criterion}{SPAM}", level) - measured(frame, f"{criterion}{DECAY}", level)
    return found


def answered(found: Estimates) -> tuple[Answer, Sequence[str]]:
    """By the rule below."""
    return by_parts(found, {b: [name for name, budget, _ in _pairs() if budget == b] for b in BUDGETS})


def costs(frames: Frames) -> list[Table]:
    """Passes of tuned SpaM over those of tuned decay, all candidates in."""
    rows = []
    for name, budget, criterion in _pairs():
        frame, level = frames[BUDGETS[budget][0]], BUDGETS[budget][1]
        one, other = (
            sum(float(measured(frame, label, level, phase).mean()) for phase in PHASES)
            for label in (f"spam-{criterion}{SPAM}", f"{criterion}{DECAY}")
        )
        rows.append(row(name, f"{one / other:.2f}"))
    columns = ("criterion", "SpaM, prior tuned / decay tuned")
    return [Table("passes", "Passes, all candidates in", columns, (Section("", tuple(rows)),))]


DECAY_OR_EVIDENCE = Question(
    name="spam-or-decay",
    asks="Is SpaM more than well-tuned weight decay?",
    disagree=(
        "Dhahri et al. (2024, arXiv 2402.15978) find that networks trained by the marginal likelihood prune far better "
        "than MAP networks; Gale et al. (2019, arXiv 1902.09574) that well-tuned baselines close most such gaps."
    ),
    design=(
        "Magnitude and OPD on MAP networks whose prior precision is tuned over 0.1, 1, 10, 100, and on SpaM networks "
        "whose prior structure is tuned over layerwise, unitwise, parameterwise: the same rule, validation accuracy "
        "after pruning, and about the same number of passes (table below). Without retraining, where SpaM makes its "
        "claim, at 90 % sparsity, and retrained for as long as trained, at 95 %."
    ),
    matrices=tuple(matrix for matrix, _ in BUDGETS.values()),
    rule=(
        f"An effect is accuracy on tuned SpaM networks less that on tuned MAP networks, in points; what matters is "
        f"{MARGIN:g} point.",
        "For each budget: yes if the effects of both criteria are above, no if both are alike or below, undecided if "
        "one is undecided, else it depends.",
        "The answer is that of both budgets if they agree, else it depends.",
    ),
    written="2026-11-30",
    analysis=by_effects(effects, "points of accuracy", MARGIN, answered, costs),
)
