"""The life of a worker process: it takes calls from a pipe and answers, until its parent has died or it is spoiled."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

import torch

from ...datasets.errors import one_line
from ..isolation.isolated import spoiled
from .calls import RemoteError
from .provenance import take

WATCH_SECONDS = 0.5


def serve(pipe: Connection, parent: int) -> None:
    """Answer calls; Ctrl-C is left to the parent, with whom this process ends, even by SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    pipe.send(("ready", b""))
    while not spoiled():
        try:
            seat, call = pipe.recv()
        except (EOFError, OSError):
            return
        take(seat)
        kind, value = _outcome(call)
        pipe.send(_packed(f"last {kind}" if spoiled() else kind, value))
    os._exit(0)  # whatever was left running


def _outcome(call: bytes) -> tuple[str, Any]:
    try:
        fn, args, kwargs = pickle.loads(call)  # noqa: S301  (from the parent)
        return "value", fn(*args, **kwargs)
    except BaseException as error:  # no way out of a method is a way out of its worker
        return "error", error


def _packed(kind: str, value: Any) -> tuple[str, bytes]:
    """The answer as bytes that the parent can read; errors of classes that it lacks are told in words."""
    try:
        content = pickle.dumps(value)
        pickle.loads(content)  # noqa: S301
        return kind, content
    except BaseException as problem:
        told = value if isinstance(value, BaseException) else problem
        return kind.replace("value", "error"), pickle.dumps(RemoteError(one_line(told)))


def _end_with(parent: int) -> None:
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(WATCH_SECONDS)
    os._exit(1)
