"""A workbench: the engine for a cell of a matrix, on a network that was trained here or comes from the store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ...architectures.discovery.units_of import units
from ...datasets.data import Data
from ...methods.build import build as build_pruner
from ...methods.pruner import Inference
from ..evaluation.risk_bound import Centre
from ..pruning.engine import Engine, Outcome
from ..pruning.schedules import prune
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
        order = torch.randperm(len(train), generator=stream(self.run.seed, "prior half"))
        first, second = (train[part.sort().values] for part in order.tensor_split(2))
        network, inference, _ = train_one(self.run, replace(self.data, train=first), self.fit.inference, self.device)
        inference.detach(network)
        return Centre(dict(network.named_parameters()), second)

    @cached_property
    def untrained(self) -> nn.Module:
        """The network as it is built, which no method has seen."""
        return initial_network(self.run, self.data)

    @cached_property
    def engine(self) -> Engine:
        """The engine of the cell's method, on networks as the method scores them first."""
        run, fit = self.run, self.fit
        pruner = build_pruner(run.method.name, **run.method.candidates[0].options)
        parts = units(self.untrained, run.units, self.data.train[:2].x)
        engine = Engine(
            pruner, parts, self.data.train, self.device, self._attached, run.seed, run.budget, run.training,
            run.finetune,
        )  # fmt: skip
        if pruner.when == "after":
            engine.start = lambda: fit.restore(self.data, self.device)
            engine.trained, engine.learned, engine.untrained = fit.cost, fit.learned, self._untrained
        return engine

    def _untrained(self, fresh: bool) -> tuple[nn.Module, Inference]:
        """The pair before training; if `fresh`, the network is that of another seed."""
        seed = derived(self.run.seed, "transplant") if fresh else self.run.seed
        return attached(self.run.model_copy(update={"seed": seed}), self.data, self.fit.inference, self.device)

    def _attached(self) -> tuple[nn.Module, Inference]:
        return attached(self.run, self.data, self.fit.inference, self.device)

    def prune(self, sparsity: float | None) -> Outcome:
        """Prune and train at the moments the method asks for; None is the method's own threshold."""
        return prune(self.engine, sparsity)
