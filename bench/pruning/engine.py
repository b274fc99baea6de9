"""The pruning engine: how one method scores, cuts and trains on, in a cell of a matrix and on a network of one's own.

It owns the loop: it asks the pruner for scores, selects, masks and trains on. The method sees the training split only,
and the test split is sealed while any of its code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...architectures.running.cost import Cost, measured
from ...architectures.units.mask import Mask
from ...architectures.units.vector import Units
from ...datasets.examples import Examples
from ...datasets.seal import sealed
from ...methods.pruner import Adjusted, Inference, Pruner, State
from ..spec.budget import OF_UNITS, Budget
from ..spec.settings import Finetune, Training
from ..training.loop import AfterEpoch, leave, refine, train
from ..training.seeding import seeded, stream
from .adjusting import adjusted, take_
from .mask_for import mask_for
from .ranking import round_target
from .select import shuffled_within_layers

Attached = tuple[nn.Module, Inference]


@dataclass
class Outcome:
    """A pruned and trained network, its mask, what it cost, and what the method said at each pruning.

    `state` is the one that was scored last. What is kept has been the same, `held`, for `epochs_held` epochs.
    """

    network: nn.Module
    inference: Inference
    mask: Mask
    train: Cost = field(default_factory=Cost)
    score: Cost = field(default_factory=Cost)
    finetune: Cost = field(default_factory=Cost)
    adjust: Cost = field(default_factory=Cost)
    state: State | None = None
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    reports: list[dict[str, Any]] = field(default_factory=list)
    adjustments: list[dict[str, Any]] = field(default_factory=list)
    learned: dict[str, Any] = field(default_factory=dict)
    held: Tensor | None = None
    epochs_held: int = 0


@dataclass(frozen=True)
class Scored:
    """Scores, the state that they were read from, and what that cost."""

    scores: Tensor
    state: State
    cost: Cost


@dataclass(frozen=True)
class Kept:
    """A network and its inference as they were: every parameter and buffer, and what was learned beside them.

    Tensors are copied by name, so that hooks which others left on a network are not asked.
    """

    network: dict[str, Tensor]
    inference: dict[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module, inference: Inference) -> Kept:
        """As they are now."""
        return cls(cloned(_tensors_of(network)), cloned(inference.tensors()))

    @torch.no_grad()
    def into(self, network: nn.Module, inference: Inference) -> Attached:
        """The pair, of the same kind, with these values, in place."""
        for name, tensor in _tensors_of(network).items():
            tensor.copy_(self.network[name])
        inference.load_tensors(self.inference)
        return network, inference


def _tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | dict(network.named_buffers())


@dataclass(frozen=True)
class Snapshot:
    """A pair on its way through online training, before units left it: the sparsity it was cut to, its scores."""

    sparsity: float
    kept: Kept
    scored: Scored


def cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name that no training changes."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@dataclass
class Engine:
    """One method at work on one network; what does not depend on the sparsity is computed once.

    Attributes:
        pruner: the method.
        units: of the network, at the granularity that is pruned.
        split: the training examples, on `device`.
        device: where the network lives.
        start: gives the network as the method scores it first, with its inference attached; a new pair each time.
        seed: governs every draw.
        budget: what a sparsity is a share of.
        training: the training that a method which prunes before or during it takes part in.
        finetune: the training after pruning.
        trained: what the training before `start` cost.
        learned: what that training learned beside the network; None where the inference says it in the end.
        present: units that are there when the method meets the network, boolean, (units.n,); all unless given.
        untrained: gives the network as it was before any training, in a new pair; from another initialisation if told.
        advance: called after every round of scoring and every epoch.
        online: what online training passed through, and its cost, once there was one.
    """

    pruner: Pruner
    units: Units
    split: Examples
    device: torch.device
    start: Callable[[], Attached]
    seed: int = 0
    budget: Budget = OF_UNITS
    training: Training = field(default_factory=Training)
    finetune: Finetune = field(default_factory=Finetune)
    trained: Cost = field(default_factory=Cost)
    learned: dict[str, Any] | None = None
    present: Tensor | None = None
    untrained: Callable[[bool], Attached] | None = None
    advance: Callable[[], None] = lambda: None
    online: tuple[list[Snapshot], Cost] | None = field(default=None, init=False)

    @cached_property
    def first(self) -> Scored:
        """The network before anything is removed: equal for all sparsities."""
        return self.score(*self.start())

    @cached_property
    def first_report(self) -> list[dict[str, Any]]:
        """What the method says about it."""
        return self.report(self.first)

    def outcome(self, network: nn.Module, inference: Inference) -> Outcome:
        """Of a network from which nothing has left yet that was there."""
        present = torch.ones(self.units.n, dtype=torch.bool) if self.present is None else self.present
        return Outcome(network, inference, Mask(self.units, present))

    # ------------------------------------------------------------------ the steps

    def score(self, network: nn.Module, inference: Inference, part: int = 0, present: Tensor | None = None) -> Scored:
        """Scores of the network, of which the units `present` are left; `part` counts rounds, each with own draws."""
        purpose = f"score {part}"
        with measured(network, self.device) as cost, sealed(), seeded(self.seed, purpose):
            state = State(network, self.units, self.split, inference, stream(self.seed, f"{purpose} draws"), present)
            scores = self.pruner.score(state)
        self.advance()
        return Scored(scores, state, cost)

    def report(self, scored: Scored) -> list[dict[str, Any]]:
        """What the method says about what it has scored, if it says anything."""
        return [] if self.pruner.report is None else [self.pruner.report(scored.state)]

    def mask(self, scored: Scored, sparsity: float | None, among: Tensor | None = None) -> Mask:
        """The mask for a target sparsity, or for the method's own threshold (None); without `among`, of all units."""
        return mask_for(scored.scores, scored.state, self.pruner, sparsity, among, self.budget)

    def shuffled(self, mask: Mask) -> Mask:
        """As many units of every layer, at random: the control for a method that chooses more than densities."""
        return Mask(self.units, shuffled_within_layers(mask.kept, self.units, stream(self.seed, "shuffle")))

    def choose(self, outcome: Outcome, scored: Scored, sparsity: float | None, report: list[dict[str, Any]]) -> None:
        """Choose what stays among the units still present, and note what that cost and what the method says."""
        outcome.score += scored.cost
        outcome.scores, outcome.state = scored.scores, scored.state
        outcome.reports += report
        outcome.mask = self.mask(scored, sparsity, outcome.mask.kept)

    def choose_again(self, outcome: Outcome, sparsity: float | None, part: int) -> bool:
        """Score the network as it is now and prune it further, unless what the method says ends the rounds."""
        outcome.state = None  # its posterior may be large
        scored = self.score(outcome.network, outcome.inference, part, outcome.mask.kept)
        report = self.report(scored)
        if sparsity is None and self.pruner.stop is not None and self.pruner.stop([*outcome.reports, *report]):
            outcome.score += scored.cost
            outcome.reports += report
            return False
        self.choose(outcome, scored, sparsity, report)
        return True

    def settle(self, outcome: Outcome, part: int = 0) -> None:
        """What the mask leaves out leaves the inference and the network; survivors go where the method puts them."""
        if self.pruner.adjusts:
            take_(outcome.network, self._adjusted(outcome, part))
        leave(outcome.network, outcome.inference, outcome.mask)
        if outcome.held is None or not torch.equal(outcome.held, outcome.mask.kept):
            outcome.held, outcome.epochs_held = outcome.mask.kept, 0

    def _adjusted(self, outcome: Outcome, part: int) -> Adjusted:
        """The state that was scored is read only: other sparsities share the first."""
        assert outcome.state is not None, "units leave only after a choice"
        purpose = f"adjust {part}"
        with measured(outcome.state.network, self.device) as cost, sealed(), seeded(self.seed, purpose):
            found = adjusted(self.pruner, outcome.state, outcome.mask)
        outcome.adjust += cost
        outcome.adjustments.append(found.report)
        return found

    # ------------------------------------------------------------------ phases

    def in_rounds(self, sparsity: float | None, after_round: Callable[[Outcome, int], None]) -> Outcome:
        """Score and prune in the pruner's rounds; what has left in one stays away in the next.

        They end early where the method's `stop` says so. A shuffled control keeps as many units as the last round, in
        a network that no round has touched.
        `after_round` is told the number of each round, from 0 on.
        """
        rounds, outcome = self.pruner.rounds, self.outcome(*self.start())
        for i in range(rounds):
            target = round_target(sparsity, i, rounds)
            if i:
                if not self.choose_again(outcome, target, i):
                    break
            else:
                self.choose(outcome, self.first, target, self.first_report)
            if self.pruner.shuffle and i == rounds - 1:
                outcome.mask = self.shuffled(outcome.mask)
                outcome.network, outcome.inference = (outcome.network, outcome.inference) if i == 0 else self.start()
            self.settle(outcome, i)
            after_round(outcome, i)
        return outcome

    def train(self, outcome: Outcome, mask: Mask | None, after_epoch: AfterEpoch | None = None) -> None:
        """The training from the start, in which the mask holds."""
        order = stream(self.seed, "data order")
        settings, told = self.training, self.told(outcome, after_epoch)
        with seeded(self.seed, "training"):
            train(outcome.network, self.split, outcome.inference, settings, settings.epochs, order, mask, told)

    def refine(self, outcome: Outcome, epochs: int, done: int = 0, after_epoch: AfterEpoch | None = None) -> None:
        """Training on after pruning, `done` epochs of it being over."""
        refine(
            outcome.network, self.split, outcome.inference, self.training, self.finetune, self.seed, epochs,
            outcome.mask, done, self.told(outcome, after_epoch),
        )  # fmt: skip

    def told(self, outcome: Outcome, after_epoch: AfterEpoch | None = None) -> AfterEpoch:
        """What happens after each epoch of training a network: it is counted, then `after_epoch` may prune."""

        def told(epoch: int) -> Mask | None:
            outcome.epochs_held += 1
            mask = after_epoch(epoch) if after_epoch else None
            self.advance()
            return mask

        return told
