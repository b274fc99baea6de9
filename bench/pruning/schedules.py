"""When units are removed: before training, after it, or gradually during it.

The harness owns the loop: it asks the pruner for scores, selects, masks and trains on. The method sees the
training split only, and the test split is sealed while any of its code runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...architectures.discovery.units_of import units
from ...architectures.running.cost import Cost, measured
from ...architectures.units.mask import Mask
from ...architectures.units.vector import Units
from ...datasets.data import Data
from ...datasets.seal import sealed
from ...methods.build import build as build_pruner
from ...methods.pruner import Inference, Pruner, State
from ..results.store import Store
from ..spec.run import Run
from ..training.fits import Fit, attached, fitted, initial_network, refine
from ..training.loop import AfterEpoch, leave, train, without_noise
from ..training.seeding import seeded, stream
from .gradual import gradual_share, is_pruned_after, pruning_span
from .mask_for import mask_for
from .ranking import round_target
from .select import shuffled_within_layers

# Online pruning removes units every so many epochs, from the first sparsity to the last (Dhahri et al. 2024).
ONLINE_EVERY = 10
ONLINE_SPAN = (0.1, 0.99)


@dataclass
class Outcome:
    """A pruned and trained network, its mask, what it cost, and what the method said at each pruning."""

    network: nn.Module
    inference: Inference
    mask: Mask
    train: Cost
    score: Cost
    finetune: Cost = field(default_factory=Cost)
    reports: list[dict[str, Any]] = field(default_factory=list)
    learned: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """A network on its way through online training, before units left it: the sparsity it was cut to, its scores."""

    sparsity: float
    fit: Fit
    scores: Tensor
    score: Cost


@dataclass
class Workbench:
    """What the sparsities of one method on one fit share: data, fit, scores that do not depend on the sparsity."""

    run: Run
    data: Data
    store: Store
    device: torch.device
    pruner: Pruner = field(init=False)

    def __post_init__(self) -> None:
        self.pruner = build_pruner(self.run.method.name, **self.run.method.options)

    @cached_property
    def fit(self) -> Fit:
        """The trained network that all post-hoc methods share, and the dense control."""
        return fitted(self.run, self.data, self.store, self.device)

    @cached_property
    def units(self) -> Units:
        """The units of the network at the run's granularity."""
        return units(initial_network(self.run, self.data), self.run.units, self.data.train.x[:2])

    @cached_property
    def first_scores(self) -> tuple[Tensor, State, Cost]:
        """Scores of the network before anything is removed: equal for all sparsities."""
        network, inference = self.start()
        return self.score(network, inference)

    @cached_property
    def snapshots(self) -> tuple[list[Snapshot], Cost]:
        """What online training passes through, and its cost: one run for all sparsities."""
        return _train_online(self)

    def prune(self, sparsity: float | None) -> Outcome:
        """Prune and train at the moments the method asks for; None is the method's own threshold."""
        _ = self.fit  # its dense control is evaluated on the test split, which is then sealed
        with sealed():
            outcome = PRUNE[self.pruner.when](self, sparsity)
            after = self.pruner.when == "after"  # what training learned then, fine-tuning has since blurred
            outcome.learned = self.fit.learned if after else outcome.inference.learned(outcome.network)
            outcome.inference.detach(outcome.network)
            return outcome

    def start(self) -> tuple[nn.Module, Inference]:
        """A fresh network as the method scores it first, with its inference attached."""
        if self.pruner.when == "after":
            return self.fit.restore(self.data, self.device)
        return attached(self.run, self.data, self.fit.inference, self.device)

    def score(self, network: nn.Module, inference: Inference, part: int = 0) -> tuple[Tensor, State, Cost]:
        """Scores, the state they read and their cost; `part` counts the rounds, each with its own draws."""
        purpose = f"score {part}"
        with measured(network, self.device) as cost, sealed(), seeded(self.run.seed, purpose):
            state = State(network, self.units, self.data.train, inference, stream(self.run.seed, f"{purpose} draws"))
            scores = self.pruner.score(state)
        return scores, state, cost

    def mask(self, scores: Tensor, state: State, sparsity: float | None, among: Tensor | None = None) -> Mask:
        """The mask for a target sparsity, or for the method's own threshold (None); without `among`, of all units."""
        return mask_for(scores, state, self.pruner, sparsity, among, self.run.budget)

    def report(self, state: State) -> list[dict[str, Any]]:
        """What the method says about what it has scored, if it says anything."""
        return [] if self.pruner.report is None else [self.pruner.report(state)]

    @cached_property
    def first_report(self) -> list[dict[str, Any]]:
        """What the method says about the network before anything is removed."""
        return self.report(self.first_scores[1])

    def first_mask(self, sparsity: float | None) -> Mask:
        """The mask of the first of the pruner's rounds."""
        scores, state, _ = self.first_scores
        return self.mask(scores, state, round_target(sparsity, 0, self.pruner.rounds))

    def shuffled(self, mask: Mask) -> Mask:
        """As many units of every layer, at random: the control for a method that chooses more than densities."""
        return Mask(self.units, shuffled_within_layers(mask.kept, self.units, stream(self.run.seed, "shuffle")))


