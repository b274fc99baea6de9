"""The plan of a matrix: its cells, those of a shard, those that make no sense, and the tasks that compute the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...datasets.errors import NotApplicable, UsageError
from ...datasets.registry import plugin_source
from ...methods import registry as methods
from ..results.store import Store
from ..spec.matrix import Matrix, load_matrix
from ..spec.run import Run
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
    """The i-th of n parts, counted from 1; cells that share a trained network stay together.

    Raises UsageError for a part that does not exist.
    """
    index, parts = shard
    if not 1 <= index <= parts:
        raise UsageError(f"shard {index}/{parts} does not exist; give i/n with 1 <= i <= n")
    numbers: dict[str, int] = {}
    for r in cells:
        numbers.setdefault(_fit_of(r), len(numbers))
    return [r for r in cells if numbers[_fit_of(r)] % parts == index - 1]


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
    groups = grouped(todo, lambda r: (_fit_of(r), r.units, in_full(r.method)))
    return [Task(fit, group) for (fit, _, _), group in groups]


def _fit_of(r: Run) -> str:
    return _fit_key(r.model_copy(update={"sparsity": "auto"}).model_dump_json())


@lru_cache(maxsize=65536)
def _fit_key(text: str) -> str:
    r = Run.model_validate_json(text)
    return fit_key(r, inference_of(r))
