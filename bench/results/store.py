"""The store: one folder of records, logits and fitted networks, safe against crashes. Never imports torch.

    results/store.json             schema version
    results/cells/KEY.json         one record per cell, with a checksum
    results/logits/KEY.safetensors test logits (float16) and labels of the cell
    results/fits/KEY.safetensors   trained networks, shared by all cells with the same training
    results/matrix.json            the matrix that ran last, and the keys of its cells
    results/data/KEY.json          digest of each data set under each seed, frozen when it was first read
    results/lock/                  who runs into this folder now
    results/logs/                  what jobs of a batch system say
    results/set-aside/             damaged files, moved here and computed again
    results/superseded/            records of other settings under the same names, moved here
    results/results.csv, costs.csv derived from the records

Every file is written beside its place and moved there in one step; a reader sees all of it or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...datasets.atomic import write_atomically
from ...datasets.errors import UsageError, one_line
from .integrity import (
    Damaged,
    as_json,
    canonical,
    sha256,
    tensor_digest,
    tensors_header,
    verified_logits,
    verified_record,
    verified_tensors,
)

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 1
LARGEST_HEADER = 1 << 27  # bytes; safetensors itself reads no more than 10^8
OWN_NAMES = (
    "cells",
    "logits",
    "fits",
    "set-aside",
    "superseded",
    "data",
    "lock",
    "logs",
    "store.json",
    "matrix.json",
    "results.csv",
    "costs.csv",
)

logger = logging.getLogger("bayesprune")


class MachineFault(UsageError):
    """The results folder cannot be read or written: no fault of a method, and recorded nowhere; the run ends."""


class Store:
    """One results folder; raises UsageError if it belongs to another schema version.

    Attributes:
        origin: notes on the machine that writes, which every tensor file it writes has.
    """

    def __init__(self, folder: str | Path, create: bool = True, origin: Mapping[str, Any] | None = None):
        self.folder, self.origin = Path(folder), dict(origin or {})
        marker = self.folder / "store.json"
        try:
            if marker.is_file():
                _check_schema(marker)
            elif create:
                self._create(marker)
            else:
                hint = f"run a matrix with --out {self.folder}"
                raise UsageError(f"{self.folder} is not a results folder: it has no store.json; {hint}")
        except OSError as error:
            raise UsageError(
                f"cannot use {self.folder} as results folder: {error.strerror}; choose another --out"
            ) from error

    def _create(self, marker: Path) -> None:
        """Start a folder; several processes may do so at once."""
        strangers = [p.name for p in self.folder.iterdir() if p.name not in OWN_NAMES] if self.folder.is_dir() else []
        if [name for name in strangers if not name.endswith(".tmp")]:
            raise UsageError(
                f"{self.folder} is not empty and not a results folder (it has no store.json); choose another folder"
            )
        write_atomically(marker, json.dumps({"schema": SCHEMA}).encode() + b"\n")
        for name in ("cells", "logits", "fits"):
            (self.folder / name).mkdir(exist_ok=True)

    # ------------------------------------------------------------------ records

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write one record (a JSON object with a "key"), replacing an older one; raises MachineFault."""
        content = as_json(record)
        text = json.dumps({"checksum": sha256(canonical(content).encode()), "record": content}, indent=1)
        self.write(self._cell(record["key"]), text.encode() + b"\n")

    def read_record(self, key: str, mend: bool = True) -> dict[str, Any] | None:
        """The record of a cell; None if there is none, or if it is damaged, in which case `mend` sets it aside."""
        return self._intact(self._cell(key), lambda content: verified_record(content, key), mend)

    def complete(self, record: Mapping[str, Any], mend: bool = True) -> bool:
        """Whether a finished cell's logits are there too, intact and its own; `mend` sets others aside."""
        path = self._tensors("logits", record["key"])
        return self._intact(path, lambda content: verified_logits(content, record), mend) is not None

    def records(self) -> list[dict[str, Any]]:
        """All intact records; reading changes nothing in the folder."""
        return [
            r
            for path in sorted((self.folder / "cells").glob("*.json"))
            if (r := self.read_record(path.stem, mend=False))
        ]

    def keys(self) -> set[str]:
        """Keys of all records, intact or not."""
        return {path.stem for path in (self.folder / "cells").glob("*.json")}

    def gaps(self) -> list[str]:
        """Sentences that say what the records lack: damaged ones, and cells of the matrix that have not run."""
        have, intact = self.keys(), {r["key"]: r for r in self.records()}
        done = [r for r in intact.values() if r["status"] == "done"]
        planned = self.planned()
        counts = {
            "damaged": len(have - intact.keys()),
            "without the intact outputs that belong to them": sum(not self.complete(r, mend=False) for r in done),
            "not run yet": len((planned or set()) - have),
        }
        advice = "the same run command computes them"
        found = [f"In {self.folder.name}, {n} cells are {what}: {advice}." for what, n in counts.items() if n]
        if planned is None:
            found.append(f"In {self.folder.name}, matrix.json is damaged: whether cells are missing is not known.")
        return found

    def planned(self) -> set[str] | None:
        """Keys of the cells of the matrix that ran last; none if none did, None if its file is damaged."""
        try:
            cells = json.loads((self.folder / "matrix.json").read_bytes())["cells"]
        except FileNotFoundError:
            return set()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return set(cells) if isinstance(cells, list) and all(isinstance(key, str) for key in cells) else None

    def write_note(self, matrix: Mapping[str, Any], cells: Sequence[str]) -> None:
        """Write down which matrix runs, and the keys of its cells; raises MachineFault."""
        note = {"matrix": matrix, "cells": cells}
        self.write(self.folder / "matrix.json", json.dumps(note, indent=1).encode() + b"\n")

    def freeze_data(self, key: str, digest: str) -> str:
        """The digest of the data called `key`, as it was when it was first read into this folder; raises MachineFault.

        If nobody has said so before, it is `digest`.
        """
        path = self.folder / "data" / f"{key}.json"
        found = self._intact(path, lambda content: verified_record(content, key, whole=False), mend=True)
        if found is None:
            self.write_json(path, {"key": key, "digest": digest})
            return digest
        return found["digest"]

    def supersede(self, key: str) -> None:
        """Take a record out of the results, keeping it: its cell now means something else."""
        self._move(self._cell(key), "superseded")

    def restore(self, keys: Iterable[str]) -> None:
        """Bring superseded records back, those that there are: their cells mean the same again."""
        folder = self.folder / "superseded" / "cells"
        superseded = {path.stem: path for path in folder.glob("*.json")}
        for key in superseded.keys() & set(keys):
            if not self._cell(key).exists():
                os.replace(superseded[key], self._cell(key))

    # ------------------------------------------------------------------ tensors

    def write_tensors(
        self, kind: str, key: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> None:
        """Write named arrays with JSON metadata and a checksum over both; `kind` is "fits" or "logits".

        What they belong to stands among the metadata, so that files cannot change places. Raises MachineFault.
        """
        from safetensors.numpy import save

        notes = canonical({**self.origin, **metadata, "kind": kind, "key": key})
        content = save(dict(tensors), {"metadata": notes, "checksum": tensor_digest(tensors, notes)})
        self.write(self._tensors(kind, key), content)

    def read_tensors(
        self, kind: str, key: str, mend: bool = True
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and metadata; None if there are none, or if they are damaged or another's (`mend` sets them aside)."""
        return self._intact(self._tensors(kind, key), lambda content: verified_tensors(content, kind, key), mend)

    # ------------------------------------------------------------------ checksums, without reading it all

    def record_checksum(self, key: str) -> str | None:
        """What the record of a cell says is its checksum; None if there is no readable one."""
        try:
            found = json.loads(self._cell(key).read_bytes())["checksum"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return found if isinstance(found, str) else None

    def tensors_head(self, kind: str, key: str) -> tuple[str, dict[str, Any]] | None:
        """Checksum and notes of a tensor file, from its head alone; None if there is no readable one."""
        try:
            with self._tensors(kind, key).open("rb") as file:
                return tensors_header(file.read(min(int.from_bytes(file.read(8), "little"), LARGEST_HEADER)))
        except (OSError, Damaged):
            return None

    # ------------------------------------------------------------------ files

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write a small JSON object with a checksum; raises MachineFault."""
        body = canonical(value)
        self.write(path, canonical({"checksum": sha256(body.encode()), "record": value}).encode() + b"\n")

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the folder; raises MachineFault, as a full disk is not the fault of a method."""
        try:
            if not (self.folder / "store.json").is_file():  # a folder that was removed is not begun anew in passing
                raise FileNotFoundError(errno.ENOENT, "it has been removed while it was in use")
            write_atomically(path, content)
        except OSError as error:
            raise _fault(self.folder, error) from error

    def _intact(self, path: Path, verified: Callable[[bytes], Any], mend: bool) -> Any:
        """What `verified` makes of a file; None if there is none, or if it is damaged or cannot be read."""
        try:
            return verified(path.read_bytes())
        except FileNotFoundError:
            return None
        except (Damaged, OSError) as error:
            if mend:
                self._move(path, "set-aside")
                logger.warning("%s is damaged (%s): set aside, it will be computed again", path, one_line(error))
            return None

    def _move(self, path: Path, where: str) -> None:
        target = self.folder / where / path.relative_to(self.folder)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.replace(path, target)
        except OSError as error:
            raise _fault(self.folder, error) from error

    def _cell(self, key: str) -> Path:
        return self.folder / "cells" / f"{key}.json"

    def _tensors(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.safetensors"


def _fault(folder: Path, error: OSError) -> MachineFault:
    reason = error.strerror or one_line(error)
    return MachineFault(
        f"cannot use the results folder {folder}: {reason}; finished cells are safe, run the same command again "
        "when that is mended"
    )


# ---------------------------------------------------------------------- integrity


def _check_schema(marker: Path) -> None:
    try:
        found = json.loads(marker.read_bytes()).get("schema")
    except (ValueError, AttributeError):
        found = "unreadable"
    if found != SCHEMA:
        raise UsageError(
            f"{marker.parent} holds results of schema version {found!r}, this program reads version {SCHEMA}; "
            "choose another folder, nothing was changed"
        )
