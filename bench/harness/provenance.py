"""Where a result was computed: versions, device, processor; and what makes it repeatable there."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...datasets.errors import UsageError
from ..spec.run import Run
from .calls import Seat

_seat: list[Seat] = [Seat()]


def take(seat: Seat) -> None:
    """Say where on its machine this process is: how many share its processor, and which GPU is its own."""
    _seat[:] = [seat]


def provenance(run: Run, device: torch.device | None) -> dict[str, Any]:
    """Versions and hardware; versions alone of a cell that no worker finished, of which no device is known."""
    return {
        **(machine(device) if device else {}),
        "threads": run.threads,
        "version_bayesprune": __version__,
        "version_torch": str(torch.__version__),
        "version_python": platform.python_version(),
        "git_revision": git_revision(),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """The machine of this process: its device, its processor, and how many share that."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "host_cpu": cpu_model(),
        "host_cores": os.cpu_count(),
        "host_workers": _seat[0].workers,
    }


def class_of(notes: Mapping[str, Any]) -> str | None:
    """The class of machine that notes or a record name: results of one class are equal bit by bit; None if unknown."""
    parts = [notes.get("device"), notes.get("host_cpu")]
    return " with ".join(parts) if all(isinstance(part, str) for part in parts) else None  # pyright: ignore


@cache
def git_revision() -> str | None:
    """Revision of the package's own checkout, "-dirty" if it has uncommitted changes; None outside of one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def cpu_model() -> str:
    """The processor of this machine, as it calls itself."""
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


def named_device(device: str) -> torch.device | None:
    """The device a name stands for, on whatever machine, None for auto; raises UsageError for a name of none."""
    if device == "auto":
        return None
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r} does not exist; choose auto, cpu, cuda or cuda:0") from error
    if place.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is not supported; choose auto, cpu, cuda or cuda:0")
    return place


def resolved_device(device: str) -> torch.device:
    """The device a name stands for in this process; raises UsageError if it is not there."""
    place = named_device(device) or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count() if place.type == "cuda" else 0
    if place.type == "cuda" and (place.index or 0) >= count:
        raise UsageError(f"device {device!r} is not there: {count} CUDA devices are visible; try --device cpu")
    if place.type == "cuda" and place.index is None and _seat[0].rank is not None and count > 1:
        return torch.device("cuda", _seat[0].rank % count)
    return place
