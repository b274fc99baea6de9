"""Data sets on disk: where they lie, and reading an npz file without ever unpickling."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import UsageError, one_line

FOUR = ("x_train", "y_train", "x_test", "y_test")
PAIR = ("x", "y")


def data_root() -> Path:
    """`$BAYESPRUNE_DATA`, else `bayesprune/data` in the user's cache folder; it need not exist."""
    if given := os.environ.get("BAYESPRUNE_DATA"):
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "bayesprune" / "data"


def read_npz(name: str, path: Path, *alternatives: Sequence[str]) -> list[np.ndarray]:
    """The arrays of the first of `alternatives`, tuples of keys, that the file holds completely.

    Raises UsageError that names data set `name` and the file if it cannot be read, holds pickled
    objects, or lacks a key.
    """
    try:
        with path.open("rb") as file:  # numpy leaves a file that is no archive open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one bare array")
            for keys in alternatives:
                if set(keys) <= set(archive.files):
                    return [archive[key] for key in keys]
            held = ", ".join(archive.files) or "nothing"
    except FileNotFoundError:
        raise UsageError(f"data set {name!r}: there is no file {path}") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        reason = "it holds pickled objects" if "pickle" in str(error).lower() else one_line(error)
        raise UsageError(f"data set {name!r}: {path} is not an npz file of plain arrays: {reason}") from error
    wanted = " or ".join(", ".join(keys) for keys in alternatives)
    raise UsageError(f"data set {name!r}: {path} must hold the arrays {wanted}; it holds {held}")


def content_of(path: Path) -> bytes:
    """The bytes of a file; raises OSError, also for a folder, a pipe or a device, which may never end."""
    if path.exists() and not path.is_file():
        raise OSError("it is not a file")
    return path.read_bytes()