# ---------------------------------------------------------------------- when units are removed


def prune_after(bench: Workbench, sparsity: float | None) -> Outcome:
    """Train, then prune in `rounds`, training on after each; the fine-tuning epochs are shared among rounds."""
    rounds, epochs = bench.pruner.rounds, bench.run.finetune.epochs
    network, inference = bench.start()
    outcome = Outcome(network, inference, bench.first_mask(sparsity), bench.fit.cost, bench.first_scores[2])
    outcome.reports += bench.first_report
    if bench.pruner.shuffle:
        outcome.mask = bench.shuffled(outcome.mask)
    for i in range(rounds):
        if i:
            scores, state, cost = bench.score(network, inference, i)
            outcome.score += cost
            outcome.reports += bench.report(state)
            outcome.mask = bench.mask(scores, state, round_target(sparsity, i, rounds), outcome.mask.kept)
        leave(network, inference, outcome.mask)
        done = i * epochs // rounds
        with measured(network, bench.device) as cost:
            refine(bench.run, bench.data, network, inference, (i + 1) * epochs // rounds - done, outcome.mask, done)
        outcome.finetune += cost
    return outcome


def prune_before(bench: Workbench, sparsity: float | None) -> Outcome:
    """Prune at initialisation, in `rounds` without training between them, then train what is left."""
    network, inference = bench.start()
    outcome = Outcome(network, inference, bench.first_mask(sparsity), Cost(), bench.first_scores[2])
    outcome.reports += bench.first_report
    for i in range(1, bench.pruner.rounds):
        leave(network, inference, outcome.mask)
        scores, state, cost = bench.score(network, inference, i)
        outcome.score += cost
        outcome.reports += bench.report(state)
        outcome.mask = bench.mask(scores, state, round_target(sparsity, i, bench.pruner.rounds), outcome.mask.kept)
    if bench.pruner.shuffle:
        outcome.mask = bench.shuffled(outcome.mask)
        outcome.network, outcome.inference = bench.start()
    leave(outcome.network, outcome.inference, outcome.mask)
    _train_in_full(bench, outcome, outcome.mask)
    return outcome


def prune_during(bench: Workbench, sparsity: float | None) -> Outcome:
    """Prune while training, after every few epochs; what has left stays away, and its penalty is gone.

    The method's own decision is taken from the first of the training's epochs on to the last (Wright et al. 2024); a
    sparsity is reached gradually, s_t = s (1 - (1 - t)³) over a stretch of all epochs (Zhu & Gupta 2017).
    """
    network, inference = bench.start()
    everything = Mask(bench.units, torch.ones(bench.units.n, dtype=torch.bool))
    outcome = Outcome(network, inference, everything, Cost(), Cost())
    span = pruning_span(bench.run, sparsity is None)

    def after_epoch(epoch: int) -> Mask | None:
        if not is_pruned_after(epoch, span, bench.pruner.every):
            return None
        target = None if sparsity is None else sparsity * gradual_share(epoch, span)
        scores, state, cost = bench.score(network, inference, epoch)
        outcome.score += cost
        outcome.reports += bench.report(state)
        outcome.mask = bench.mask(scores, state, target, outcome.mask.kept)
        leave(network, inference, outcome.mask)
        return outcome.mask

    _train_in_full(bench, outcome, None, after_epoch)
    return outcome


def prune_online(bench: Workbench, sparsity: float | None) -> Outcome:
    """The network at the first pruning of online training that reaches the sparsity, cut to it and trained on."""
    snapshots, train = bench.snapshots
    reached = (s for s in snapshots if sparsity is not None and s.sparsity >= sparsity)
    at = next(reached, snapshots[-1])
    network, inference = at.fit.restore(bench.data, bench.device)
    state = State(network, bench.units, bench.data.train, inference)
    outcome = Outcome(network, inference, bench.mask(at.scores, state, sparsity), train, at.score)
    leave(network, inference, outcome.mask)
    with measured(network, bench.device) as outcome.finetune:
        refine(bench.run, bench.data, network, inference, bench.run.finetune.epochs, outcome.mask)
    return outcome


def online_sparsity(epoch: int, epochs: int) -> float:
    """s_e = 0.1 + 0.89 ⌊e/10⌋ / ⌊E/10⌋ at the end of epoch e of E (Dhahri et al. 2024)."""
    first, last = ONLINE_SPAN
    return first + (last - first) * (epoch // ONLINE_EVERY) / (epochs // ONLINE_EVERY)


def _train_online(bench: Workbench) -> tuple[list[Snapshot], Cost]:
    """Train once; every ten epochs units are cut to a rising sparsity, and may grow back until the next time."""
    network, inference = attached(bench.run, bench.data, bench.fit.inference, bench.device)
    snapshots: list[Snapshot] = []
    settings = bench.run.training

    def after_epoch(epoch: int) -> None:
        if epoch % ONLINE_EVERY:
            return
        without_noise(network, inference, bench.data.train, settings)
        scores, state, cost = bench.score(network, inference, epoch)
        states = (_copied(network.state_dict()), _copied(inference.tensors()))
        fit = replace(bench.fit, network_state=states[0], inference_state=states[1])
        snapshots.append(Snapshot(online_sparsity(epoch, settings.epochs), fit, scores, cost))
        bench.mask(scores, state, snapshots[-1].sparsity).apply_(network)

    with measured(network, bench.device) as cost, seeded(bench.run.seed, "training"):
        order = stream(bench.run.seed, "data order")
        train(network, bench.data.train, inference, settings, settings.epochs, order, None, after_epoch)
    return snapshots, cost.without(sum((s.score for s in snapshots), Cost()))


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


PRUNE: dict[str, Callable[[Workbench, float | None], Outcome]] = {
    "before": prune_before,
    "during": prune_during,
    "online": prune_online,
    "after": prune_after,
}


def _train_in_full(
    bench: Workbench, outcome: Outcome, mask: Mask | None, after_epoch: AfterEpoch | None = None
) -> None:
    """Both phases that a post-hoc method has, training and fine-tuning, with the same epochs and learning rates."""
    run, network, inference, data = bench.run, outcome.network, outcome.inference, bench.data
    for phase in ("train", "finetune"):
        scored = outcome.score
        with measured(network, bench.device) as cost:
            if phase == "finetune":
                final = mask if after_epoch is None else outcome.mask
                refine(run, data, network, inference, run.finetune.epochs, final, 0, after_epoch)
            else:
                with seeded(run.seed, "training"):
                    order = stream(run.seed, "data order")
                    train(network, data.train, inference, run.training, run.training.epochs, order, mask, after_epoch)
        inner = outcome.score.without(scored)
        setattr(outcome, phase, cost.without(inner))
