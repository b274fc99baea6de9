"""Before anything is trained: which cells make no sense, and what cannot run at all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ...architectures.discovery.units_of import units
from ...architectures.running.outputs import refuse_probabilities
from ...datasets.data import Split
from ...datasets.errors import NotApplicable, UsageError
from ...datasets.seal import sealed
from ...methods.build import build as build_pruner
from ..pruning.ranking import keep_count
from ..pruning.schedules import ONLINE_EVERY
from ..spec.run import Choice, Run
from ..training.fits import inference_of, initial_network
from .workers import data_of


def applicable(run: Run, network: nn.Module, example: Tensor) -> None:
    """Raise NotApplicable, before anything is trained, for a cell that makes no sense; `network` is untrained."""
    pruner = build_pruner(run.method.name, **run.method.options)
    if run.sparsity == "auto" and not pruner.decides:
        raise NotApplicable(f"method {run.method.label!r} has no threshold of its own: it cannot choose a sparsity")
    if pruner.when == "online" and run.training.epochs < ONLINE_EVERY:
        raise NotApplicable(f"online pruning acts every {ONLINE_EVERY} epochs; train for at least as many")
    if pruner.allocation == "2:4" and run.sparsity != 0.5:
        raise NotApplicable(f"the 2:4 pattern keeps half of the weights; it has no sparsity {run.sparsity}")
    try:
        run.budget.check(run.units != "weights")
    except UsageError as error:
        raise NotApplicable(str(error)) from error
    if run.units != "weights":
        if pruner.allocation in ("erk", "2:4"):
            raise NotApplicable(f"the {pruner.allocation} allocation is defined on weight tensors, not on {run.units}")
        try:
            units(network, run.units, example)
        except UsageError as error:
            raise NotApplicable(str(error)) from error


def attachable(run: Run, network: nn.Module, train: Split) -> None:
    """Raise NotApplicable for an inference that is not for such networks; what else goes wrong fails in its cell."""
    replica = copy.deepcopy(network)  # some inferences change the weights that training starts from
    try:
        with sealed():
            inference_of(run).attach(replica, units(replica, "weights"), train)
    except NotApplicable:
        raise
    except Exception:  # it will fail again in its cell, and be recorded
        return


def gives_logits(network: nn.Module, train: Split) -> None:
    """Raise UsageError for a network that gives probabilities; what else goes wrong with it fails in its cell."""
    try:
        refuse_probabilities(network, train)
    except UsageError:
        raise
    except Exception:
        return


def preflight(cells: Sequence[Run]) -> dict[str, NotApplicable]:
    """Load every data set and build every network once.

    Returns the reasons of cells that make no sense, by key; raises UsageError for what cannot run at all.
    """
    senseless: dict[str, NotApplicable] = {}
    for _, group in grouped(cells, lambda r: in_full(r.dataset, r.architecture)):
        data = data_of(group[0])
        network = initial_network(group[0], data)
        gives_logits(network, data.train)
        weights = units(network, "weights")
        for _, alike in grouped(group, lambda r: (in_full(r.method), r.units, str(r.sparsity))):
            try:
                applicable(alike[0], network, data.train.x[:2])
            except NotApplicable as reason:
                senseless |= {r.key: reason for r in alike}
        for _, alike in grouped(group, lambda r: (in_full(r.method), r.units)):
            try:
                attachable(alike[0], network, data.train)
            except NotApplicable as reason:
                senseless = {r.key: reason for r in alike} | senseless
        for sparsity in {r.sparsity for r in group if r.sparsity != "auto" and r.units == "weights"}:
            try:
                keep_count(weights.n, sparsity)
            except UsageError as error:
                place = f"{group[0].architecture.label} on {group[0].dataset.label}"
                raise UsageError(f"{place}: {error}") from error
    return senseless


def in_full(*choices: Choice) -> tuple[str, ...]:
    """Choices as text: labels may round numbers, these do not."""
    return tuple(choice.model_dump_json() for choice in choices)


def grouped(runs: Sequence[Run], by: Callable[[Run], Any]) -> list[tuple[Any, list[Run]]]:
    """Runs that agree in what `by` says of them, in the order of the first of each group."""
    groups: dict[Any, list[Run]] = {}
    for r in runs:
        groups.setdefault(by(r), []).append(r)
    return list(groups.items())
