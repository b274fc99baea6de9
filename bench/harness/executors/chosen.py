"""From what `--executor` says to the engine that is meant."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import cast

from ....datasets.errors import UsageError, one_line, unknown
from ..interrupts import handlers_kept
from .custom import CustomEngine
from .engine import Engine
from .local import LocalEngine

NAMES = ("local", "dask")
FORMS = "local, dask, dask://HOST:PORT, FILE.yaml or module:function"


def chosen(executor: str | Path | Callable[[], Executor], jobs: int | None, device: str, out: Path) -> Engine:
    """The engine for a run into the folder `out`.

    Raises UsageError for one that cannot be, that is not installed, or whose file says what no cluster knows.
    """
    if callable(executor):
        return CustomEngine(executor, jobs)
    text = str(executor)
    if text == "local":
        return LocalEngine(jobs, device)
    if text == "dask" or text.startswith("dask://") or Path(text).suffix in (".yaml", ".yml"):
        return _dask(text, jobs, device, out)
    if ":" in text and "/" not in text:
        return CustomEngine(_function(text), jobs)
    error = unknown("executor", text, NAMES)
    raise UsageError(f"{error}; choose {FORMS}")


def _dask(text: str, jobs: int | None, device: str, out: Path) -> Engine:
    """Those that need the extra; only here is it asked for."""
    _import("distributed", text)
    from .dask_clusters import LocalWorkers, Running
    from .dask_engine import DaskEngine

    if text == "dask":
        return DaskEngine(LocalWorkers(jobs, device), None)
    if text.startswith("dask://"):
        return DaskEngine(Running(f"tcp://{text.removeprefix('dask://')}"), jobs)
    _import("dask_jobqueue", text)
    from .job_file import read_job_file
    from .job_queue import JobQueue

    return DaskEngine(JobQueue(read_job_file(Path(text), out)), jobs)


def _import(module: str, text: str) -> None:
    """Import what the extra brings; dask_jobqueue takes Ctrl-C for itself, and has to give it back."""
    try:
        with handlers_kept():
            importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"--executor {text} needs {error.name}: pip install 'bayesprune[cluster]'") from error


def _function(text: str) -> Callable[[], Executor]:
    module, _, name = text.partition(":")
    sys.path[:0] = [here] if (here := str(Path.cwd())) not in sys.path else []
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--executor {text} cannot be found: {one_line(error)}") from error
    if not callable(found):
        raise UsageError(f"--executor {text} is not a function: give one that returns a concurrent.futures.Executor")
    return cast("Callable[[], Executor]", found)
