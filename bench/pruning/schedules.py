"""When units are removed: before training, after it, gradually during it, online, or exchanged all along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ...architectures.running.cost import Cost, measured
from ...architectures.units.mask import Mask
from ...datasets.errors import UsageError
from ...datasets.seal import sealed
from ...methods.pruner import State
from ..training.loop import AfterEpoch, without_noise
from .dynamic import check_dynamic, exchange, first_mask
from .engine import Engine, Kept, Outcome, Snapshot
from .gradual import gradual_share, is_pruned_after, pruning_span
from .rewind import past, rewind_, train_from

# Epochs between the cuts of online pruning, and the first and the last sparsity it cuts to (Dhahri et al. 2024).
ONLINE_EVERY = 10
ONLINE_SPAN = (0.1, 0.99)


def prune(engine: Engine, sparsity: float | None) -> Outcome:
    """Prune and train at the moments the method asks for; None is the method's own threshold."""
    with sealed():
        return _ended(engine, PRUNE[engine.pruner.when](engine, sparsity))


def prune_given(engine: Engine, mask: Mask) -> Outcome:
    """Give a trained network a mask that was chosen elsewhere, in one round; then train on for all epochs.

    What the method says is of this network, and so are the correlations by which survivors move.
    """
    with sealed():
        outcome, first = engine.outcome(*engine.start()), engine.first
        outcome.score, outcome.scores, outcome.state = first.cost, first.scores, first.state
        outcome.mask, outcome.reports, outcome.train = mask, list(engine.first_report), engine.trained
        engine.settle(outcome)
        rounds = engine.pruner.rounds if engine.pruner.retrain == "each" else 1
        with measured(outcome.network, engine.device) as outcome.finetune:
            engine.refine(outcome, engine.finetune.epochs * rounds)
        return _ended(engine, outcome)


def _ended(engine: Engine, outcome: Outcome) -> Outcome:
    """What was learned is noted, and the inference leaves the network."""
    learned = engine.learned  # what training learned then, fine-tuning has since blurred
    outcome.learned = outcome.inference.learned(outcome.network) if learned is None else learned
    outcome.unfinished = outcome.inference.unfinished()
    outcome.inference.detach(outcome.network)
    return outcome


