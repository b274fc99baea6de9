"""The plan of a matrix: its cells, those of a shard, those that make no sense, and the tasks that compute the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...datasets.errors import NotApplicable, UsageError
from ...datasets.registry import plugin_source
from ...datasets.seal import sealed
from ...methods import registry as methods
from ..results.store import Store
from ..spec.matrix import Matrix, load_matrix
from ..spec.run import Run, sources_read_once
from ..training.fits import fit_key, inference_of
from .preflight import grouped, in_full, preflight
from .workers import Task


@dataclass(frozen=True)
class Planned:
    """What a run is about to do.

    Attributes:
        matrix: as it was read.
        every: all of its cells.
        cells: those of the shard.
        senseless: of those the ones that make no sense, by key, with the reason.
        plugins: path and content of each plug-in, which every worker of the run will execute.
    """

    matrix: Matrix
    every: list[Run]
    cells: list[Run]
    senseless: dict[str, NotApplicable]
    plugins: tuple[tuple[str, bytes], ...]


def planned(matrix: str | Path | Matrix, shard: tuple[int, int], plugins: Sequence[str | Path] = ()) -> Planned:
    """Read, expand and check a matrix; writes nothing, and raises UsageError for whatever the user can mend."""
    loaded = load_plugins(plugins)
    matrix = matrix if isinstance(matrix, Matrix) else load_matrix(matrix)
    with sources_read_once():
        every = matrix.cells()
    cells = sharded(every, shard)
    return Planned(matrix, every, cells, preflight(cells), loaded)


def load_plugins(paths: Sequence[str | Path]) -> tuple[tuple[str, bytes], ...]:
    """Import plug-in files; what they hold now is what every worker of the run will execute."""
    loaded = tuple((str(Path(p).resolve()), plugin_source(Path(p).resolve())) for p in paths)
    for path, source in loaded:
        methods.load_plugin(path, source)
    return loaded


def sharded(cells: Sequence[Run], shard: tuple[int, int]) -> list[Run]:
    """The i-th of n parts, counted from 1; cells that share a trained network stay together."""
    index, parts = shard
    if not 1 <= index <= parts:
        raise UsageError(f"shard {index}/{parts} does not exist; give i/n with 1 <= i <= n")
    fit_of, numbers = FitKeys(), dict[str, int]()
    fits = [fit_of(r) for r in cells] if parts > 1 else []
    for fit in fits:
        numbers.setdefault(fit, len(numbers))
    return [r for r, fit in zip(cells, fits, strict=True) if numbers[fit] % parts == index - 1] if fits else list(cells)


def pending(cells: Iterable[Run], store: Store, retry_failed: bool = False, mend: bool = True) -> list[Run]:
    """The cells without an intact record and logits, and with `retry_failed` those whose record says failed."""

    def is_pending(key: str) -> bool:
        record = store.read_record(key, mend)
        if record is None or (record["status"] == "done" and not store.complete(key)):
            return True
        return retry_failed and record["status"] == "failed"

    return [r for r in cells if is_pending(r.key)]


def tasks_of(todo: Sequence[Run]) -> list[Task]:
    """One task for each method and kind of units on each trained network."""
    fit_of = FitKeys()
    groups = grouped(todo, lambda r: (fit_of(r), r.units, in_full(r.method)))
    return [Task(fit, group) for (fit, _, _), group in groups]


class FitKeys:
    """Keys of the networks that cells share, computed once for all cells that differ in their sparsity only."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, r: Run) -> str:
        """The key of the fit of a cell."""
        place = r.model_dump_json(exclude={"sparsity"})
        if place not in self._known:
            with sealed():
                self._known[place] = fit_key(r, inference_of(r))
        return self._known[place]
