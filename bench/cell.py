"""Cells: from a run to its record, with metrics, costs and provenance, whatever happens on the way."""

from __future__ import annotations

import copy
import os
import platform
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..architectures.discovery.units_of import units
from ..architectures.units.mask import Mask
from ..architectures.units.prunable import prunable
from ..architectures.units.vector import Units
from ..datasets.data import Split
from ..datasets.errors import NotApplicable, UsageError
from ..datasets.seal import sealed
from ..methods.build import build as build_pruner
from ..methods.pruner import Inference, Pruner
from .deployment import deployed
from .evaluate import PREDICTIVE, digest, evaluate, flops
from .fits import inference_of, initial_network
from .monte_carlo import monte_carlo
from .pruning import ONLINE_EVERY, Outcome, Workbench
from .run import Run
from .seeding import stream
from .select import keep_count
from .store import Store


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


def identity(run: Run) -> dict[str, Any]:
    """The columns that identify a cell."""
    auto = run.sparsity == "auto"
    return {
        "key": run.key,
        "dataset": run.dataset.label,
        "architecture": run.architecture.label,
        "method": run.method.label,
        "units": run.units,
        "seed": run.seed,
        "sparsity_target": None if auto else run.sparsity,
        "sparsity_auto": auto,
        "run": run.model_dump(mode="json"),
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


def provenance(run: Run, device: torch.device) -> dict[str, Any]:
    """Versions and hardware."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "threads": run.threads,
        "version_bayesprune": __version__,
        "version_torch": str(torch.__version__),
        "version_python": platform.python_version(),
        "git_revision": git_revision(),
        "host_cpu": _cpu_model(),
    }


@cache
def git_revision() -> str | None:
    """Revision of the package's own checkout, "-dirty" if it has uncommitted changes; None outside of one."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def repeatable(run: Run, device: torch.device) -> Iterator[None]:
    """Arithmetic that gives the same bits again: a fixed number of threads, deterministic GPU algorithms.

    With another number of threads, sums are added in another order.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(run.threads)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
