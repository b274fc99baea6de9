"""Shared folders: what one machine has written, another may see late. Asking again, with growing pauses."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

VISIBLE_SECONDS = 60.0  # what is not seen by then is computed again; NFS may keep what it knows of a folder that long
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0


def seen(look: Callable[[], bool], folder: Path, patience: float | None = None) -> bool:
    """Whether `look` comes true in time; between two looks the folder is listed, which asks the server again."""
    deadline = time.monotonic() + (VISIBLE_SECONDS if patience is None else patience)
    pause = FIRST_PAUSE
    while not look():
        if (left := deadline - time.monotonic()) <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)
        with contextlib.suppress(OSError):
            os.listdir(folder)
    return True
