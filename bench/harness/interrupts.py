"""Ctrl-C of the user, told apart from a KeyboardInterrupt that some method raises."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_seen: list[int] = []


def interrupted() -> bool:
    """Whether the user, or the system, has asked the run to end."""
    return bool(_seen)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put back what answers the signals, whatever the block has put in its place."""
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """What would end the block half-way is heard when it is over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: handler for number in _NUMBERS if callable(handler := signal.getsignal(number))}
    heard: list[tuple[int, FrameType | None]] = []
    for number in before:
        signal.signal(number, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number, frame in heard[:1]:
            before[signal.Signals(number)](number, frame)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Threads and processes that start in the block never hear Ctrl-C, from their first moment on."""
    if not hasattr(signal, "pthread_sigmask"):  # not on this system
        yield
        return
    resource_tracker.ensure_running()  # which would unblock them when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
