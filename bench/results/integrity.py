"""What files of a results folder must be: records and tensors whose checksums, keys and kinds agree. Without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...datasets.errors import printable
from ...datasets.plain import plain
from .columns import misfit

if TYPE_CHECKING:
    import numpy as np

LARGEST_RECORD = 1 << 24  # characters


class Damaged(ValueError):
    """A file whose content does not match its checksum, or that is none of ours."""


def verified_record(content: bytes, key: str, whole: bool = True) -> dict[str, Any]:
    """The record in a file, whose checksum and key agree; a `whole` one has everything that tables are made of."""
    try:
        envelope = json.loads(content)
        record, checksum = envelope["record"], envelope["checksum"]
        agrees = sha256(canonical(record).encode()) == checksum and record["key"] == key
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("not a record") from error
    if not agrees:
        raise Damaged("checksum or key")
    if whole and (wrong := misfit(record)):
        raise Damaged(f"its {wrong} is none")
    return _printable(record) if b"\\ud" in content.lower() else record


def _printable(value: Any) -> Any:
    """A JSON value without lone surrogates, which no file in UTF-8 can hold."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(part) for part in value]
    if isinstance(value, dict):
        return {printable(name): _printable(part) for name, part in value.items()}
    return value


def verified_tensors(content: bytes, kind: str, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and notes of a file, if it is that of this kind and key; older ones do not say what they are."""
    from safetensors.numpy import load

    try:
        tensors = load(content)
        checksum, notes = _said(content[8 : 8 + int.from_bytes(content[:8], "little")])
        agrees = tensor_digest(tensors, notes) == checksum
        metadata = json.loads(notes)
        of = metadata.pop("kind", kind), metadata.pop("key", key)
    except Exception as error:  # of hostile headers, safetensors raises what its parts raise
        raise Damaged("not a tensor file") from error
    if not agrees:
        raise Damaged("checksum")
    if of != (kind, key):
        raise Damaged(f"it belongs to {of[1]!r}")
    return tensors, metadata


def tensors_header(header: bytes) -> tuple[str, dict[str, Any]]:
    """Checksum and notes as the header of a tensor file says them, of which nothing is verified."""
    try:
        checksum, notes = _said(header)
        return str(checksum), dict(json.loads(notes))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged("not a tensor file") from error


def _said(header: bytes) -> tuple[str, str]:
    said = json.loads(header)["__metadata__"]
    return said["checksum"], said["metadata"]


def verified_logits(content: bytes, record: Mapping[str, Any]) -> bool:
    """Whether the outputs in a file are those that the record was made from."""
    tensors, _ = verified_tensors(content, "logits", record["key"])
    outputs = tensors.get("outputs")
    expected = record.get("logits_digest")
    if expected is not None and (outputs is None or sha256(outputs.tobytes()) != expected):
        raise Damaged("its outputs are of another cell")
    return True


def tensor_digest(tensors: Mapping[str, np.ndarray], notes: str) -> str:
    """SHA-256 over named arrays and the notes beside them."""
    parts: Iterable[bytes] = (
        f"{name} {tensors[name].dtype} {tensors[name].shape}".encode() + tensors[name].tobytes()
        for name in sorted(tensors)
    )
    digest = hashlib.sha256(notes.encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def as_json(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON gives it back; numbers of numpy and torch become Python's.

    Raises TypeError or ValueError for what JSON cannot hold: NaN, infinity, tensors; and for more than a record holds.
    """
    text = canonical(record)
    if len(text) > LARGEST_RECORD:
        raise ValueError(f"a record of {len(text):,} characters; `learned` and `report` are for summaries")
    return _printable(json.loads(text))


def canonical(value: Any) -> str:
    """JSON in the order given, which is that of the layers in a network; reading keeps it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=plain)


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
