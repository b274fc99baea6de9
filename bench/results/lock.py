"""Who runs into a results folder: a lease for each run, which the death of its owner, even by SIGKILL, ends.

    results/lock/PART.json   who runs this part of the matrix, 1-of-1 for all of it; the owner touches it now and then

Nothing is needed but files that only one can create, so that it holds on every file system and across machines. Where
the owner's process can be seen, the operating system knows whether it lives. From another machine the owner counts as
dead when it has not touched its lease for `LEASE_SECONDS`, by the clock of the folder. Parts of one matrix may run at
once, as they have no cell in common; anything else is refused.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from ...datasets.errors import UsageError
from .owner import Owner, owner_in, this_run
from .store import MachineFault

HEARTBEAT_SECONDS = 15.0
LEASE_SECONDS = 120.0
POLL_SECONDS = 1.0
YIELD_SECONDS = 1.0  # of two that want the folder in the same moment, one waits this long for the other to step back

__all__ = ["InUse", "Lease", "Owner", "owned", "owners", "this_run", "token_of"]


class InUse(UsageError):
    """Another run owns the folder."""


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
    """The file that says who owns the folder, and the heart that touches it."""

    def __init__(self, path: Path, owner: Owner):
        self.path, self.owner = path, owner
        self._ended = threading.Event()
        self._file = path.open("rb")  # of a lease that took the place of this one, nothing is touched
        self._heart = threading.Thread(target=self._beat, name="bayesprune lease", daemon=True)
        self._heart.start()

    @property
    def sign(self) -> tuple[str, str]:
        """By which a worker can tell that it sees the same folder: name and token of the lease."""
        return self.path.name, self.owner.token

    def check(self) -> None:
        """Raise MachineFault if the lease has been lost: to the removal of the folder, or to another run."""
        if token_of(self.path) != self.owner.token:
            raise MachineFault(
                f"{self.path.parents[1]} has been removed or taken over by another run; finished cells are in it"
            )

    def end(self) -> None:
        """Give the folder free."""
        self._ended.set()
        self._heart.join()
        self._file.close()
        _withdraw(self.path, self.owner)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._file.fileno())


def owners(folder: Path) -> list[tuple[Path, Owner | None, bool]]:
    """The leases in a results folder: file, owner (None if it cannot be read), and whether the owner lives."""
    return [(path, _owner_of(path), _is_alive(path)) for path in sorted((folder / "lock").glob("*-of-*.json"))]


def token_of(path: Path) -> str | None:
    """The token in a lease; None if it is gone or not readable."""
    owner = _owner_of(path)
    return owner and owner.token


def _taken(locks: Path, owner: Owner) -> Lease:
    """Take the folder: say so in a lease, then look whether anybody else has.

    Whoever has found nobody after his lease was there is the owner: of two, one at least must see the other.
    """
    locks.mkdir(exist_ok=True)
    path = locks / f"{owner.part[0]}-of-{owner.part[1]}.json"
    _refuse(locks, _rivals(locks, owner))
    while not _created(path, owner):
        _refuse(locks, _rivals(locks, owner))  # or the lease is of a dead run, and on its way out
        time.sleep(YIELD_SECONDS / 20)
    try:
        deadline = time.monotonic() + YIELD_SECONDS
        while rivals := _rivals(locks, owner):
            if time.monotonic() > deadline or any(r is None or r.token < owner.token for r in rivals):
                _refuse(locks, rivals)
            time.sleep(YIELD_SECONDS / 20)
        return Lease(path, owner)
    except BaseException:
        _withdraw(path, owner)
        raise


def _refuse(locks: Path, rivals: list[Owner | None]) -> None:
    if rivals:
        who = rivals[0] or "another run"
        raise InUse(f"{locks.parent} is in use by {who}; wait for its end (--wait), or choose another --out")


def _rivals(locks: Path, owner: Owner) -> list[Owner | None]:
    """Living owners of the folder that cannot run beside this one; leases of the dead are removed on the way."""
    rivals = []
    for path in sorted(locks.glob("*-of-*.json")):
        found = _content(path)
        if found is None or (other := owner_in(found)) == owner:
            continue
        if not _is_alive(path):
            _bury(path, found, owner)
        elif other is None or not owner.tolerates(other):
            rivals.append(other)
    return rivals


def _bury(path: Path, found: bytes, owner: Owner) -> None:
    """Remove the lease of a dead run: by one of those that try at once, and never a lease that came after it."""
    claim = path.with_name(f".{path.name}.{sha256(found).hexdigest()[:16]}.claim")
    if not _created(claim, owner):
        if (other := _content(claim)) is not None and not _is_alive(claim) and len(claim.name) < 200:
            _bury(claim, other, owner)  # it died in the act
        return
    try:
        if _content(path) == found:
            path.unlink(missing_ok=True)
    finally:
        claim.unlink(missing_ok=True)


def _created(path: Path, owner: Owner) -> bool:
    """Create a lease, whole and in one step; False if there is one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(json.dumps(asdict(owner)).encode())
            file.flush()
            os.fsync(file.fileno())
        return _linked(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(temporary: Path, path: Path) -> bool:
    """Give a file a second name that nobody has; file systems without links have O_EXCL alone."""
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return temporary.stat().st_nlink == 2  # NFS may have done it, lost the answer, and tried again
    except OSError:
        try:
            with path.open("xb") as file:
                file.write(temporary.read_bytes())
            return True
        except FileExistsError:
            return False


def _withdraw(path: Path, owner: Owner) -> None:
    """Remove a lease of one's own; what is another's by now stays."""
    with suppress(OSError):
        if token_of(path) == owner.token:
            path.unlink()


def _is_alive(path: Path) -> bool:
    """Whether the owner of a lease lives."""
    try:
        content, touched = path.read_bytes(), path.stat().st_mtime
    except FileNotFoundError:
        return False
    owner = owner_in(content)
    lives = owner.is_process() if owner else None
    return _now(path.parent) - touched < LEASE_SECONDS if lives is None else lives


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
    content = _content(path)
    return None if content is None else owner_in(content)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
