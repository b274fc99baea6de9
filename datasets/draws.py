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
        self._numpy = np.random.MT19937()
        self._numpy.state = np.random.RandomState(seed % 2**32).get_state(legacy=False)  # pyright: ignore

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Draw from the streams of the pass inside the block."""
        outside, numpy_outside = self._now(), np.random.get_bit_generator()  # pyright: ignore
        # Exchanged, not copied: copies of numpy's state take as long as training on a small batch.
        np.random.set_bit_generator(self._numpy)  # pyright: ignore
        try:
            self._seed_all() if self._states is None else self._put(self._states)
            yield
        finally:
            self._states = self._now()
            self._put(outside)
            np.random.set_bit_generator(numpy_outside)  # pyright: ignore

    def _now(self) -> tuple:
        return random.getstate(), [generator.get_state() for generator in self._generators]

    def _put(self, states: tuple) -> None:
        python, of_torch = states
        random.setstate(python)
        for generator, state in zip(self._generators, of_torch, strict=True):
            generator.set_state(state)

    def _seed_all(self) -> None:
        random.seed(self._seed)
        for generator in self._generators:
            generator.manual_seed(self._seed)


@contextmanager
def normal_kept() -> Iterator[None]:
    """Numpy's second normal number of a pair waits in its global stream, which forgets it when streams are exchanged.

    It is put back after the block, if nobody has drawn from that stream in between.
    """
    before = np.random.get_state(legacy=False)  # noqa: NPY002
    try:
        yield
    finally:
        now = np.random.get_state(legacy=False)  # noqa: NPY002
        same = now["state"]["pos"] == before["state"]["pos"] and (now["state"]["key"] == before["state"]["key"]).all()
        if before["has_gauss"] and same:
            np.random.set_state(before)  # noqa: NPY002


def _generators(loader: Any) -> Iterator[torch.Generator]:
    """The generators of a loader and of what it draws with."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    for holder in (loader, sampler, batches, getattr(batches, "sampler", None)):
        if isinstance(found := getattr(holder, "generator", None), torch.Generator):
            yield found
