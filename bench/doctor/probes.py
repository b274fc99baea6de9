"""Curvature tried on one network: our own, and each backend of laplace-torch, in a child process.

A backend may crash, hang or take all memory: whatever it does ends the child and no more.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...architectures.build import build
from ...architectures.running.modes import evaluating
from ...architectures.units.prunable import trainable
from ...datasets.errors import UsageError, one_line
from ...datasets.split import Likelihood
from ...methods.curvature.diagonals import diagonal, predicted_bytes
from ...methods.curvature.kronecker import kfac
from ...methods.curvature.output_vectors import CurvatureKind
from ...methods.curvature.squared_gradients import SquaredGradients

MODULES = {"Curvlinops": "curvlinops", "BackPack": "backpack", "Asdl": "asdl"}
"""Where laplace-torch keeps each family of backends; the modules of the same name need that package."""

START_SECONDS = 180
REPEAT_SECONDS = 5.0  # in all; what takes longer is not timed again
REPEATS = 3


@dataclass(frozen=True)
class Problem:
    """A network's recipe and a few examples, as plain values that another process can be given."""

    architecture: str
    options: Mapping[str, Any]
    input_shape: tuple[int, ...]
    outputs: int
    x: np.ndarray
    y: np.ndarray
    likelihood: Likelihood

    def network(self) -> nn.Module:
        """A fresh one; always the same."""
        return build(self.architecture, self.input_shape, self.outputs, seed=0, **self.options)

    def examples(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets; shapes (batch, ...) and (batch,)."""
        return torch.from_numpy(self.x), torch.from_numpy(self.y)


@dataclass(frozen=True)
class Trial:
    """One curvature: `structure` "diag" or "kron", `kind` "ggn" or "ef", of a backend or (None) our own."""

    structure: str
    kind: CurvatureKind
    backend: str | None = None


@dataclass(frozen=True)
class Answer:
    """How a trial ended: "works", "fails" or "not installed", and why.

    `difference` is the largest distance from our diagonal, relative to the largest entry of the same
    parameter; None where there is nothing to compare.
    """

    result: str
    seconds: float | None = None
    difference: float | None = None
    reason: str = ""


# ---------------------------------------------------------------------- trials


def expected(problem: Problem) -> tuple[list[str], int]:
    """Of our own GGN diagonal: the parameters that need a pass for each example, and about the bytes it takes."""
    network, (x, _) = problem.network(), problem.examples()
    collected = SquaredGradients(trainable(network))
    with evaluating(network), torch.no_grad():
        collected.try_out(network, x)
        collected.forward(network, x[:2])
    return sorted(collected.fallback), predicted_bytes(network, x, problem.likelihood)


def attempt(problem: Problem, trial: Trial) -> Answer:
    """Run one trial in this process."""
    try:
        return _foreign(problem, trial) if trial.backend else _own(problem, trial)
    except ImportError as error:
        return Answer("not installed", reason=one_line(error))
    except BaseException as error:
        return Answer("fails", reason=one_line(error))


def _own(problem: Problem, trial: Trial) -> Answer:
    network, (x, y) = problem.network(), problem.examples()
    compute = diagonal if trial.structure == "diag" else kfac
    return Answer("works", _seconds(lambda: compute(network, x, y, problem.likelihood, trial.kind)))


def _foreign(problem: Problem, trial: Trial) -> Answer:
    if problem.likelihood == "bernoulli":
        return Answer("fails", reason="laplace-torch knows classes and real targets, no labels that hold or not")
    backend = _backend(trial.backend or "")
    network, (x, y) = problem.network(), problem.examples()
    fitted: list[Any] = []
    seconds = _seconds(lambda: fitted.append(_laplace(network, x, y, problem.likelihood, trial.structure, backend)))
    found = fitted[-1].H if trial.structure == "diag" else fitted[-1].H.diag()
    count = sum(p.numel() for p in trainable(network).values())
    if found.numel() != count:
        return Answer("fails", reason=f"its curvature covers {found.numel():,} of {count:,} parameters")
    if not torch.isfinite(found).all():
        return Answer("fails", reason="its curvature is not finite")
    comparable = trial.structure == "diag"
    return Answer("works", seconds, _difference(found, problem, trial.kind) if comparable else None)


def _backend(name: str) -> Any:
    """The class of a backend; raises ImportError if laplace-torch or the package behind it is not installed."""
    family = next(prefix for prefix in MODULES if name.startswith(prefix))
    return getattr(importlib.import_module(f"laplace.curvature.{MODULES[family]}"), name)


def _laplace(network: nn.Module, x: Tensor, y: Tensor, likelihood: Likelihood, structure: str, backend: Any) -> Any:
    from laplace import Laplace
    from torch.utils.data import DataLoader, TensorDataset

    task = "classification" if likelihood == "categorical" else "regression"
    approximation: Any = Laplace(network, task, subset_of_weights="all", hessian_structure=structure, backend=backend)  # pyright: ignore[reportArgumentType]
    approximation.fit(DataLoader(TensorDataset(x, y), batch_size=len(x)))
    return approximation


def _seconds(run: Callable[[], object]) -> float:
    """The shortest of a few runs, since the first may load what it needs; slow ones run once."""
    taken: list[float] = []
    while len(taken) < REPEATS and sum(taken) < REPEAT_SECONDS:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _difference(found: Tensor, problem: Problem, kind: CurvatureKind) -> float:
    """Largest over the parameters, as in `Answer`; where all of one hardly bends, relative to 1e-6 of the whole."""
    ours = diagonal(problem.network(), *problem.examples(), problem.likelihood, kind)
    floor = 1e-6 * max(float(h.max()) for h in ours.values() if h.numel())
    theirs = found.detach().double().split([h.numel() for h in ours.values()])
    pairs = [(a, h.flatten()) for a, h in zip(theirs, ours.values(), strict=True) if h.numel()]
    return max(float((a - h).abs().max()) / (max(float(h.max()), floor) or 1.0) for a, h in pairs)


# ---------------------------------------------------------------------- the child process


class Lost(Exception):
    """The child process died or took too long; the message says which."""


class Prober:
    """A child process for trials, started when first needed and again after it was lost; use as a context."""

    def __init__(self, problem: Problem, memory: int, limit: float):
        self.problem, self.memory, self.limit = problem, memory, limit
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._pipe.close()  # the child reads the end, and goes
            self._process.join(5)
            self._process.kill()

    def run(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """What `task(problem, *arguments)`, a function of some module, returns in the child; raises Lost."""
        process, pipe = self._started()
        try:
            pipe.send((task, arguments))
            if pipe.poll(self.limit):
                return pipe.recv()
            reason = f"no answer within {self.limit:g} s"
        except (EOFError, OSError):
            process.join(5)
            reason = f"its process died: {_death(process.exitcode)}"
        self._forget()
        raise Lost(reason)

    def attempt(self, trial: Trial) -> Answer:
        """The answer of a trial; one that loses its process fails."""
        try:
            return self.run(attempt, trial)
        except Lost as reason:
            return Answer("fails", reason=str(reason))

    def _started(self) -> tuple[Any, Any]:
        """The child and the pipe to it; raises UsageError if it does not come up."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs, self.problem, self.memory), daemon=True)
            self._process.start()
            theirs.close()
            if not self._ready():
                self._forget()
                raise UsageError(
                    "the process for trials cannot start; in a script, call it under `if __name__ == '__main__':`"
                )
        return self._process, self._pipe

    def _ready(self) -> bool:
        with suppress(EOFError, OSError):
            return self._pipe.poll(START_SECONDS) and self._pipe.recv()
        return False

    def _forget(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._process = self._pipe = None


def _death(code: int | None) -> str:
    with suppress(ValueError):
        return signal.Signals(-(code or 0)).name
    return f"exit code {code}"


def serve(pipe: Connection, problem: Problem, memory: int) -> None:
    """The child: runs tasks until its parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    torch.set_num_threads(1)
    problem.network()  # loads what the network needs before memory is counted
    _bound_memory(memory)
    pipe.send(True)
    with suppress(EOFError, OSError):
        while True:
            task, arguments = pipe.recv()
            pipe.send(task(problem, *arguments))


def _bound_memory(memory: int) -> None:
    """Let allocations fail, rather than the machine, beyond `memory` more bytes than now."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        bound = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (bound if hard < 0 else min(bound, hard), hard))
