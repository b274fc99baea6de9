"""Fitted networks: trained once, kept by content key, shared by every criterion and sparsity.

A fit also knows the dense control: the same network trained on, unpruned, for the epochs that the others
spend on fine-tuning, so that every pruned result has an unpruned one of equal training to stand against.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...architectures.build import SHA256, WEIGHTS
from ...architectures.build import build as build_network
from ...architectures.discovery.units_of import units
from ...architectures.running.cost import Cost, measured
from ...datasets.data import Data
from ...datasets.errors import UsageError
from ...datasets.seal import sealed
from ...methods.build import build as build_pruner
from ...methods.pruner import Inference
from ..evaluation.evaluate import brief, validated, validation_nll
from ..isolation.attachments import left_on
from ..isolation.isolated import LeftBehind, isolated, undone
from ..results.store import MachineFault, Store
from ..spec.run import Run, content_key
from .loop import refine, train
from .seeding import derived, seeded, stream


@dataclass(frozen=True)
class Fit:
    """A trained network and its inference as plain tensors, what was learned, its cost, the dense control's metrics."""

    run: Run
    inference: Inference
    network_state: dict[str, Tensor]
    inference_state: dict[str, Tensor]
    learned: dict[str, Any]
    cost: Cost
    dense: dict[str, float]

    def restore(self, data: Data, device: torch.device) -> tuple[nn.Module, Inference]:
        """A fresh network in the trained state, with a fresh inference attached to it.

        Attached pairs are never copied: what `attach` bound, in hooks and closures, would still point at the
        original.
        """
        network, inference = attached(self.run, data, self.inference, device)
        network.load_state_dict(self.network_state)
        with sealed():
            inference.load_tensors({name: tensor.to(device) for name, tensor in self.inference_state.items()})
        return network, inference


def initial_network(run: Run, data: Data) -> nn.Module:
    """The untrained network of a cell; equal for all methods under one seed."""
    seed = derived(run.seed, "initialisation")
    name, options = run.architecture.name, dict(run.architecture.options)
    if planned := run.sources.get(WEIGHTS):
        options[SHA256] = planned
    with undone() if "architecture" in run.sources else nullcontext():
        return build_network(name, data.input_shape, data.outputs, seed=seed, **options)


def attached(run: Run, data: Data, inference: Inference, device: torch.device) -> tuple[nn.Module, Inference]:
    """The untrained network, and a fresh inference of the same hyperparameters attached to it."""
    network, inference = initial_network(run, data).to(device), replace(inference)
    with sealed(), seeded(run.seed, "attach"):
        inference.attach(network, units(network, "weights"), data.train)
    return network, inference


def inference_of(run: Run) -> Inference:
    """A fresh inference of the cell's method, for its units; of one that is tuned, that of the first candidate."""
    return build_pruner(run.method.name, **run.method.candidates[0].options).inference().for_units(run.units)


def fit_key(run: Run, inference: Inference) -> str:
    """Identity of a fit: whatever decides the trained network."""
    cell = run.canonical()
    shared = {n: cell.get(n) for n in ("dataset", "architecture", "seed", "training", "finetune", "threads")}
    shipped = type(inference).__module__.startswith("bayesprune.")
    sources = {n: s for n, s in cell.get("sources", {}).items() if n != "method" or not shipped}
    revisions = {kind: found for kind, found in cell.get("revisions", {}).items() if kind != "method"}
    return content_key(
        {"fit": inference.identity(), "sources": sources, **shared} | ({"revisions": revisions} if revisions else {})
    )


def fitted(run: Run, data: Data, store: Store, device: torch.device) -> Fit:
    """The fit that `run` shares, from the store, or trained now and put there.

    Raises LeftBehind, with nothing stored, for a method that changed the data or the state of the process.
    """
    with sealed(), isolated(data):
        inference = inference_of(run)
        key = fit_key(run, inference)
        found = _load(key, run, data, inference, store)
        fit, chosen = found or _trained(run, data, inference, device)
    if found is None:
        _save(key, fit, chosen, data.digest, store)
    return fit


def _trained(run: Run, data: Data, inference: Inference, device: torch.device) -> tuple[Fit, int]:
    candidates = inference.candidates()
    trained = [train_one(run, data, candidate, device) for candidate in candidates]
    total = sum((cost for *_, cost in trained), Cost())
    losses = [validation_nll(network, data) for network, *_ in trained] if len(trained) > 1 else [0.0]
    chosen = losses.index(min(losses))
    network, attached_inference, _ = trained[chosen]
    learned = attached_inference.learned(network)
    fit = Fit(run, candidates[chosen], network.state_dict(), attached_inference.tensors(), learned, total, {})
    _check_storable(fit)
    return replace(fit, dense=_dense_control(run, data, fit, device)), chosen


def _check_storable(fit: Fit) -> None:
    """Raises UsageError for an inference whose state is not what its interface says."""
    for name, tensor in fit.inference_state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UsageError(f"tensors() must return tensors by name, got {name!r}: {type(tensor).__name__}")


def train_one(run: Run, data: Data, inference: Inference, device: torch.device) -> tuple[nn.Module, Inference, Cost]:
    """Train the dense network of a cell under one inference; both come back still attached."""
    network, inference = attached(run, data, inference, device)
    settings = run.training
    with measured(network, device) as cost, sealed(), seeded(run.seed, "training"):
        train(network, data.train, inference, settings, settings.epochs, stream(run.seed, "data order"))
    return network, inference, cost


def _dense_control(run: Run, data: Data, fit: Fit, device: torch.device) -> dict[str, float]:
    network, inference = fit.restore(data, device)
    refine(network, data.train, inference, run.training, run.finetune, run.seed, run.finetune.epochs)
    with sealed():
        inference.detach(network)
    check_detached(network, initial_network(run, data))
    return brief(network, data) | validated(network, data)


def check_detached(network: nn.Module, untrained: nn.Module) -> None:
    """Raises LeftBehind for a network on which a method has left hooks, or code in place of the network's own."""
    if places := left_on(network, untrained):
        raise LeftBehind(f"it left hooks or code on {', '.join(places[:3])} of the network: remove them in detach")


# ---------------------------------------------------------------------- store


def _save(key: str, fit: Fit, chosen: int, digest: str, store: Store) -> None:
    parts = {"network": fit.network_state, "inference": fit.inference_state}
    arrays = {
        f"{p}/{n}": t.detach().cpu().contiguous().numpy() for p, tensors in parts.items() for n, t in tensors.items()
    }
    notes = {"cost": asdict(fit.cost), "dense": fit.dense, "learned": fit.learned, "candidate": chosen}
    notes["dataset_digest"] = digest
    store.write_tensors("fits", key, arrays, notes)


def _load(key: str, run: Run, data: Data, inference: Inference, store: Store) -> tuple[Fit, int] | None:
    if (stored := store.read_tensors("fits", key)) is None:
        return None
    arrays, notes = stored
    if notes.get("dataset_digest", data.digest) != data.digest:
        raise MachineFault(
            f"the data of {run.dataset.label} are not those of the networks in {store.folder}: put the former data "
            "back, or choose another --out"
        )
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "inference": {}}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = torch.from_numpy(array)
    chosen = notes["candidate"]
    candidate, cost = inference.candidates()[chosen], Cost(**notes["cost"])
    fit = Fit(run, candidate, parts["network"], parts["inference"], notes["learned"], cost, notes["dense"])
    return fit, chosen
