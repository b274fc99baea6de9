"""Bytes of memory that are free, and that a computation will take."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from torch import nn

from ...architectures.units.prunable import trainable
from ...methods.curvature import kronecker
from .probes import Trial


def predicted_bytes(trial: Trial, network: nn.Module, batch: int, outputs: int, diagonal: int) -> int:
    """About what a trial holds; `diagonal` is that of our own, backends need their activations as well.

    Curvlinops' diagonal forms the gradients of all examples (for the GGN, of every output) and copies of them,
    as measured; BackPACK and ASDL form those of one convolution at a time.
    """
    tensors = trainable(network).values()
    if trial.structure == "kron":
        factors = kronecker.predicted_bytes(network)
        return factors if trial.backend is None else factors // 2  # theirs are float32
    if trial.backend is None:
        return diagonal
    rows, copies = (batch * outputs, 5) if trial.kind == "ggn" else (batch, 3)
    count = sum(p.numel() for p in tensors)
    convolution = max((p.numel() for p in tensors if p.dim() > 2), default=0)
    return 4 * count + 4 * rows * (copies * count if trial.backend.startswith("Curvlinops") else convolution)


def free_bytes() -> int:
    """Memory that this process may still take: the machine's, or what is left to its control group."""
    return min(_machine_bytes(), _group_bytes())


def _machine_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _group_bytes(folder: Path = Path("/sys/fs/cgroup")) -> int:
    try:
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such group, or "max"
        return sys.maxsize
