"""The store: one folder of records, logits and fitted networks, safe against crashes. Never imports torch.

    results/store.json             schema version
    results/cells/KEY.json         one record per cell, with a checksum
    results/logits/KEY.safetensors test logits (float16) and labels of the cell
    results/fits/KEY.safetensors   trained networks, shared by all cells with the same training
    results/set-aside/             damaged files, moved here and computed again
    results/superseded/            records of other settings under the same names, moved here
    results/results.csv, costs.csv derived from the records

Every file is written beside its place and moved there in one step; a reader sees all of it or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...datasets.atomic import write_atomically
from ...datasets.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 1
OWN_NAMES = (
    "cells",
    "logits",
    "fits",
    "set-aside",
    "superseded",
    "store.json",
    "matrix.json",
    "results.csv",
    "costs.csv",
)

logger = logging.getLogger("bayesprune")


class Damaged(ValueError):
    """A file whose content does not match its checksum."""


class Store:
    """One results folder; raises UsageError if it belongs to another schema version."""

    def __init__(self, folder: str | Path, create: bool = True):
        self.folder = Path(folder)
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
        """Write one record (a JSON object with a "key"), replacing an older one."""
        body = _canonical(record)
        text = json.dumps({"checksum": _sha256(body.encode()), "record": json.loads(body)}, indent=1)
        write_atomically(self._cell(record["key"]), text.encode() + b"\n")

    def read_record(self, key: str, mend: bool = True) -> dict[str, Any] | None:
        """The record of a cell; None if there is none, or if it is damaged, in which case `mend` sets it aside."""
        return self._intact(self._cell(key), lambda content: _verified_record(content, key), mend)

    def complete(self, key: str) -> bool:
        """Whether a finished cell's logits are there too."""
        return (self.folder / "logits" / f"{key}.safetensors").is_file()

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
        have, intact = self.keys(), {r["key"] for r in self.records()}
        note = self.folder / "matrix.json"
        planned = set(json.loads(note.read_bytes()).get("cells", [])) if note.is_file() else set()
        counts = {"damaged": len(have - intact), "not run yet": len(planned - have)}
        advice = "the same run command computes them"
        return [f"In {self.folder.name}, {n} cells are {what}: {advice}." for what, n in counts.items() if n]

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
        """Write named arrays with JSON metadata and a checksum over both; `kind` is "fits" or "logits"."""
        from safetensors.numpy import save

        notes = _canonical(metadata)
        content = save(dict(tensors), {"metadata": notes, "checksum": _tensor_digest(tensors, notes)})
        write_atomically(self.folder / kind / f"{key}.safetensors", content)

    def read_tensors(self, kind: str, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and metadata; None if there are none, or if they are damaged (then they are set aside)."""
        return self._intact(self.folder / kind / f"{key}.safetensors", _verified_tensors, mend=True)

    # ------------------------------------------------------------------ files

    def _intact(self, path: Path, verified: Callable[[bytes], Any], mend: bool) -> Any:
        try:
            return verified(path.read_bytes())
        except FileNotFoundError:
            return None
        except (Damaged, IsADirectoryError, RecursionError):
            if mend:
                self._move(path, "set-aside")
                logger.warning("%s is damaged: set aside, it will be computed again", path)
            return None

    def _move(self, path: Path, where: str) -> None:
        target = self.folder / where / path.relative_to(self.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.replace(path, target)

    def _cell(self, key: str) -> Path:
        return self.folder / "cells" / f"{key}.json"


# ---------------------------------------------------------------------- frames


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


def _verified_record(content: bytes, key: str) -> dict[str, Any]:
    try:
        envelope = json.loads(content)
        record, checksum = envelope["record"], envelope["checksum"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged("not a record") from error
    if _sha256(_canonical(record).encode()) != checksum or record.get("key") != key:
        raise Damaged("checksum or key")
    return record


def _verified_tensors(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        notes, checksum = header["metadata"], header["checksum"]
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged("not a tensor file") from error
    if _tensor_digest(tensors, notes) != checksum:
        raise Damaged("checksum")
    return tensors, json.loads(notes)


def _tensor_digest(tensors: Mapping[str, np.ndarray], notes: str) -> str:
    parts: Iterable[bytes] = (
        f"{name} {tensors[name].dtype} {tensors[name].shape}".encode() + tensors[name].tobytes()
        for name in sorted(tensors)
    )
    digest = hashlib.sha256(notes.encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _canonical(value: Any) -> str:
    """JSON in the order given, which is that of the layers in a network; reading keeps it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
