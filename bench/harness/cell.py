"""Cells: from a run to its record, with metrics, costs and provenance, whatever happens on the way."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from functools import partial
from typing import Any

from torch import nn

from ...architectures.units.mask import Mask
from ...architectures.units.prunable import prunable
from ...architectures.units.vector import Units
from ...datasets.errors import NotApplicable
from ...methods.pruner import Inference, Pruner
from ..evaluation.deployment import deployed
from ..evaluation.evaluate import PREDICTIVE, digest, evaluate
from ..evaluation.flops import flops
from ..evaluation.monte_carlo import monte_carlo
from ..pruning.ranking import keep_count
from ..pruning.schedules import Outcome, Workbench
from ..results.store import Store
from ..spec.run import Run
from ..training.fits import initial_network
from ..training.seeding import stream
from .provenance import provenance


def execute(run: Run, bench: Workbench, store: Store) -> dict[str, Any]:
    """Run one cell and write its record; an error becomes a failed record with its traceback."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    record = identity(run) | provenance(run, bench.device) | {"started": started}
    try:
        record |= _results(run, bench, store) | {"status": "done", "reason": None}
    except NotApplicable as reason:
        record |= skip(reason)
    except (Exception, SystemExit) as error:
        record |= failure(error)
    try:
        store.write_record(record)
    except ValueError as error:  # a number that is no JSON: NaN or infinite
        store.write_record(identity(run) | provenance(run, bench.device) | {"started": started} | failure(error))
    return record


def skip(reason: BaseException) -> dict[str, Any]:
    """The fields that say why a cell makes no sense."""
    return {"status": "skipped", "reason": str(reason)}


def failure(error: BaseException) -> dict[str, Any]:
    """The fields that say that, why and where a cell failed."""
    summary = str(error).strip().splitlines()
    return {
        "status": "failed",
        "reason": f"{type(error).__name__}: {summary[0] if summary else 'no message'}",
        "traceback": "".join(traceback.format_exception(error)),
    }


def identity(run: Run) -> dict[str, Any]:
    """The columns that identify a cell."""
    return {"key": run.key, **names(run), "run": run.model_dump(mode="json")}


def names(run: Run) -> dict[str, Any]:
    """The columns by which tables tell cells apart; those of other settings have the same."""
    auto = run.sparsity == "auto"
    return {
        "dataset": run.dataset.label,
        "architecture": run.architecture.label,
        "method": run.method.label,
        "units": run.units,
        "seed": run.seed,
        "sparsity_target": None if auto else run.sparsity,
        "sparsity_auto": auto,
    }


def _results(run: Run, bench: Workbench, store: Store) -> dict[str, Any]:
    sparsity = None if run.sparsity == "auto" else run.sparsity
    outcome = bench.prune(sparsity)
    _check_mask(outcome, sparsity if run.budget.exact else None, bench.units)
    values, outputs = evaluate(outcome.network, bench.data, run.shift)
    draws = stream(run.seed, "posterior draws")
    store.write_tensors(
        "logits", run.key, {"outputs": outputs.numpy(), "y": bench.data.test.y[: len(outputs)].cpu().numpy()}, {}
    )
    return {
        "when": bench.pruner.when,
        "inference": _label(bench.fit.inference),
        "criterion": _criterion(bench.pruner),
        "reports": outcome.reports or None,
        "learned": outcome.learned or None,
        "likelihood": bench.data.likelihood,
        "predictive": PREDICTIVE,
        "dataset_digest": bench.data.digest,
        **_mask_columns(outcome.mask),
        "compression": compression(outcome.network, outcome.mask),
        **values,
        **monte_carlo(outcome.network, outcome.inference, bench.data, draws),
        **{f"dense_{k}": v for k, v in bench.fit.dense.items()},
        **flops(outcome.network, bench.data.train.x),
        **(_deployed(bench, outcome) if run.units != "weights" else {}),
        **_cost_columns(outcome),
        "logits_digest": digest(outputs),
    }


def _deployed(bench: Workbench, outcome: Outcome) -> dict[str, Any]:
    dense = initial_network(bench.run, bench.data).to(bench.device)
    return deployed(dense, outcome.network, outcome.mask, bench.data.validation.x)


def _check_mask(outcome: Outcome, sparsity: float | None, layers: Units) -> None:
    """The promises of selection, checked on the final network: exact count, removed weights are zero."""
    if sparsity is not None and outcome.mask.count != (expected := keep_count(layers.n, sparsity)):
        raise AssertionError(f"{outcome.mask.count} units kept, expected {expected}")
    for name, mask in outcome.mask.tensors.items():
        weight = outcome.network.get_parameter(name).detach()
        if bool((weight.cpu()[~mask] != 0).any()):
            raise AssertionError(f"removed weights of {name!r} have come back")


def _mask_columns(mask: Mask) -> dict[str, Any]:
    return {
        "sparsity": mask.sparsity,
        "kept": mask.count,
        "total": mask.units.n,
        "layer_density": mask.layer_density(),
        "collapsed": mask.collapsed(),
        "mask_digest": digest(mask.kept),
    }


def compression(network: nn.Module, mask: Mask) -> float | None:
    """Prunable weights over those kept; a weight that two groups share is kept if both keep it."""
    sizes = {name: weight.numel() for name, weight in prunable(network).items()}
    kept = sum(int(mask.tensors[name].sum()) if name in mask.tensors else size for name, size in sizes.items())
    return sum(sizes.values()) / kept if kept else None


def _cost_columns(outcome: Outcome) -> dict[str, Any]:
    phases = {"train": outcome.train, "score": outcome.score, "finetune": outcome.finetune}
    return {
        f"{what}_{name}": getattr(cost, what)
        for name, cost in phases.items()
        for what in ("seconds", "passes", "peak_bytes")
    }


def _label(inference: Inference) -> str:
    identity = inference.identity()
    name = identity.pop("name")
    return f"{name}({', '.join(f'{k}={v}' for k, v in identity.items())})"


def _criterion(pruner: Pruner) -> str:
    """The name of the score, the same for every inference that it is applied to."""
    score = pruner.score
    while isinstance(score, partial):
        score = score.func
    return getattr(score, "__name__", type(score).__name__)
