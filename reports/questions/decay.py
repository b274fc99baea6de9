"""Is SpaM more than well-tuned weight decay? The same criterion on both, each with its own knob tuned alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..writing.render import Section, Table, row
from .by_effects import Estimates, Frames, by_effects, by_parts
from .effects import Effects
from .measures import measured
from .question import Answer, Question

BUDGETS = {"without retraining": ("question-decay", (0.8, 0.9)), "retrained": ("question-decay-retrained", (0.95,))}
CRITERIA = ("magnitude", "opd")
MARGIN = 1.0
DECAY, SPAM = "(precision=tuned at pruned)", "(prior=tuned at pruned)"
PHASES = ("passes_train", "passes_score", "passes_finetune")


def _pairs() -> Iterator[tuple[str, str, str]]:
    for budget in BUDGETS:
        for criterion in CRITERIA:
            yield f"{criterion}, {budget}", budget, criterion


def _gain(frames: Frames, one: str, other: str) -> Effects:
    """`one` less `other` for each criterion and budget; {} stands for the criterion."""
    found = {}
    for name, budget, criterion in _pairs():
        matrix, levels = BUDGETS[budget]
        first, second = (measured(frames[matrix], label.format(criterion), levels) for label in (one, other))
        found[name] = first - second
    return found


def effects(frames: Frames) -> Effects:
    """SpaM with its prior tuned, over weight decay tuned."""
    return _gain(frames, f"spam-{{}}{SPAM}", f"{{}}{DECAY}")


def beside(frames: Frames) -> Effects:
    """SpaM as it comes, over weight decay tuned; and what tuning decay brings over none."""
    default = _gain(frames, "spam-{}", f"{{}}{DECAY}")
    tuning = _gain(frames, f"{{}}{DECAY}", "{}")
    return {f"SpaM untuned: {name}": values for name, values in default.items()} | {
        f"tuning decay: {name}": values for name, values in tuning.items()
    }


def answered(found: Estimates) -> tuple[Answer, Sequence[str]]:
    """By the rule below."""
    return by_parts(found, {b: [name for name, budget, _ in _pairs() if budget == b] for b in BUDGETS})


def costs(frames: Frames) -> list[Table]:
    """Passes over those of the untuned criterion after MAP training."""
    rows = []
    for name, budget, criterion in _pairs():
        matrix, levels = BUDGETS[budget]
        labels = (criterion, f"{criterion}{DECAY}", f"spam-{criterion}", f"spam-{criterion}{SPAM}")
        passes = [
            sum(float(measured(frames[matrix], label, levels, phase).mean()) for phase in PHASES) for label in labels
        ]
        rows.append(row(name, *(f"{value / passes[0]:.2f}" for value in passes)))
    columns = ("criterion", "MAP", "decay tuned", "SpaM", "SpaM, prior tuned")
    return [Table("passes", "Passes, training and all candidates in, MAP = 1", columns, (Section("", tuple(rows)),))]


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
        "claim, and retrained for as long as trained."
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
    analysis=by_effects(effects, "points of accuracy", MARGIN, answered, costs, beside),
)
