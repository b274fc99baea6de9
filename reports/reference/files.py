"""Files of reference results: a line that says what it is, then a row of JSON a line, compressed; read with care."""

from __future__ import annotations

import gc
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ... import __version__
from ...bench.results.columns import misfit
from ...bench.results.integrity import canonical, sha256
from ...datasets.atomic import write_atomically
from ...datasets.errors import UsageError
from .rows import Row, scores_in

SCHEMA = 1
SUFFIX = ".jsonl.xz"
PRESET = 6 | lzma.PRESET_EXTREME  # higher ones take memory, and no byte off
LARGEST = 1 << 28  # bytes of text
FACE = (
    "matrix", "dataset", "architecture", "method", "units", "seed", "sparsity_target", "sparsity_auto",
    "epochs_finetune",
)  # fmt: skip


def write(path: Path, rows: Sequence[Mapping[str, Any]], made: str) -> None:
    """Write rows, computed until the date `made`, so that equal rows give equal bytes."""
    body = "".join(canonical(row) + "\n" for row in sorted(rows, key=_position)).encode()
    head = {"schema": SCHEMA, "bayesprune": __version__, "made": made, "rows": len(rows), "sha256": sha256(body)}
    write_atomically(path, lzma.compress(canonical(head).encode() + b"\n" + body, preset=PRESET))


def _position(row: Mapping[str, Any]) -> tuple:
    return row["matrix"], row["dataset"], row["architecture"], row["method"], row["seed"], row["key"]


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """What the first line says, and the rows.

    Raises UsageError for a file that is not there, damaged, of another schema or of a newer version of the package.
    """
    head, body = _opened(path)
    if head["schema"] != SCHEMA:
        raise UsageError(
            f"{path} holds reference results of schema {head['schema']!r}, this program reads schema {SCHEMA}: "
            f"{'update bayesprune' if _is_newer(head) else 'make them anew with `make reference`'}"
        )
    if _is_newer(head):
        raise UsageError(f"{path} was written by bayesprune {head['bayesprune']}, this is {__version__}: update it")
    if sha256(body) != head["sha256"]:
        raise _damaged(path, "its checksum is of something else")
    try:
        with _collecting_later():
            rows = [_checked(row) for row in json.loads(b"[" + b",".join(body.splitlines()) + b"]")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"a row of it is none, {error}") from error
    if len(rows) != head["rows"]:
        raise _damaged(path, f"it holds {len(rows)} of {head['rows']} rows")
    _refuse_twins(path, rows)
    return head, rows


def _opened(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        with lzma.open(path) as file:
            first, _, body = file.read(LARGEST).partition(b"\n")
        head = json.loads(first)
        if not isinstance(head, dict) or {"schema", "bayesprune", "rows", "sha256"} - head.keys():
            raise ValueError("its first line does not say what it is")
    except FileNotFoundError as error:
        raise UsageError(f"there are no reference results {path}: make them with `make reference`") from error
    except (OSError, EOFError, lzma.LZMAError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    return head, body


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Inside the block nothing is garbage: looking for it while rows pile up takes a third of the time.

    What is there at the end counts as old, so that the next look for young garbage does not go through all rows.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # what others froze stays so
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()


def _checked(row: Row) -> Row:
    if not isinstance(row, dict):
        raise ValueError("it is no mapping")
    if wrong := misfit(row):
        raise ValueError(f"its {wrong} is none")
    scores_in(row)
    return row


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is damaged ({why}): install bayesprune anew, or make the file with `make reference`")


def _is_newer(head: Mapping[str, Any]) -> bool:
    schema = head["schema"]
    return (isinstance(schema, int) and schema > SCHEMA) or _numbers(str(head["bayesprune"])) > _numbers(__version__)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split("."))


def _refuse_twins(path: Path, rows: Iterable[Row]) -> None:
    """Two rows may not look alike: a table could not tell which is meant."""
    seen = set[tuple]()
    for row in rows:
        face = tuple(row.get(n) for n in FACE)
        if face in seen:
            raise UsageError(
                f"{path} holds two rows of {row['method']} on {row['dataset']}, {row['architecture']}, seed "
                f"{row['seed']}, in matrix {row['matrix']}: one is of another revision, or two methods share a name"
            )
        seen.add(face)
