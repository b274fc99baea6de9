"""What an attached method removes, and when: all along, when told to, or at the end of the training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from ...architectures.running.cost import Cost
from ...architectures.units.mask import Mask
from ...datasets.errors import UsageError
from ...datasets.plain import as_plain
from ...methods.pruner import Inference, State
from ..pruning.engine import Engine, Kept, Outcome, Scored, Snapshot
from ..pruning.gradual import pruning_span
from ..pruning.schedules import Exchanging, Gradually, Online, cut_online
from ..training.steps import AfterEpoch
from .work import Asked


class Cuts:
    """The outcome so far of a training that is somebody else's.

    Attributes:
        asked: what is to be pruned, and how much.
        engine: prunes, with the examples that it was given last.
        outcome: mask, scores and reports at present.
        after_epoch: what is done after each epoch, by a method that prunes during training.
    """

    def __init__(
        self, asked: Asked, engine: Engine, network: nn.Module, inference: Inference, epochs: int | None
    ) -> None:
        self.asked, self.engine, self._epochs = asked, engine, epochs
        self.outcome = engine.outcome(network, inference)
        self.after_epoch = self._schedule()

    @property
    def mask(self) -> Mask:
        """What is kept at present."""
        return self.outcome.mask

    @mask.setter
    def mask(self, mask: Mask) -> None:
        self.outcome.mask = mask

    @property
    def some(self) -> bool:
        """Whether anything has left."""
        return self.mask.count < self.mask.units.n

    def _schedule(self) -> AfterEpoch | None:
        when, epochs = self.asked.pruner.when, self._epochs or 0
        if when == "during":
            span = pruning_span(epochs, 0, self.asked.sparsity == "auto")
            return Gradually(self.engine, self.outcome, self.asked.target, span)
        if when == "dynamic":
            return Exchanging.begun(self.engine, self.outcome, self.asked.target, epochs)
        return Online(self.engine, self.outcome, epochs) if when == "online" else None

    # ------------------------------------------------------------------ cutting

    def cut(self, sparsity: float | Literal["auto"] | None) -> None:
        """Cut the network as it is now; `sparsity` is that which was asked for, unless given."""
        target = self._target(sparsity)
        self._take(self._ready().in_rounds(target, lambda outcome, i: None))

    def cut_at_last(self, sparsity: float | Literal["auto"] | None, epochs: int) -> None:
        """Cut what is still to be cut after so many `epochs` of training."""
        when = self.asked.pruner.when
        if when == "online":
            snapshots = self._snapshots
            self._take(cut_online(self._ready(), snapshots, self._target(sparsity)))
        elif when == "after":
            if sparsity is not None or not self.some:
                self.cut(sparsity)
        elif sparsity is not None:
            raise UsageError(f"this method prunes {when} training: give the sparsity to attach, not to finish")
        elif (target := self.asked.target) is not None and self.mask.sparsity < round(target, 6) - 1e-4:
            warnings.warn(
                f"the loop ended after {epochs} epochs, of {self._epochs} that attach was told, at a sparsity of "
                f"{self.mask.sparsity:.3f}: the rest up to {target} is cut now", stacklevel=5,
            )  # fmt: skip
            self.cut(target)

    def learned(self, trained: bool) -> dict[str, Any] | None:
        """What was learned in training, or is now, of a network that was trained before and never here."""
        outcome = self.outcome
        if not trained and self.asked.pruner.when == "after":
            return outcome.inference.adapt(outcome.network, self._ready().split)
        return outcome.inference.learned(outcome.network)

    def _ready(self) -> Engine:
        """The engine at the network as it is now."""
        return replace(self.engine, present=self.mask.kept)

    def _take(self, outcome: Outcome) -> None:
        self.outcome.reports = [*self.outcome.reports, *outcome.reports]
        self.outcome.mask, self.outcome.scores = outcome.mask, outcome.scores

    def _target(self, sparsity: float | Literal["auto"] | None) -> float | None:
        if sparsity is not None:
            self.asked = self.asked.at(sparsity)
        if self.asked.sparsity is None:
            raise UsageError("how much is to be removed? give sparsity=, in [0, 1) or 'auto', to finish or to attach")
        return self.asked.target

    # ------------------------------------------------------------------ saving

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors, numbers and texts only."""
        snapshots = self.after_epoch.snapshots if isinstance(self.after_epoch, Online) else []
        return {
            "kept": self.mask.kept.clone(),
            "scores": self.outcome.scores.clone(),
            "reports": as_plain(self.outcome.reports),
            "snapshots": [
                {"sparsity": s.sparsity, "network": s.kept.network, "inference": s.kept.inference,
                 "scores": s.scored.scores}
                for s in snapshots
            ],
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from it; the inference takes the mask's part."""
        kept: Tensor = state["kept"]
        self.mask = Mask(self.engine.units, kept.clone())
        if self.some:
            self.outcome.inference.reduce(self.outcome.network, self.mask)
        self.outcome.scores, self.outcome.reports = state["scores"].clone(), list(state["reports"])
        if isinstance(self.after_epoch, Online):
            self.after_epoch.snapshots = [self._snapshot(part) for part in state["snapshots"]]

    @property
    def _snapshots(self) -> list[Snapshot]:
        assert isinstance(self.after_epoch, Online)
        if not self.after_epoch.snapshots:
            raise UsageError("an online method prunes every ten epochs: train at least so many, with after_epoch")
        return self.after_epoch.snapshots

    def _snapshot(self, part: Mapping[str, Any]) -> Snapshot:
        state = State(self.outcome.network, self.engine.units, self.engine.split, self.outcome.inference)
        scored = Scored(part["scores"], state, Cost())
        return Snapshot(part["sparsity"], Kept(part["network"], part["inference"]), scored)
