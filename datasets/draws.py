"""What a loader draws in a pass, its order and augmentations, under a seed and apart from all other draws."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Draws:
    """The random streams of one pass: torch's, numpy's and Python's global ones, and those that a loader holds.

    Blocks of one pass go on where the last one ended; outside of them every stream is where others left it. So a loop
    may draw noise between the batches of a loader that augments, and neither changes the other.
    """

    def __init__(self, seed: int, loader: Any):
        self._seed = seed
        cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
        found = [torch.default_generator, *cuda, *_generators(loader)]
        self._generators = list({id(generator): generator for generator in found}.values())
        self._states: tuple | None = None

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Draw from the streams of the pass inside the block."""
        outside = self._now()
        try:
            self._seed_all() if self._states is None else self._put(self._states)
            yield
        finally:
            self._states = self._now()
            self._put(outside)

    def _now(self) -> tuple:
        return random.getstate(), np.random.get_state(), [g.get_state() for g in self._generators]  # noqa: NPY002

    def _put(self, states: tuple) -> None:
        python, of_numpy, of_torch = states
        random.setstate(python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        for generator, state in zip(self._generators, of_torch, strict=True):
            generator.set_state(state)

    def _seed_all(self) -> None:
        random.seed(self._seed)
        np.random.seed(self._seed % 2**32)  # noqa: NPY002
        for generator in self._generators:
            generator.manual_seed(self._seed)


def _generators(loader: Any) -> Iterator[torch.Generator]:
    """The generators of a loader and of what it draws with."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    for holder in (loader, sampler, batches, getattr(batches, "sampler", None)):
        if isinstance(found := getattr(holder, "generator", None), torch.Generator):
            yield found
