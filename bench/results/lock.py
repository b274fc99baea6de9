"""Who runs into a results folder: a lease for each run, which the death of its owner, even by SIGKILL, ends.

    results/lock/PART.json   who runs this part of the matrix, 1-of-1 for all of it; the owner holds it open and locked,
                             and touches it now and then

On one machine the operating system knows whether the owner lives, as its lock on the file ends with it. From another
machine that shares the folder the owner counts as dead when it has not touched the file for `LEASE_SECONDS`, by the
clock of the folder. Parts of one matrix may run at once, as they have no cell in common; anything else is refused.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...datasets.errors import UsageError
from .store import MachineFault

try:
    import fcntl
except ImportError:  # not on this system: there leases alone say who lives
    fcntl = None

HEARTBEAT_SECONDS = 15.0
LEASE_SECONDS = 120.0
POLL_SECONDS = 1.0


class InUse(UsageError):
    """Another run owns the folder."""


@dataclass(frozen=True)
class Owner:
    """A run, as its lease tells others of it.

    Attributes:
        matrix: digest of the matrix; parts of equal matrices may share a folder.
        part: (i, n), the i-th of n parts.
        host, process, started: where and since when it runs.
        token: what no other run has.
    """

    matrix: str
    part: tuple[int, int]
    host: str
    process: int
    started: str
    token: str

    def tolerates(self, other: Owner) -> bool:
        """Whether both can run at once: other parts of the same division of the same matrix."""
        return (self.matrix, self.part[1]) == (other.matrix, other.part[1]) and self.part != other.part

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.started}"


def this_run(matrix: str, part: tuple[int, int]) -> Owner:
    """The present process as an owner."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return Owner(matrix, part, socket.gethostname(), os.getpid(), started, secrets.token_hex(8))


@contextmanager
def owned(folder: Path, owner: Owner, wait: bool = False, told: Callable[[str], object] = print) -> Iterator[Lease]:
    """Own a results folder for the block.

    Raises InUse if another run does, unless it is to `wait` for that one's end; MachineFault if the folder cannot be
    written.
    """
    lease = None
    while lease is None:
        try:
            lease = _taken(folder / "lock", owner)
        except InUse as error:
            if not wait:
                raise
            told(f"waiting: {error}")
            told = lambda _: None  # noqa: E731  (once is enough)
            time.sleep(POLL_SECONDS)
        except OSError as error:
            raise MachineFault(f"cannot lock the results folder {folder}: {error.strerror or error}") from error
    try:
        yield lease
    finally:
        lease.end()


class Lease:
    """The file that says who owns the folder, held open, locked and touched."""

    def __init__(self, path: Path, owner: Owner):
        self.path, self.owner = path, owner
        self._ended = threading.Event()
        self._file = _locked_file(path, owner)
        self._heart = threading.Thread(target=self._beat, name="bayesprune lease", daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Raise MachineFault if the lease has been lost: to the removal of the folder, or to another run."""
        if _owner_of(self.path) != self.owner:
            raise MachineFault(
                f"{self.path.parents[1]} has been removed or taken over by another run; finished cells are in it"
            )

    def end(self) -> None:
        """Give the folder free."""
        self._ended.set()
        self._heart.join()
        with suppress(OSError, MachineFault):
            self.check()
            self.path.unlink()
        self._file.close()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._file.fileno())


def owners(folder: Path) -> list[tuple[Path, Owner | None, bool]]:
    """The leases in a results folder: file, owner (None if it cannot be read), and whether the owner lives."""
    return [(path, _owner_of(path), _is_alive(path)) for path in sorted((folder / "lock").glob("*-of-*.json"))]


def _taken(locks: Path, owner: Owner) -> Lease:
    """Take the folder; of several that try at once, one after the other looks who is there."""
    locks.mkdir(exist_ok=True)
    with _turn(locks):
        for path, other, is_alive in owners(locks.parent):
            if is_alive and (other is None or not owner.tolerates(other)):
                who = other or "another run"
                raise InUse(f"{locks.parent} is in use by {who}; wait for its end (--wait), or choose another --out")
            if not is_alive:
                path.unlink(missing_ok=True)
        return Lease(locks / f"{owner.part[0]}-of-{owner.part[1]}.json", owner)


@contextmanager
def _turn(locks: Path) -> Iterator[None]:
    """One at a time: by a lock of the operating system, and on a shared folder by a file that only one can create."""
    with (locks / "turn").open("ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked_file(path: Path, owner: Owner) -> BinaryIO:
    """The lease, written in one step, open and locked: nobody sees it without its lock."""
    temporary = path.with_name(f".{path.name}.{owner.token}.tmp")
    file = temporary.open("w+b")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(json.dumps({**asdict(owner), "machine": _machine()}).encode())
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        file.close()
        temporary.unlink(missing_ok=True)
        raise
    return file


def _is_alive(path: Path) -> bool:
    """Whether the owner of a lease lives."""
    try:
        with path.open("rb") as file:
            told = _fields(file.read())
            if fcntl is not None and (told.get("machine") == _machine() or told.get("host") == socket.gethostname()):
                return _is_locked(file)
            return _now(path.parent) - os.fstat(file.fileno()).st_mtime < LEASE_SECONDS
    except FileNotFoundError:
        return False


def _is_locked(file: BinaryIO) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _now(folder: Path) -> float:
    """The time by the clock that stamps the folder's files, which is not that of every machine."""
    stamp = folder / f".clock.{secrets.token_hex(4)}.tmp"
    stamp.touch()
    try:
        return stamp.stat().st_mtime
    finally:
        stamp.unlink(missing_ok=True)


def _owner_of(path: Path) -> Owner | None:
    """Whom a lease names; None if it is gone or not readable."""
    try:
        told = _fields(path.read_bytes())
        own: dict[str, Any] = {name: told[name] for name in Owner.__dataclass_fields__}
        own["part"] = tuple(told["part"])
        return Owner(**own)
    except (OSError, KeyError, TypeError):
        return None


def _fields(content: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _machine() -> str:
    """What this machine is called since it was last started."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()
