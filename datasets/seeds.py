"""Random streams: one per seed and purpose, so that drawing more for one purpose never shifts another."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def _entropy(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:8], "little") >> 1


def numpy_stream(seed: int, purpose: str) -> np.random.Generator:
    """A PCG64 stream: the same numbers on every platform."""
    return np.random.Generator(np.random.PCG64(_entropy(seed, purpose)))


def torch_stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator; draw from it on the CPU and move the result, then devices agree."""
    return torch.Generator().manual_seed(_entropy(seed, purpose))
