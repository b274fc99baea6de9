"""A workbench: the engine for a cell of a matrix, on a network that was trained here or comes from the store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ...architectures.discovery.units_of import units
from ...architectures.units.mask import Mask
from ...datasets.data import Data
from ...datasets.errors import NotApplicable
from ...datasets.examples import Examples
from ...methods.build import build as build_pruner
from ...methods.pruner import Inference
from ..evaluation.risk_bound import Centre
from ..pruning.engine import Engine, Kept, Outcome
from ..pruning.schedules import prune, prune_given
from ..results.store import Store
from ..spec.run import Run
from ..training.fits import Fit, attached, fit_key, fitted, inference_of, initial_network, train_one
from ..training.seeding import derived, stream


@dataclass
class Workbench:
    """What the sparsities of one method on one fit share."""

    run: Run
    data: Data
    store: Store
    device: torch.device

    @cached_property
    def candidates(self) -> list[Workbench]:
        """Workbenches of the cells among which validation data choose; this one alone, where nothing is tuned."""
        runs = self.run.candidates
        return [replace(self, run=run) for run in runs] if len(runs) > 1 else [self]

    @cached_property
    def fit(self) -> Fit:
        """The trained network that all post-hoc methods share, and the dense control."""
        return fitted(self.run, self.data, self.store, self.device)

    @cached_property
    def fit_origin(self) -> dict[str, Any]:
        """Notes on the machine that trained the fit; none of a fit from before they were taken."""
        key = fit_key(self.run, inference_of(self.run))
        return (self.store.tensors_head("fits", key) or ("", {}))[1]

    @cached_property
    def centre(self) -> Centre:
        """Of the prior of a certificate: the initial network, or one that half of the examples have trained."""
        train = self.data.train
        if self.run.risk_bound == "initial":
            return Centre(dict(self.untrained.named_parameters()), train)
        network, inference = self.prior.start()
        inference.detach(network)
        return Centre(dict(network.named_parameters()), self._halves[1], self.run.mask_from == "prior")

    @cached_property
    def _halves(self) -> tuple[Examples, Examples]:
        """The examples of the prior, and those of the bound."""
        order = torch.randperm(len(self.data.train), generator=stream(self.run.seed, "prior half"))
        first, second = (self.data.train[part.sort().values] for part in order.tensor_split(2))
        return first, second

    @cached_property
    def prior(self) -> Engine:
        """The engine of the cell's method where half of the examples are all that there are."""
        half = replace(self.data, train=self._halves[0])
        kept = Kept.of(*train_one(self.run, half, self.fit.inference, self.device)[:2])
        engine = self._engine(half)
        engine.start = lambda: kept.into(*attached(self.run, half, self.fit.inference, self.device))
        return engine

    @cached_property
    def untrained(self) -> nn.Module:
        """The network as it is built, which no method has seen."""
        return initial_network(self.run, self.data)

    @cached_property
    def engine(self) -> Engine:
        """The engine of the cell's method, on networks as the method scores them first."""
        engine, fit = self._engine(self.data), self.fit
        if engine.pruner.when == "after":
            engine.start = lambda: fit.restore(self.data, self.device)
            engine.trained, engine.learned, engine.untrained = fit.cost, fit.learned, self._untrained
        return engine

    def _engine(self, data: Data) -> Engine:
        """On networks before training."""
        run = self.run
        pruner = build_pruner(run.method.name, **run.method.candidates[0].options)
        parts = units(self.untrained, run.units, self.data.train[:2].x)
        return Engine(
            pruner, parts, data.train, self.device, self._attached, run.seed, run.budget, run.training, run.finetune
        )

    def _untrained(self, fresh: bool) -> tuple[nn.Module, Inference]:
        """The pair before training; if `fresh`, the network is that of another seed."""
        seed = derived(self.run.seed, "transplant") if fresh else self.run.seed
        return attached(self.run.model_copy(update={"seed": seed}), self.data, self.fit.inference, self.device)

    def _attached(self) -> tuple[nn.Module, Inference]:
        return attached(self.run, self.data, self.fit.inference, self.device)

    def prune(self, sparsity: float | None) -> Outcome:
        """Prune and train at the moments the method asks for; None is the method's own threshold.

        Raises NotApplicable for a mask of the prior's examples where no network is there to receive it.
        """
        if self.run.mask_from == "all":
            return prune(self.engine, sparsity)
        if self.engine.pruner.when != "after" or self.engine.pruner.rewind is not None:
            raise NotApplicable(
                f"method {self.run.method.label} prunes while it trains, and a mask of the prior's examples is laid on "
                "a network that all examples have trained: use when: after, without rewind, or mask_from: all"
            )
        chosen = prune(self.prior, sparsity)
        outcome = prune_given(self.engine, Mask(self.engine.units, chosen.mask.kept))
        outcome.score += chosen.score + chosen.adjust + chosen.finetune
        return outcome
