"""The plan of a matrix: its cells, those of a shard, those that make no sense, and the tasks that compute the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets.errors import NotApplicable, UsageError
from ...datasets.registry import plugin_source
from ...datasets.seal import sealed
from ...methods import registry as methods
from ..isolation.isolated import LeftBehind, isolated
from ..results.store import Store
from ..spec.matrix import Matrix, load_matrix
from ..spec.run import Run, sources_read_once
from ..training.fits import fit_key, inference_of
from .interrupts import interrupted
from .preflight import grouped, in_full, preflight
from .tasks import Task


@dataclass(frozen=True)
class Planned:
    """What a run is about to do.

    Attributes:
        said: what asked for the cells, as the results folder notes it.
        every: all of its cells.
        cells: those of the shard.
        senseless: of those the ones that make no sense, by key, with the reason.
        plugins: path and content of each plug-in, which every worker of the run will execute.
    """

    said: dict[str, Any]
    every: list[Run]
    cells: list[Run]
    senseless: dict[str, NotApplicable]
    plugins: tuple[tuple[str, bytes], ...]


def planned(
    matrix: str | Path | Matrix | Sequence[Run], shard: tuple[int, int], plugins: Sequence[str | Path] = ()
) -> Planned:
    """Read, expand and check a matrix, or check given cells.

    Writes nothing, and raises UsageError for whatever the user can mend.
    """
    try:
        with isolated(importing=True):
            loaded = load_plugins(plugins)
            said, every = _asked(matrix)
        cells = sharded(every, shard)
        return Planned(said, every, cells, preflight(cells), loaded)
    except LeftBehind as error:
        raise UsageError(f"a plug-in cannot be used: when it was loaded or built, {error}") from error
    except (KeyboardInterrupt, GeneratorExit) as error:
        if interrupted():
            raise
        raise UsageError(f"a plug-in cannot be used: it raised {type(error).__name__} when it was built") from error


def _asked(matrix: str | Path | Matrix | Sequence[Run]) -> tuple[dict[str, Any], list[Run]]:
    if not isinstance(matrix, str | Path | Matrix):
        return {"cells": sorted(r.key for r in matrix)}, list(matrix)
    matrix = matrix if isinstance(matrix, Matrix) else load_matrix(matrix)
    with sources_read_once(), sealed():
        return matrix.model_dump(mode="json"), matrix.cells()


def load_plugins(paths: Sequence[str | Path]) -> tuple[tuple[str, bytes], ...]:
    """Import plug-in files; what they hold now is what every worker of the run will execute."""
    loaded = tuple((str(Path(p).resolve()), plugin_source(Path(p).resolve())) for p in paths)
    for path, source in loaded:
        methods.load_plugin(path, source)
    return loaded


def sharded(cells: Sequence[Run], shard: tuple[int, int]) -> list[Run]:
    """The i-th of n parts, counted from 1; cells that share a trained network stay together.

    Raises UsageError for a part that does not exist.
    """
    index, parts = shard
    if not 1 <= index <= parts:
        raise UsageError(f"shard {index}/{parts} does not exist; give i/n with 1 <= i <= n")
    numbers = dict[str, int]()
    fits = _fits(cells) if parts > 1 else []
    for fit in fits:
        numbers.setdefault(fit, len(numbers))
    return [r for r, fit in zip(cells, fits, strict=True) if numbers[fit] % parts == index - 1] if fits else list(cells)


def _fits(cells: Sequence[Run]) -> list[str]:
    """What no shard may tear apart: the fit of each cell, or where a plug-in cannot name it what should share one."""
    fit_of, fits = FitKeys(), []
    for r in cells:
        try:
            fits.append(fit_of(r))
        except BaseException:
            if interrupted():
                raise
            fits.append(fit_of.place(r))
    return fits


def pending(
    cells: Iterable[Run], store: Store, retry_failed: bool = False, mend: bool = True,
    records: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Run]:  # fmt: skip
    """The cells without an intact record and logits, and with `retry_failed` those whose record says failed.

    `records` are the intact ones by key, where they have been read before; `mend` sets damaged files aside.
    """

    def is_pending(key: str) -> bool:
        record = (records or {}).get(key) or store.read_record(key, mend)
        if record is None or (record["status"] == "done" and not store.complete(record, mend)):
            return True
        return retry_failed and record["status"] == "failed"

    return [r for r in cells if is_pending(r.key)]


def tasks_of(todo: Sequence[Run]) -> tuple[list[Task], dict[str, BaseException]]:
    """One task for each method and kind of units on each trained network.

    And the errors, by key, of cells whose inference does not even say what it is.
    """
    fit_of, broken, sound = FitKeys(), dict[str, BaseException](), list[Run]()
    for r in todo:
        try:
            fit_of(r)
            sound.append(r)
        except BaseException as error:
            if interrupted():
                raise
            broken[r.key] = error
    groups = grouped(sound, lambda r: (fit_of(r), r.units, in_full(r.method)))
    return [Task(fit, group) for (fit, _, _), group in groups], broken


class FitKeys:
    """Keys of the networks that cells share, computed once for all cells that differ in their sparsity only."""

    def __init__(self) -> None:
        self._known: dict[str, str | BaseException] = {}

    def __call__(self, r: Run) -> str:
        """The key of the fit of a cell; raises whatever the inference raises when it is asked who it is."""
        place = self.place(r)
        if place not in self._known:
            self._known[place] = self._asked(r)
        if isinstance(found := self._known[place], BaseException):
            raise found
        return found

    @staticmethod
    def place(r: Run) -> str:
        """What cells have in common that differ in their sparsity only."""
        return r.model_dump_json(exclude={"sparsity"})

    def _asked(self, r: Run) -> str | BaseException:
        is_own = "method" not in r.sources
        try:
            with sealed(), nullcontext() if is_own else isolated():
                return fit_key(r, inference_of(r))
        except BaseException as error:
            return error
