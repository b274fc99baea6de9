"""Workers: what trains and prunes, and the two kinds of tasks it is given.

A task brings what it needs along, so that any process on any machine that reaches the results folder can work it off.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache

import torch

from ...datasets import registry as datasets
from ...datasets.data import Data
from ...datasets.load import load
from ...datasets.seal import sealed
from ..isolation.isolated import Traces, isolated, spoiled, undone
from ..results.store import MachineFault, Store
from ..results.visibility import seen
from ..spec.run import Choice, Run
from ..training.fits import fitted
from . import cell
from .provenance import class_of, repeatable
from .surroundings import at_fault, surroundings
from .tasks import Fitted, Setting, Task, Worked
from .workbench import Workbench

Function = Callable[[Task, Setting], Fitted | Worked]


def train_fit(task: Task, setting: Setting) -> Fitted:
    """Task: train, or find in the store, the network that these cells share."""
    _refuse_if_spoiled()
    store, device = surroundings(setting, task.runs)
    data = frozen_data(task.runs[0], device, store)
    traces = Traces()
    try:
        with repeatable(task.runs[0], device), isolated(data) as traces:
            fitted(task.runs[0], data, store, device)
    finally:
        if traces.data:
            forget_data()
    checksum, notes = store.tensors_head("fits", task.fit) or (None, {})
    return Fitted(checksum, class_of(notes))


def run_cells(task: Task, setting: Setting) -> Worked:
    """Task: all cells of one method on one fit; those that an earlier, interrupted try has left behind stay."""
    _refuse_if_spoiled()
    store, device = surroundings(setting, task.runs)
    if task.made is not None:  # if it does not appear in time, it is trained again
        seen(lambda: (store.tensors_head("fits", task.fit) or ("",))[0] == task.made, store.folder / "fits")
    checksums: dict[str, str] = {}
    bench: Workbench | None = None
    with repeatable(task.runs[0], device):
        for i, r in enumerate(task.runs):
            if not _stands(r, task, store):
                if bench is None:
                    data = frozen_data(r, device, store)
                    with sealed(), isolated():
                        bench = Workbench(r, data, store, device)
                traces = cell.execute(r, bench, store)
                if traces.data:
                    forget_data()
                if traces:  # what the cells share was made when all was not as it should be
                    bench = None
            if (checksum := store.record_checksum(r.key)) is not None:
                checksums[r.key] = checksum
            if spoiled():
                return Worked(checksums, task.runs[i + 1 :])
    return Worked(checksums)


def _stands(r: Run, task: Task, store: Store) -> bool:
    """Whether a record of this run stands in the folder, of a try whose worker died later."""
    checksum = store.record_checksum(r.key)
    if checksum is None or checksum in task.stale:
        return False
    record = store.read_record(r.key)
    return record is not None and (record["status"] != "done" or store.complete(record))


def _refuse_if_spoiled() -> None:
    if what := spoiled():
        raise MachineFault(
            f"a method left {what} behind, which nothing can undo in this process: start it anew, and give methods of "
            "your own as --plugin FILE, which run in a process that can be replaced"
        )


def frozen_data(r: Run, device: torch.device, store: Store) -> Data:
    """The data of a cell; raises MachineFault if they are not those that the results in the folder are made of."""
    with at_fault():
        data = data_of(r, str(device))
    if store.freeze_data(r.data_key, data.digest) != data.digest:
        raise MachineFault(_changed(r.dataset.label, f"that {store.folder} was begun with"))
    return data


def data_of(r: Run, device: str = "cpu") -> Data:
    """The data of a cell, kept in memory for the next cell that asks for it; raises MachineFault if they change."""
    return _cached_data(r.dataset.model_dump_json(), r.seed, device, r.sources.get("dataset"))


@lru_cache(maxsize=2)
def _cached_data(choice: str, seed: int, device: str, source: str | None) -> Data:
    dataset = Choice.model_validate_json(choice)  # a Choice holds a dict, which has no hash
    with undone() if source is not None else nullcontext():
        data = load(dataset.name, seed, **dataset.options).to(device)
    if datasets.source_digest(dataset.name) != source:
        raise MachineFault(_changed(dataset.label, "that this run was begun with"))
    return data


def _changed(label: str, which: str) -> str:
    return (
        f"the data of {label} are not those {which}: put them back and run the same command again, or choose another "
        "--out for the new ones"
    )


def forget_data() -> None:
    """Data that a method changed in place are loaded anew."""
    _cached_data.cache_clear()
