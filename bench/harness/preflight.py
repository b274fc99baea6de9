"""Before anything is trained: which cells make no sense, and what cannot run at all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from ...architectures.discovery.units_of import units
from ...architectures.running.outputs import refuse_probabilities
from ...datasets.data import Data
from ...datasets.errors import NotApplicable, UsageError, one_line
from ...datasets.examples import Examples
from ...datasets.seal import sealed
from ...methods import registry as methods
from ...methods.build import build as build_pruner
from ..isolation.isolated import LeftBehind, isolated
from ..pruning.ranking import keep_count
from ..pruning.schedules import ONLINE_EVERY
from ..pruning.select import OF_WEIGHTS
from ..spec.run import Choice, Run
from ..training.fits import inference_of, initial_network
from .interrupts import interrupted
from .workers import data_of, forget_data


def applicable(run: Run, network: nn.Module, example: Tensor) -> None:
    """Raise NotApplicable, before anything is trained, for a cell that makes no sense; `network` is untrained."""
    pruner = build_pruner(run.method.name, **run.method.candidates[0].options)
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
        if pruner.when == "dynamic":
            raise NotApplicable("dynamic sparse training grows single weights: a unit of zeros gets no gradient")
        if pruner.allocation in OF_WEIGHTS:
            raise NotApplicable(f"the {pruner.allocation} allocation is defined on weight tensors, not on {run.units}")
        try:
            units(network, run.units, example)
        except UsageError as error:
            raise NotApplicable(str(error)) from error


def attachable(run: Run, network: nn.Module, train: Examples) -> None:
    """Raise NotApplicable for an inference that is not for such networks; any other error is left to its cell.

    Methods of plug-in files are attached in the process of their cells alone.
    """
    if methods.is_of_plugin(run.method.name):
        return
    replica = copy.deepcopy(network)  # some inferences change the weights that training starts from
    try:
        with sealed():
            inference_of(run).attach(replica, units(replica, "weights"), train)
    except NotApplicable:
        raise
    except BaseException:  # left to fail, and be recorded, in its cell
        if interrupted():
            raise
        return


def gives_logits(network: nn.Module, train: Examples) -> None:
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
        network = _built(group[0], data)
        gives_logits(network, data.train)
        weights = units(network, "weights")
        for _, alike in grouped(group, lambda r: (in_full(r.method), r.units, str(r.sparsity))):
            try:
                with sealed(), _unharmed(data):
                    applicable(alike[0], network, data.train[:2].x)
            except NotApplicable as reason:
                senseless |= {r.key: reason for r in alike}
        for _, alike in grouped(group, lambda r: (in_full(r.method), r.units)):
            try:
                with _unharmed(data):
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


def _built(run: Run, data: Data) -> nn.Module:
    """The untrained network; raises UsageError for sizes that no network, or no memory, has."""
    try:
        return initial_network(run, data)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"architecture {run.architecture.label!r} cannot be built: {one_line(error)}") from error


@contextmanager
def _unharmed(data: Data) -> Iterator[None]:
    """What an inference does to the state of this process is undone; in its cell it will be told."""
    with suppress(LeftBehind), isolated(data) as traces:
        yield
    if traces.data:
        forget_data()


def in_full(*choices: Choice) -> tuple[str, ...]:
    """Choices as text: labels may round numbers, these do not."""
    return tuple(choice.model_dump_json() for choice in choices)


def grouped(runs: Sequence[Run], by: Callable[[Run], Any]) -> list[tuple[Any, list[Run]]]:
    """Runs that agree in what `by` says of them, in the order of the first of each group."""
    groups: dict[Any, list[Run]] = {}
    for r in runs:
        groups.setdefault(by(r), []).append(r)
    return list(groups.items())
