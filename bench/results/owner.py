"""A run as others hear of it, and whether its process lives, where this machine can see that."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Owner:
    """A run, as its lease tells others of it.

    Attributes:
        matrix: digest of the matrix; parts of equal matrices may share a folder.
        part: (i, n), the i-th of n parts.
        host, process, started: where and since when it runs.
        token: what no other run has.
        machine: what tells where the number of the process means something: kernel, since it booted, and container.
        birth: when the process began, as its kernel counts; numbers are given again.
    """

    matrix: str
    part: tuple[int, int]
    host: str
    process: int
    started: str
    token: str
    machine: str = ""
    birth: str = ""

    def tolerates(self, other: Owner) -> bool:
        """Whether both can run at once: other parts of the same division of the same matrix."""
        return (self.matrix, self.part[1]) == (other.matrix, other.part[1]) and self.part != other.part

    def is_process(self) -> bool | None:
        """Whether its process lives; None where this machine cannot know."""
        if not self.machine or self.machine != this_machine():
            return None
        if self.birth:
            return birth_of(self.process) == self.birth
        return None if _is_number_taken(self.process) else False

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.started}"


def this_run(matrix: str, part: tuple[int, int]) -> Owner:
    """The present process as an owner."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    token, process = secrets.token_hex(8), os.getpid()
    return Owner(matrix, part, socket.gethostname(), process, started, token, this_machine(), birth_of(process) or "")


def owner_in(content: bytes) -> Owner | None:
    """Whom the content of a lease names; None if it is not readable."""
    try:
        said = json.loads(content)
        known = {f.name: said.get(f.name, f.default) for f in fields(Owner)}
    except (ValueError, RecursionError, AttributeError):
        return None
    return _owner(known)


def _owner(known: Mapping[str, Any]) -> Owner | None:
    kinds: dict[str, type] = {"part": list, "process": int}
    if MISSING in known.values() or any(not isinstance(v, kinds.get(n, str)) for n, v in known.items()):
        return None
    return Owner(**{**known, "part": tuple(known["part"])})


@cache
def this_machine() -> str:
    """Where the numbers of processes mean what they mean here; empty where the system does not say."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return f"{socket.gethostname()} {os.name}" if os.name == "posix" else ""


def birth_of(process: int) -> str | None:
    """When a process began; None if it has ended, or the system does not say."""
    try:
        state, *rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else rest[18]


def _is_number_taken(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
