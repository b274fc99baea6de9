"""What travels between the scheduling and its workers: the setting of a run, tasks, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..spec.run import Run

Plugins = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Setting:
    """What a worker needs to know beside its cells.

    Attributes:
        folder: the results folder, the same on every machine.
        device: as the worker shall understand it; auto is what it finds.
        plugins: path and content of each plug-in.
        lease: name and token of the run's lease, by which a worker knows that it sees the same folder.
        version: that of the package that planned the run.
    """

    folder: Path
    device: str
    plugins: Plugins = ()
    lease: tuple[str, str] | None = None
    version: str | None = None


@dataclass(eq=False)
class Task:
    """Cells that one worker works off together, after the fit they share.

    Attributes:
        fit: key of that fit.
        runs: the cells.
        crashes: how often a worker died in it.
        made: checksum of the stored fit, once it is there.
        place: class of the machine that made it, where its cells are to stay there.
        stale: checksums of records that are to be computed anew; any other that stands there is of this run.
    """

    fit: str
    runs: list[Run]
    crashes: int = 0
    made: str | None = None
    place: str | None = None
    stale: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Fitted:
    """A fit is in the store: its checksum, and the class of machine that made it, None if nobody wrote that down."""

    checksum: str | None
    place: str | None


@dataclass(frozen=True)
class Worked:
    """Checksums of the records of a task, by key, and the cells that a fresh process has to run."""

    checksums: Mapping[str, str] = field(default_factory=dict)
    rest: list[Run] = field(default_factory=list)
