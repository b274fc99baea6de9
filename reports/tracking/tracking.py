"""Cells to trackers while a run goes on: by a process of its own.

No worker waits for a server then, and the threads that trackers leave behind are none of the run's.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import click

from ...bench.results.store import Store
from ...datasets.errors import UsageError, one_line, unknown
from .cell import Cell, cell_of

# Each has a module here; the libraries that it needs, as they are imported.
TRACKERS: Mapping[str, tuple[str, ...]] = {
    "mlflow": ("mlflow", "alembic"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}
PATIENCE = 1  # second of silence before it is said what is waited for
_SPAWN = multiprocessing.get_context("spawn")


class Tracker(Protocol):
    """Made once for a results folder."""

    def log(self, cell: Cell) -> None:
        """One run, begun and ended; a cell that is told again replaces what was told before."""


def check(name: str) -> None:
    """Raises UsageError for an unknown tracker, and where its library is not installed."""
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if any(importlib.util.find_spec(library) is None for library in TRACKERS[name]):
        raise UsageError(f"{name} is not installed: pip install 'bayesprune[{name}]'")


@contextmanager
def tracking(names: Sequence[str], folder: Path) -> Iterator[Callable[[str], None]]:
    """A function to call with the key of every record that comes; on leaving, what is still to be told is told.

    A tracker that fails is told of no further cell, in one warning: results do not depend on it, and `bayesprune track`
    tells it everything later. An interrupt does not wait for what has not been told. Raises UsageError as `check`.
    """
    for name in names:
        check(name)
    theirs, ours = _SPAWN.Pipe(duplex=False)
    teller = _SPAWN.Process(target=_tell, args=(theirs, tuple(dict.fromkeys(names)), folder), daemon=True)
    teller.start()
    theirs.close()

    def tell(key: str) -> None:
        with suppress(BrokenPipeError):  # it has said why it ended
            ours.send(key)

    try:
        yield tell
        ours.close()
        teller.join(PATIENCE)
        if teller.is_alive():
            click.echo(f"Waiting for {' and '.join(names)} ...", err=True)
            teller.join()
    finally:
        teller.terminate()


def _tell(keys: Connection, names: Sequence[str], folder: Path) -> None:
    """Tell all trackers of the cells whose keys come, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's, which ends this process
    left: dict[str, Tracker | None] = dict.fromkeys(names)
    with suppress(EOFError):
        while left:
            record = Store(folder, create=False).read_record(keys.recv(), mend=False)
            if record is None:
                continue
            for name in list(left):
                try:
                    made: Tracker = left[name] or import_module(f".{name}", __package__).Tracker(folder)
                    left[name] = made
                    made.log(cell_of(record))
                except Exception as error:
                    del left[name]
                    click.echo(
                        f"bayesprune: warning: {name} is told of no further cell ({one_line(error)}); tell it all "
                        f"later: bayesprune track {name} {folder}", err=True,
                    )  # fmt: skip
