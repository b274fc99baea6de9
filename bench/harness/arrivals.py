"""Records as they appear in the folder: counted for whoever watches, and awaited where a worker has announced them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from ..results import visibility
from ..results.store import Store


class Arrivals:
    """The records that a run is to bring.

    Attributes:
        missing: keys of those that have not appeared yet.
        told: called with the keys of new ones.
        check: raises when the folder is lost to the run.
    """

    def __init__(
        self,
        store: Store,
        keys: Iterable[str],
        told: Callable[[Collection[str]], None],
        check: Callable[[], None] = lambda: None,
    ):
        self.store, self.told, self.check = store, told, check
        self._before = self._modified()
        self.missing = set(keys)
        self._awaited: dict[str, tuple[str, float]] = {}

    def update(self) -> None:
        """Tell which records stand in the folder that did not at the last call; listing it asks the server anew."""
        self.check()
        now = self._modified()
        new = {key for key in self.missing if now.get(key) != self._before.get(key)}
        self.missing -= new
        if new:
            self.told(sorted(new))
        for key in [key for key, (checksum, _) in self._awaited.items() if self._is_there(key, checksum)]:
            del self._awaited[key]

    def announce(self, checksums: Mapping[str, str]) -> None:
        """A worker has written these records, and they are to be seen here before long."""
        deadline = time.monotonic() + visibility.VISIBLE_SECONDS
        self._awaited |= {k: (c, deadline) for k, c in checksums.items() if not self._is_there(k, c)}

    def lost(self) -> list[str]:
        """Keys of records that were announced and have not been seen in time; they are awaited no longer."""
        now = time.monotonic()
        late = [key for key, (_, deadline) in self._awaited.items() if deadline <= now]
        for key in late:
            del self._awaited[key]
        return late

    def are_awaited(self) -> bool:
        """Whether some record has been announced and is not there."""
        return bool(self._awaited)

    def _is_there(self, key: str, checksum: str) -> bool:
        return self.store.record_checksum(key) == checksum

    def _modified(self) -> dict[str, int]:
        """When each record was written."""
        found = {}
        try:
            with os.scandir(self.store.folder / "cells") as entries:
                for entry in entries:
                    if entry.name.endswith(".json"):
                        found[entry.name.removesuffix(".json")] = entry.stat().st_mtime_ns
        except FileNotFoundError:  # a record, or the folder, which `check` will tell
            pass
        return found
