"""When units are removed: before training, after it, gradually during it, online, or exchanged all along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ...architectures.running.cost import Cost, measured
from ...architectures.units.mask import Mask
from ...datasets.errors import UsageError
from ...datasets.seal import sealed
from ...methods.pruner import State
from ..training.loop import AfterEpoch, without_noise
from .dynamic import check_dynamic, exchange, first_mask
from .engine import Engine, Outcome, Snapshot
from .gradual import gradual_share, is_pruned_after, pruning_span
from .rewind import past, rewind_

# Epochs between the cuts of online pruning, and the first and the last sparsity it cuts to (Dhahri et al. 2024).
ONLINE_EVERY = 10
ONLINE_SPAN = (0.1, 0.99)


def prune(engine: Engine, sparsity: float | None) -> Outcome:
    """Prune and train at the moments the method asks for; None is the method's own threshold."""
    with sealed():
        outcome = PRUNE[engine.pruner.when](engine, sparsity)
        learned = engine.learned  # what training learned then, fine-tuning has since blurred
        outcome.learned = outcome.inference.learned(outcome.network) if learned is None else learned
        outcome.inference.detach(outcome.network)
        return outcome


def prune_after(engine: Engine, sparsity: float | None) -> Outcome:
    """Prune a trained network in `rounds`, training on after each; the fine-tuning epochs are shared among rounds."""
    rounds, epochs = engine.pruner.rounds, engine.finetune.epochs
    to = past(engine) if engine.pruner.rewind is not None else None

    def train_on(outcome: Outcome, i: int) -> None:
        done = i * epochs // rounds
        with measured(outcome.network, engine.device) as cost:
            if to is None:
                engine.refine(outcome, (i + 1) * epochs // rounds - done, done)
            else:
                rewind_(engine, outcome, to)
        outcome.finetune += cost

    outcome = engine.in_rounds(sparsity, train_on)
    outcome.train = engine.trained
    return outcome


def prune_before(engine: Engine, sparsity: float | None) -> Outcome:
    """Prune at initialisation, in `rounds` without training between them, then train what is left."""
    outcome = engine.in_rounds(sparsity, lambda outcome, i: None)
    _train_in_full(engine, outcome, outcome.mask)
    return outcome


def prune_during(engine: Engine, sparsity: float | None) -> Outcome:
    """Prune while training, after every few epochs; what has left stays away, and its penalty is gone.

    The method's own decision is taken from the first of the training's epochs on to the last (Wright et al. 2024); a
    sparsity is reached gradually, s_t = s (1 - (1 - t)³) over a stretch of all epochs (Zhu & Gupta 2017).
    """
    outcome = engine.outcome(*engine.start())
    span = pruning_span(engine.training.epochs, engine.finetune.epochs, sparsity is None)

    def after_epoch(epoch: int) -> Mask | None:
        if not is_pruned_after(epoch, span, engine.pruner.every):
            return None
        engine.choose_again(outcome, None if sparsity is None else sparsity * gradual_share(epoch, span), epoch)
        engine.settle(outcome, epoch)
        return outcome.mask

    _train_in_full(engine, outcome, None, after_epoch)
    return outcome


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


# ---------------------------------------------------------------------- online


def prune_online(engine: Engine, sparsity: float | None) -> Outcome:
    """The network at the first pruning of online training that reaches the sparsity, cut to it and trained on."""
    if engine.online is None:  # one training for all sparsities
        engine.online = _train_online(engine)
    snapshots, cost = engine.online
    reached = (s for s in snapshots if sparsity is not None and s.sparsity >= sparsity)
    at = next(reached, snapshots[-1])
    outcome = engine.outcome(*at.restored(engine.start()))
    state = State(outcome.network, engine.units, engine.split, outcome.inference)
    engine.choose(outcome, replace(at.scored, state=state), sparsity, [])
    outcome.train = cost
    engine.settle(outcome)
    with measured(outcome.network, engine.device) as outcome.finetune:
        engine.refine(outcome, engine.finetune.epochs)
    return outcome


def online_sparsity(epoch: int, epochs: int) -> float:
    """s_e = 0.1 + 0.89 ⌊e/10⌋ / ⌊E/10⌋ at the end of epoch e of E (Dhahri et al. 2024)."""
    first, last = ONLINE_SPAN
    return first + (last - first) * (epoch // ONLINE_EVERY) / (epochs // ONLINE_EVERY)


def _train_online(engine: Engine) -> tuple[list[Snapshot], Cost]:
    """Train once; every ten epochs units are cut to a rising sparsity, and may grow back until the next time."""
    outcome = engine.outcome(*engine.start())
    network, inference = outcome.network, outcome.inference
    snapshots: list[Snapshot] = []

    def after_epoch(epoch: int) -> None:
        if epoch % ONLINE_EVERY:
            return
        without_noise(network, inference, engine.split, engine.training)
        scored = engine.score(network, inference, epoch)
        states = (_copied(network.state_dict()), _copied(inference.tensors()))
        snapshots.append(Snapshot(online_sparsity(epoch, engine.training.epochs), *states, scored))
        engine.mask(scored, snapshots[-1].sparsity).apply_(network)

    with measured(network, engine.device) as cost:
        engine.train(outcome, None, after_epoch)
    return snapshots, cost.without(sum((s.scored.cost for s in snapshots), Cost()))


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


# ---------------------------------------------------------------------- dynamic


def prune_dynamic(engine: Engine, sparsity: float | None) -> Outcome:
    """Train a network that is sparse from the start, exchanging units at the ends of epochs."""
    if sparsity is None:
        raise UsageError("dynamic sparse training needs a sparsity: it exchanges units, and decides no number of them")
    outcome = engine.outcome(*engine.start())
    check_dynamic(engine)
    outcome.mask = first_mask(engine, outcome, sparsity)
    engine.settle(outcome)
    epochs = engine.training.epochs + engine.finetune.epochs

    def after_epoch(epoch: int) -> Mask | None:
        if (mask := exchange(engine, outcome, epoch, epochs)) is None:
            return None
        outcome.mask = mask
        engine.settle(outcome, epoch)
        return mask

    _train_in_full(engine, outcome, outcome.mask, after_epoch)
    return outcome


PRUNE: dict[str, Callable[[Engine, float | None], Outcome]] = {
    "before": prune_before,
    "during": prune_during,
    "online": prune_online,
    "dynamic": prune_dynamic,
    "after": prune_after,
}