def prune_after(engine: Engine, sparsity: float | None) -> Outcome:
    """Prune a trained network in `rounds`, training on after each; rounds share the epochs, or have as many each."""
    rounds, epochs = engine.pruner.rounds, engine.finetune.epochs
    epochs *= rounds if engine.pruner.retrain == "each" else 1
    to = past(engine) if engine.pruner.rewind is not None else None

    def train_on(outcome: Outcome, i: int) -> None:
        done = i * epochs // rounds
        if to is not None:
            rewind_(engine, outcome, to)
        with measured(outcome.network, engine.device) as cost:
            if to is None:
                engine.refine(outcome, (i + 1) * epochs // rounds - done, done)
            else:
                train_from(engine, outcome, to)
        outcome.finetune += cost

    outcome = engine.in_rounds(sparsity, train_on)
    outcome.train = engine.trained
    return outcome


def prune_before(engine: Engine, sparsity: float | None) -> Outcome:
    """Prune at initialisation, in `rounds` without training between them, then train what is left."""
    outcome = engine.in_rounds(sparsity, lambda outcome, i: None)
    if engine.pruner.retrain == "only":
        _train_on(engine, outcome)
    else:
        _train_in_full(engine, outcome, outcome.mask)
    return outcome


def prune_during(engine: Engine, sparsity: float | None) -> Outcome:
    """Prune while training, see `Gradually`."""
    outcome = engine.outcome(*engine.start())
    span = pruning_span(engine.training.epochs, engine.finetune.epochs, sparsity is None)
    _train_in_full(engine, outcome, None, Gradually(engine, outcome, sparsity, span))
    return outcome


@dataclass
class Gradually:
    """Prunes after every few epochs of training; what has left stays away, and its penalty is gone.

    The method's own decision (sparsity None) is taken from the first of the training's epochs on to the last (Wright
    et al. 2024); a sparsity is reached gradually, s_t = s (1 - (1 - t)³) over a `span` of all epochs (Zhu & Gupta
    2017).
    """

    engine: Engine
    outcome: Outcome
    sparsity: float | None
    span: tuple[int, int]

    def __call__(self, epoch: int) -> Mask | None:
        """The mask that holds from now on, if units have left after this epoch."""
        if not is_pruned_after(epoch, self.span, self.engine.pruner.every):
            return None
        target = None if self.sparsity is None else self.sparsity * gradual_share(epoch, self.span)
        self.engine.choose_again(self.outcome, target, epoch)
        self.engine.settle(self.outcome, epoch)
        return self.outcome.mask


def _train_in_full(engine: Engine, outcome: Outcome, mask: Mask | None, after_epoch: AfterEpoch | None = None) -> None:
    """Both phases that a post-hoc method has, training and fine-tuning, with the same epochs and learning rates."""
    phases = {
        "train": lambda: engine.train(outcome, mask, after_epoch),
        "finetune": lambda: engine.refine(outcome, engine.finetune.epochs, 0, after_epoch),
    }
    for phase, run in phases.items():
        nested = outcome.score + outcome.adjust
        with measured(outcome.network, engine.device) as cost:
            run()
        setattr(outcome, phase, cost.without((outcome.score + outcome.adjust).without(nested)))


def _train_on(engine: Engine, outcome: Outcome) -> None:
    """The second phase alone."""
    with measured(outcome.network, engine.device) as outcome.finetune:
        engine.refine(outcome, engine.finetune.epochs)


# ---------------------------------------------------------------------- online


def prune_online(engine: Engine, sparsity: float | None) -> Outcome:
    """The network at the first pruning of online training that reaches the sparsity, cut to it and trained on."""
    if engine.online is None:  # one training for all sparsities
        engine.online = _train_online(engine)
    snapshots, cost = engine.online
    outcome = cut_online(engine, snapshots, sparsity)
    outcome.train = cost
    _train_on(engine, outcome)
    return outcome


def cut_online(engine: Engine, snapshots: Sequence[Snapshot], sparsity: float | None) -> Outcome:
    """The first snapshot that reaches the sparsity, cut to it; the last for the method's own decision."""
    reached = (s for s in snapshots if sparsity is not None and s.sparsity >= sparsity)
    at = next(reached, snapshots[-1])
    outcome = engine.outcome(*at.kept.into(*engine.start()))
    state = State(outcome.network, engine.units, engine.split, outcome.inference)
    engine.choose(outcome, replace(at.scored, state=state), sparsity, [])
    engine.settle(outcome)
    return outcome


def online_sparsity(epoch: int, epochs: int) -> float:
    """s_e = 0.1 + 0.89 ⌊e/10⌋ / ⌊E/10⌋ at the end of epoch e of E (Dhahri et al. 2024)."""
    first, last = ONLINE_SPAN
    return first + (last - first) * (epoch // ONLINE_EVERY) / (epochs // ONLINE_EVERY)


@dataclass
class Online:
    """Cuts units every ten epochs of training to a rising sparsity; they may grow back until the next time.

    Attributes:
        engine: at work on the network of `outcome`.
        outcome: the network on its way.
        epochs: of the whole training.
        snapshots: the network before each cut.
    """

    engine: Engine
    outcome: Outcome
    epochs: int
    snapshots: list[Snapshot] = field(default_factory=list)

    def __call__(self, epoch: int) -> None:
        """Remember the network and cut it, if it is the epoch for it."""
        if epoch % ONLINE_EVERY:
            return
        engine, network, inference = self.engine, self.outcome.network, self.outcome.inference
        without_noise(network, inference, engine.split, engine.training)
        scored = engine.score(network, inference, epoch)
        kept = Kept.of(network, inference)
        most = 1 - max(1, engine.budget.at_least * len(engine.units.groups)) / engine.units.n  # of a small network
        self.snapshots.append(Snapshot(min(online_sparsity(epoch, self.epochs), most), kept, scored))
        engine.mask(scored, self.snapshots[-1].sparsity).apply_(network)


def _train_online(engine: Engine) -> tuple[list[Snapshot], Cost]:
    """Train once, for all sparsities."""
    outcome = engine.outcome(*engine.start())
    online = Online(engine, outcome, engine.training.epochs)
    with measured(outcome.network, engine.device) as cost:
        engine.train(outcome, None, online)
    return online.snapshots, cost.without(sum((s.scored.cost for s in online.snapshots), Cost()))


# ---------------------------------------------------------------------- dynamic


def prune_dynamic(engine: Engine, sparsity: float | None) -> Outcome:
    """Train a network that is sparse from the start, exchanging units at the ends of epochs."""
    outcome = engine.outcome(*engine.start())
    exchanging = Exchanging.begun(engine, outcome, sparsity, engine.training.epochs + engine.finetune.epochs)
    _train_in_full(engine, outcome, outcome.mask, exchanging)
    return outcome


@dataclass
class Exchanging:
    """Exchanges units at the ends of epochs, see `dynamic`; their number stays.

    Attributes:
        engine: at work on the network of `outcome`.
        outcome: the network on its way.
        epochs: of the whole training.
    """

    engine: Engine
    outcome: Outcome
    epochs: int

    @classmethod
    def begun(cls, engine: Engine, outcome: Outcome, sparsity: float | None, epochs: int) -> Exchanging:
        """The network made sparse; raises UsageError without a sparsity, NotApplicable for whole units."""
        if sparsity is None:
            raise UsageError(
                "dynamic sparse training needs a sparsity: it exchanges units, and decides no number of them"
            )
        check_dynamic(engine)
        outcome.mask = first_mask(engine, outcome, sparsity)
        engine.settle(outcome)
        return cls(engine, outcome, epochs)

    def __call__(self, epoch: int) -> Mask | None:
        """The mask that holds from now on, if units were exchanged after this epoch."""
        if (mask := exchange(self.engine, self.outcome, epoch, self.epochs)) is None:
            return None
        self.outcome.mask = mask
        self.engine.settle(self.outcome, epoch)
        return mask


PRUNE: dict[str, Callable[[Engine, float | None], Outcome]] = {
    "before": prune_before,
    "during": prune_during,
    "online": prune_online,
    "dynamic": prune_dynamic,
    "after": prune_after,
}
