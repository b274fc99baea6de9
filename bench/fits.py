"""Fitted networks: trained once, kept by content key, shared by every criterion and sparsity.

A fit also knows the dense control: the same network trained on, unpruned, for the epochs that the others
spend on fine-tuning, so that every pruned result has an unpruned one of equal training to stand against.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass

import torch
from torch import nn

from ..architectures.build import build as build_network
from ..architectures.mask import Mask
from ..architectures.units import units
from ..datasets.data import Data, sealed
from ..methods.build import build as build_pruner
from ..methods.cost import Cost, measured
from ..methods.pruner import Inference
from .evaluate import brief, validation_nll
from .run import Run, content_key
from .seeding import derived, seeded, stream
from .store import Store
from .training import train


@dataclass
class Fit:
    """A trained network with its inference, what training cost, and the metrics of the dense control."""

    network: nn.Module
    inference: Inference
    cost: Cost
    dense: dict[str, float]


def initial_network(run: Run, data: Data) -> nn.Module:
    """The untrained network of a cell; equal for all methods under one seed."""
    seed = derived(run.seed, "initialisation")
    return build_network(run.architecture.name, data.input_shape, data.outputs, seed=seed, **run.architecture.options)


def inference_of(run: Run) -> Inference:
    """A fresh inference of the cell's method."""
    return build_pruner(run.method.name, **run.method.options).inference()


def fit_key(run: Run, inference: Inference) -> str:
    """Identity of a fit: whatever decides the trained network."""
    cell = run.canonical()
    shared = {n: cell.get(n) for n in ("dataset", "architecture", "seed", "training", "finetune", "threads")}
    shipped = type(inference).__module__.startswith("bayesprune.")
    sources = {n: s for n, s in cell.get("sources", {}).items() if n != "method" or not shipped}
    return content_key({"fit": inference.identity(), "sources": sources, **shared})


def fitted(run: Run, data: Data, store: Store, device: torch.device) -> Fit:
    """The fit that `run` shares, from the store, or trained now and put there."""
    inference = inference_of(run)
    key = fit_key(run, inference)
    return _load(key, run, data, inference, store, device) or _trained(key, run, data, inference, store, device)


def _trained(key: str, run: Run, data: Data, inference: Inference, store: Store, device: torch.device) -> Fit:
    fits = [_train_one(run, data, candidate, device) for candidate in inference.candidates()]
    total = sum((fit.cost for fit in fits), Cost())
    best = min(fits, key=lambda fit: validation_nll(fit.network, data)) if len(fits) > 1 else fits[0]
    best.cost = total
    best.dense = _dense_control(run, data, best)
    _save(key, best, store)
    return best


def _train_one(run: Run, data: Data, inference: Inference, device: torch.device) -> Fit:
    network = initial_network(run, data).to(device)
    settings = run.training
    with measured(network, device) as cost, sealed(), seeded(run.seed, "training"):
        inference.attach(network, units(network, "weights"), data.train)
        train(network, data.train, inference, settings, settings.epochs, stream(run.seed, "data order"))
    return Fit(network, inference, cost, {})


def _dense_control(run: Run, data: Data, fit: Fit) -> dict[str, float]:
    network, inference = copy.deepcopy((fit.network, fit.inference))
    refine(run, data, network, inference, run.finetune.epochs)
    inference.detach(network)
    return brief(network, data)


def refine(
    run: Run, data: Data, network: nn.Module, inference: Inference, epochs: int, mask: Mask | None = None, part: int = 0
) -> None:
    """Train on after pruning, in place, with the fine-tuning's learning rate; `part` counts the rounds."""
    settings = run.training.model_copy(update={"lr": run.finetune.lr or run.training.lr})
    purpose = f"fine-tuning {part}"
    with sealed(), seeded(run.seed, purpose):
        train(network, data.train, inference, settings, epochs, stream(run.seed, f"{purpose} order"), mask)


# ---------------------------------------------------------------------- store


def _save(key: str, fit: Fit, store: Store) -> None:
    arrays = {f"network/{n}": t.detach().cpu().contiguous().numpy() for n, t in fit.network.state_dict().items()}
    arrays |= {f"inference/{n}": t.detach().cpu().contiguous().numpy() for n, t in fit.inference.tensors().items()}
    store.write_tensors(
        "fits", key, arrays, {"cost": asdict(fit.cost), "dense": fit.dense, "inference": fit.inference.identity()}
    )


def _load(key: str, run: Run, data: Data, inference: Inference, store: Store, device: torch.device) -> Fit | None:
    if (stored := store.read_tensors("fits", key)) is None:
        return None
    arrays, notes = stored
    parts: dict[str, dict[str, torch.Tensor]] = {"network": {}, "inference": {}}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = torch.from_numpy(array).to(device)
    network = initial_network(run, data).to(device)
    network.load_state_dict(parts["network"])
    chosen = next(c for c in inference.candidates() if content_key(c.identity()) == content_key(notes["inference"]))
    chosen.attach(network, units(network, "weights"), data.train)
    chosen.load_tensors(parts["inference"])
    return Fit(network, chosen, Cost(**notes["cost"]), notes["dense"])
