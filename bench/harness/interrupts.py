"""Ctrl-C of the user, told apart from a KeyboardInterrupt that some method raises."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_seen: list[int] = []


def interrupted() -> bool:
    """Whether the user, or the system, has asked the run to end."""
    return bool(_seen)


@contextmanager
def watching_for_interrupts() -> Iterator[None]:
    """Inside the block, remember that a signal asked to end, and go on as it was to be answered before.

    Signals reach the main thread only; of a run in another thread nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _NUMBERS}

    def answer(number: int, frame: FrameType | None) -> None:
        _seen.append(number)
        if callable(handler := before[signal.Signals(number)]):
            handler(number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, answer)
    try:
        yield
    finally:
        _seen.clear()
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
