"""Verifying a results folder: every checksum, key, digest and lease, without changing anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .lock import owners
from .store import Store


@dataclass
class Verification:
    """What a results folder is found to be.

    Attributes:
        counts: files of each kind that are as they should be.
        problems: one sentence for each that is not.
        notes: what is no damage, and good to know.
    """

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, kind: str, is_intact: bool, problem: str) -> None:
        """Count one file, or say what is wrong with it."""
        if is_intact:
            self.counts[kind] = self.counts.get(kind, 0) + 1
        else:
            self.problems.append(problem)


def verify(folder: str | Path) -> Verification:
    """Read everything that a results folder holds; raises UsageError for a folder that is none."""
    store, found = Store(folder, create=False), Verification()
    records = {r["key"]: r for r in store.records()}
    for path in sorted((store.folder / "cells").glob("*.json")):
        found.count("records", path.stem in records, f"cells/{path.name} is damaged")
    for record in records.values():
        if record["status"] == "done":
            name = f"logits/{record['key']}.safetensors"
            found.count("outputs", store.complete(record, mend=False), f"{name} is missing, damaged or of another cell")
    for path in sorted((store.folder / "logits").glob("*.safetensors")):
        if path.stem not in records:
            found.problems.append(f"logits/{path.name} belongs to no record")
    digests = list(_fits(store, found))
    _check_data(store, [*records.values()], digests, found)
    _check_cells(store, [*records.values()], found)
    for path, owner, is_alive in owners(store.folder):
        state = "is running" if is_alive else "has ended without giving the folder free; the next run takes it over"
        found.notes.append(f"{owner or path.name} {state}")
    if strays := sorted(store.folder.rglob(".*.tmp")):
        found.notes.append(f"{len(strays)} files were never finished, such as {strays[0].name}; they may be deleted")
    return found


def _fits(store: Store, found: Verification) -> Iterator[dict[str, Any]]:
    """The notes of every intact fit."""
    for path in sorted((store.folder / "fits").glob("*.safetensors")):
        stored = store.read_tensors("fits", path.stem, mend=False)
        found.count("fits", stored is not None, f"fits/{path.name} is damaged, or of another key")
        if stored is not None:
            yield stored[1]


def _check_data(store: Store, records: list[dict[str, Any]], fits: list[dict[str, Any]], found: Verification) -> None:
    """Records of one data set and seed must be of the same data, and so must the networks."""
    seen: dict[str, set[str]] = {}
    for record in records:
        choice = record.get("run") or {}
        if digest := record.get("dataset_digest"):
            sources = choice.get("dataset"), record["seed"], record["dataset"]
            seen.setdefault(json.dumps(sources, sort_keys=True), set()).add(digest)
    for place, digests in seen.items():
        label = json.loads(place)[2]
        found.count("data sets", len(digests) == 1, f"records of {label} are of {len(digests)} different contents")
    known = set().union(*seen.values()) if seen else set()
    strangers = {notes["dataset_digest"] for notes in fits if "dataset_digest" in notes} - known
    if strangers and known:
        found.notes.append(f"{len(strangers)} networks are of data that no record is of")


def _check_cells(store: Store, records: list[dict[str, Any]], found: Verification) -> None:
    """One record for each row of the tables, and one for each cell of the matrix that ran last."""
    faces: dict[str, int] = {}
    for record in records:
        names = ("dataset", "architecture", "method", "units", "sparsity_target", "sparsity_auto", "seed")
        face = json.dumps([record[name] for name in names])
        faces[face] = faces.get(face, 0) + 1
    for face, number in faces.items():
        if number > 1:
            found.problems.append(f"{number} records look alike, as if two matrices were mixed: {face}")
    planned = store.planned()
    if planned is None:
        found.problems.append("matrix.json is damaged")
    elif missing := planned - {r["key"] for r in records}:
        found.notes.append(f"{len(missing)} cells of the matrix have no record yet")
