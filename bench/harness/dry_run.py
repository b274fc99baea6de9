"""The dry run: what a matrix would do, and about how long it would take on this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from ...datasets.errors import UsageError
from ...datasets.seal import sealed
from ...methods.build import build as build_pruner
from ...methods.pruner import Pruner
from ..evaluation.evaluate import evaluate
from ..results.store import OWN_NAMES, Store
from ..spec.run import Run
from ..training.fits import attached, fit_key, inference_of
from ..training.loop import train
from ..training.seeding import stream
from .executors.chosen import chosen
from .planned import pending, planned, tasks_of
from .provenance import repeatable, resolved_device
from .tasks import Task
from .workers import data_of


def describe(
    matrix: str,
    out: str,
    jobs: int | None,
    shard: tuple[int, int],
    retry_failed: bool,
    device: str,
    plugins: Sequence[str],
    executor: str = "local",
) -> str:
    """What `run` with these arguments would do; raises the same UsageErrors, and writes nothing."""
    engine = chosen(executor, jobs, device, Path(out))
    place = engine.place(device) or resolved_device("auto")
    cells = planned(matrix, shard, plugins).cells
    todo = pending(cells, Store(out), retry_failed, mend=False) if _is_store(out) else cells
    tasks, _ = tasks_of(todo)
    seconds = estimate(tasks, place)
    workers, where = engine.plan(len(todo))
    counts = Counter((r.dataset.label, r.architecture.label) for r in todo)
    lines = [f"  {dataset} x {architecture}: {n} cells" for (dataset, architecture), n in counts.items()]
    note = "measured on one epoch per network; the true time may be half or twice that"
    script = engine.script()
    return "\n".join([
        f"{len(cells)} cells, {len(cells) - len(todo)} of them finished, {len(todo)} to run in {out}:",
        *lines,
        f"{len({t.fit for t in tasks})} networks to train and share, {where}",
        f"estimated time: {_duration(seconds / (workers or 1))}{'' if workers else ' for one worker'} ({note})",
        *([f"each job is submitted as\n\n{script}"] if script else []),
    ])  # fmt: skip


def _is_store(out: str) -> bool:
    """Whether results stand in the folder; raises what a run would raise if it cannot become one."""
    path = Path(out)
    if (path / "store.json").is_file():
        return True
    if path.exists() and (not path.is_dir() or any(p.name not in OWN_NAMES for p in path.iterdir())):
        raise UsageError(f"{path} is not empty and not a results folder (it has no store.json); choose another --out")
    return False


def estimate(tasks: Sequence[Task], device: torch.device) -> float:
    """Seconds of work for one job: epochs and evaluations, each measured once per network."""
    speed: dict[tuple[str, str], tuple[float, float]] = {}
    total, fits = 0.0, set()
    for task in tasks:
        first = task.runs[0]
        place = (first.dataset.label, first.architecture.label)
        if place not in speed:
            speed[place] = _measure(first, device)
        epoch, evaluation = speed[place]
        total += sum(_epochs(r) * len(r.method.candidates) * epoch + evaluation for r in task.runs)
        for one in first.candidates:
            with sealed():
                inference = inference_of(one)
                key, candidates = fit_key(one, inference), len(inference.candidates())
            if key not in fits:
                fits.add(key)
                total += (first.training.epochs * candidates + first.finetune.epochs) * epoch
    return total


def _epochs(run: Run) -> int:
    pruner: Pruner = build_pruner(run.method.name, **run.method.candidates[0].options)
    training = 0 if pruner.when == "after" or pruner.retrain == "only" else run.training.epochs
    return training + run.finetune.epochs * (pruner.rounds if pruner.retrain == "each" else 1)


def _measure(run: Run, device: torch.device) -> tuple[float, float]:
    """Seconds of one epoch and of one evaluation."""
    data = data_of(run, str(device))
    network, inference = attached(run, data, inference_of(run).candidates()[0], device)
    with repeatable(run, device):
        train(network, data.train[:64], inference, run.training, 1, stream(run.seed, "warm-up"))
        start = time.perf_counter()
        train(network, data.train, inference, run.training, 1, stream(run.seed, "estimate"))
        middle = time.perf_counter()
        evaluate(network, data)
    return middle - start, time.perf_counter() - middle


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
