"""Cells: from a run to its record, with metrics, costs and provenance, whatever happens on the way."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from ...architectures.units.mask import Mask
from ...architectures.units.prunable import prunable
from ...architectures.units.vector import Units
from ...datasets.errors import NotApplicable, printable, text_of
from ...datasets.seal import sealed
from ...methods.pruner import Inference, Pruner
from ..evaluation.bits import bits_of
from ..evaluation.deployment import CERTIFIED, deployed
from ..evaluation.evaluate import PREDICTIVE, digest, evaluate, unsealed_test
from ..evaluation.flops import flops
from ..evaluation.gaussians import gaussians
from ..evaluation.laplace_evidence import laplace_evidence
from ..evaluation.monte_carlo import monte_carlo
from ..evaluation.risk_bound import can_be_certified, risk_bound
from ..isolation.isolated import LeftBehind, Traces, isolated
from ..pruning.engine import Outcome
from ..pruning.ranking import keep_count
from ..results.integrity import as_json
from ..results.store import MachineFault, Store
from ..spec.run import Run
from ..training.fits import check_detached
from ..training.seeding import stream
from .interrupts import interrupted
from .provenance import provenance
from .tuning import pruned
from .workbench import Workbench

LONGEST_TRACEBACK = 20_000  # characters that a record keeps, from both ends


def execute(run: Run, bench: Workbench, store: Store) -> Traces:
    """Run one cell and write its record; whatever a method raises becomes a failed record with its traceback.

    Returns what the cell left behind. Raises MachineFault, and writes nothing, where the machine is at fault.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    head = identity(run) | provenance(run, bench.device) | {"started": started}
    traces = Traces()
    try:
        with isolated(bench.data) as traces, sealed():
            values, logits = _results(run, bench)
        record = as_json(head | values | {"status": "done", "reason": None})
        store.write_tensors("logits", run.key, logits, {"dataset_digest": bench.data.digest})
    except BaseException as error:
        if isinstance(error, MachineFault) or interrupted():
            raise
        record = head | outcome_of(error)
        if traces and not isinstance(error, LeftBehind):
            record["reason"] += f"; {traces}"
    store.write_record(record)
    return traces


def outcome_of(error: BaseException) -> dict[str, Any]:
    """The fields of a cell that ended with an error: skipped where it makes no sense, else failed."""
    return skip(error) if isinstance(error, NotApplicable) else failure(error)


def skip(reason: BaseException) -> dict[str, Any]:
    """The fields that say why a cell makes no sense."""
    return {"status": "skipped", "reason": text_of(reason)}


def failure(error: BaseException) -> dict[str, Any]:
    """The fields that say that, why and where a cell failed."""
    return {
        "status": "failed",
        "reason": f"{type(error).__name__}: {text_of(error) or 'no message'}",
        "traceback": _traceback(error),
    }


def _traceback(error: BaseException) -> str:
    """At most so much of it that a record stays readable, whatever texts the exceptions carry."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as problem:
        text = f"the traceback cannot be written: {type(problem).__name__}"
    if len(text) > LONGEST_TRACEBACK:
        half = LONGEST_TRACEBACK // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half:,} characters ...\n{text[-half:]}"
    return printable(text)


def identity(run: Run) -> dict[str, Any]:
    """The columns that identify a cell."""
    return {"key": run.key, **names(run), "revisions": run.revisions, "run": run.model_dump(mode="json")}


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


def _results(run: Run, bench: Workbench) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The columns of a finished cell, and what its logits file holds."""
    sparsity = None if run.sparsity == "auto" else run.sparsity
    tuned = pruned(bench, sparsity)
    bench, outcome = tuned.bench, tuned.outcome
    _check_mask(outcome, sparsity if run.budget.exact else None, bench.engine.units)
    check_detached(outcome.network, bench.untrained)
    values, outputs = evaluate(outcome.network, bench.data, run.shift)
    draws = stream(run.seed, "posterior draws")
    labels = unsealed_test(bench.data).y[: len(outputs)]
    columns = {
        "when": bench.engine.pruner.when,
        "inference": _label(bench.fit.inference),
        "criterion": _criterion(bench.engine.pruner),
        "reports": outcome.reports or None,
        **({"adjustments": outcome.adjustments} if outcome.adjustments else {}),
        "learned": outcome.learned or None,
        "likelihood": bench.data.likelihood,
        "predictive": PREDICTIVE,
        "dataset_digest": bench.data.digest,
        **_mask_columns(outcome.mask),
        "compression": compression(outcome.network, outcome.mask),
        **values,
        **monte_carlo(outcome.network, outcome.inference, bench.data, draws),
        **(_of_posterior(bench, outcome) if run.judges_posterior else {}),
        **{f"dense_{k}": v for k, v in bench.fit.dense.items()},
        **{f"fit_{k}": bench.fit_origin.get(k) for k in ("device", "host_cpu")},
        **flops(outcome.network, bench.data.train[:1].x),
        **(_deployed(bench, outcome) if run.units != "weights" else {}),
        **_cost_columns(outcome),
        **_epochs(run, outcome),
        **({"tuned": tuned.report} if tuned.report else {}),
        **({"unfinished": outcome.unfinished} if outcome.unfinished else {}),
        "logits_digest": digest(outputs),
    }
    return columns, {"outputs": outputs.numpy(), "y": labels.cpu().numpy()}


def _of_posterior(bench: Workbench, outcome: Outcome) -> dict[str, float]:
    """The metrics that are asked for of a Gaussian posterior, where the method has one."""
    run, data = bench.run, bench.data
    posterior = gaussians(outcome.network, outcome.inference, data)
    if posterior is None:
        return {}
    found = bits_of(outcome.network, posterior, outcome.mask, data) if run.bits else {}
    if run.evidence:
        found |= laplace_evidence(outcome.network, posterior, outcome.mask, data.train)
    if run.risk_bound != "none" and can_be_certified(data):
        draws = stream(run.seed, "risk bound")
        found |= risk_bound(outcome.network, posterior, outcome.mask, data, bench.centre, draws)
    return found


def _deployed(bench: Workbench, outcome: Outcome) -> dict[str, Any]:
    return deployed(
        bench.untrained.to(bench.device), outcome.network, outcome.mask, bench.data.validation[:CERTIFIED].x
    )


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
    phases |= {"adjust": outcome.adjust} if outcome.adjustments else {}
    return {
        f"{what}_{name}": getattr(cost, what)
        for name, cost in phases.items()
        for what in ("seconds", "passes", "peak_bytes")
    }


def _epochs(run: Run, outcome: Outcome) -> dict[str, Any]:
    """The budget: epochs of training and of retraining, and how many of them had the final mask."""
    return {
        "epochs_train": run.training.epochs,
        "epochs_finetune": run.finetune.epochs,
        "epochs_held": outcome.epochs_held,
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
