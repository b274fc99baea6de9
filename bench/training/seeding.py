"""Seeds: every random choice of a run has a stream of its own, derived from the run's seed and a purpose.

Streams do not depend on what ran before in the same process, so that a resumed, sharded or parallel run
gives the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derived(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose ("initialisation", "data order", ...)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose."""
    return torch.Generator().manual_seed(derived(seed, purpose))


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's global generators for the block (dropout, unseeded draws in plug-ins); restore them after.

    Not by `torch.manual_seed`, which notes the whole stack for each kind of accelerator that is not there, nor by
    looking for GPUs where there are none: in short trainings these took a tenth of the time.
    """
    number, on_gpus = derived(seed, purpose), torch.cuda.is_available()
    with torch.random.fork_rng(None if on_gpus else []):
        torch.default_generator.manual_seed(number)
        if on_gpus:
            torch.cuda.manual_seed_all(number)
        yield
