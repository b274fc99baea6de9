"""The face for Python: train a network of one's own by any registered method, and prune it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from ...architectures.running.forms import Forward, release_
from ...architectures.running.modes import evaluating, take_modes_, take_types_
from ...architectures.units.vector import Granularity
from ...datasets.data import AnyLikelihood, Data
from ...datasets.errors import UsageError
from ...datasets.examples import Examples
from ...datasets.plain import as_plain
from ...methods.closed_forms.likelihood import summed_loss
from ..pruning.engine import Attached, Engine, Kept
from ..spec.budget import Budget
from ..spec.settings import Training
from ..training.loop import without_noise
from .gathering import AnyData
from .given import Given
from .inputs import check_epochs, check_tuned
from .pruned import Pruned
from .readers import read
from .work import asked, work


def fit(
    network: nn.Module,
    data: AnyData,
    method: str = "magnitude",
    sparsity: float | Literal["auto"] = 0.9,
    *,
    epochs: int,
    structured: bool | Granularity = False,
    validation: AnyData | None = None,
    patience: int | None = None,
    finetune: int = 0,
    training: Training | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    batch_norm: Literal["keep", "reestimate"] = "keep",
    likelihood: AnyLikelihood | None = None,
    forward: Forward | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Pruned:
    """Train a copy of `network` by a method, or go on training it, and prune it; the network is left as it is.

    All methods can be used: those that learn a posterior while they train, and those that prune before training,
    during it or online.

    Args:
        network: any module that maps a batch of inputs to outputs, trained already or not.
        data: training examples, see `prune`.
        method: name of a registered method; see `bayesprune list methods`.
        sparsity: share of the units to remove, in [0, 1), or "auto" for the method's own threshold.
        epochs: of training before the pruning of a method that prunes after it, else with the pruning.
        structured: what is removed, see `prune`.
        validation: examples apart, in any form of `data`; those of a Data unless given. They choose among the
            settings of a method that is to be "tuned", and the epoch at which training stops, see `patience`.
        patience: with validation examples, stop when so many epochs have brought no better negative log likelihood on
            them, and go back to the best epoch; None trains all epochs and keeps the last. For methods that prune
            after training; epochs in which a divergence is still warming up are not judged.
        finetune: epochs of training after pruning, with the zeros held.
        training: optimiser, learning rate and batch size; `epochs` counts, not its own.
        budget: what the sparsity is a share of, see `prune`.
        batch_norm: "reestimate" sets BatchNorm's statistics anew after pruning.
        likelihood: where the data do not say it, or a loss of your own, see `prune`.
        forward: (network, batch) -> (outputs, targets), see `prune`.
        seed: governs every random choice.
        progress: show it, on a terminal.
        options: the method's own options, and `when`, `rounds`, `allocation`.

    Raises:
        UsageError: an unknown method or option, an impossible sparsity, data that do not fit the network, all before
            any work begins.
        DivergedError: the training loss became infinite or NaN.
    """
    wish = asked(method, structured, finetune, training, budget, batch_norm, seed, options).at(sparsity)
    epochs, patience = as_plain(epochs), as_plain(patience)
    check_epochs("epochs", epochs, 1)
    job = work(network, data, wish, likelihood, forward, trains=True)
    apart = data.validation if validation is None and isinstance(data, Data) else validation
    judged = None if apart is None else read(release_(job.replica), apart, seed, job.split.likelihood, forward)[0]
    if patience is not None:
        check_epochs("patience", patience, 1)
        if judged is None:
            raise UsageError("patience stops training by the loss on validation examples: give validation=")
    if judged is None:
        check_tuned(method, wish.pruner.inference(), "give validation=")
    trainer = _Trainer(judged, patience)
    given = job.given(trainer)
    trainer.engine = engine = job.engine(given, epochs)
    engine.untrained = partial(_untrained, given)
    pruned = job.done(engine, given, epochs + wish.pruner.rounds + wish.finetune.epochs, progress, {"epochs": epochs})
    dense = given.dense()
    take_types_(dense, job.dense)
    take_modes_(dense, job.dense)
    given.let_go()
    return replace(pruned, dense=dense)


def _untrained(given: Given, fresh: bool) -> Attached:
    """The network before its training here, where survivors are rewound to."""
    if fresh:
        raise UsageError("rewind='transplant' needs another initialisation of the network: run it in a matrix")
    return given.attached()


@dataclass
class _Trainer:
    """Trains the network before it is pruned: under every candidate inference, of which validation chooses one."""

    validation: Examples | None
    patience: int | None
    engine: Engine = field(init=False)

    def __call__(self, given: Given) -> Attached:
        candidates = given.fresh().candidates()
        best: tuple[float, Attached] | None = None
        for candidate in candidates:
            pair = self._train(given.attached(candidate))
            loss = self.loss(pair[0]) if len(candidates) > 1 else 0.0
            if best is None or loss < best[0]:
                best, given.inference = (loss, pair), candidate
        assert best is not None
        return best[1]

    def _train(self, pair: Attached) -> Attached:
        engine, (network, inference) = self.engine, pair
        if self.patience is None or self.validation is None:
            engine.train(engine.outcome(network, inference), None)
            return pair
        watch = _Patience(self, pair, self.patience)
        with suppress(_Enough):
            engine.train(engine.outcome(network, inference), None, watch)
        return watch.best()

    @torch.no_grad()
    def loss(self, network: nn.Module) -> float:
        """Mean negative log likelihood of the validation examples, up to what real targets' noise adds."""
        assert self.validation is not None
        with evaluating(network):
            found = summed_loss(network, self.validation).item() / self.validation.terms
        return found if math.isfinite(found) else math.inf


class _Enough(Exception):
    """Training has stopped to bring anything."""


@dataclass
class _Patience:
    """Called after each epoch: keeps the best network so far, and ends a training that brings no better one."""

    trainer: _Trainer
    pair: Attached
    epochs: int
    least: float = math.inf
    since: int = 0
    kept: Kept | None = None

    def __call__(self, epoch: int) -> None:
        network, inference = self.pair
        engine = self.trainer.engine
        if epoch < inference.settles:
            return
        without_noise(network, inference, engine.split, engine.training)
        loss = self.trainer.loss(network)
        self.since += 1
        if loss < self.least or self.kept is None:
            self.least, self.since = loss, 0
            self.kept = Kept.of(network, inference)
        if self.since >= self.epochs:
            raise _Enough

    def best(self) -> Attached:
        """The pair as it was after the best epoch."""
        return self.pair if self.kept is None else self.kept.into(*self.pair)
