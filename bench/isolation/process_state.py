"""State of Python, of its libraries and of the process: one line for each kind."""

from __future__ import annotations

import gc
import logging
import operator
import os
import random
import signal
import sys
import threading
import warnings
from itertools import repeat
from typing import Any

import numpy as np
import torch

from .aspect import Aspect, attributes

try:
    import resource
except ImportError:  # not on this system
    resource = None

_LIMITS = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE")
_SIGNALS = tuple(s for s in signal.Signals if s.name not in ("SIGKILL", "SIGSTOP"))
_TIMERS = tuple(getattr(signal, n) for n in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, n))
_LOGGERS = (logging.getLogger(), logging.getLogger("bayesprune"))


def _has_grown(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether every module of before is there, and the same; others may have joined, and plug-ins been loaded anew."""
    if all(map(operator.is_, map(now.get, before, repeat(before)), before.values())):
        return True
    return all(now.get(name, before) is value for name, value in _shipped(before).items())


def _shipped(modules: dict[str, Any]) -> dict[str, Any]:
    """All but plug-ins, which are loaded anew when they were edited."""
    return {name: module for name, module in modules.items() if not name.startswith("bayesprune_plugin_")}


def _restore_modules(before: dict[str, Any]) -> None:
    sys.modules.update(_shipped(before))


def _restore_path(before: list[str]) -> None:
    sys.path[:] = before


def _restore_filters(before: list[Any]) -> None:
    with_all: Any = warnings.filters
    with_all[:] = before
    getattr(warnings, "_filters_mutated", lambda: None)()


def _restore_collection(before: tuple) -> None:
    enabled, threshold = before
    (gc.enable if enabled else gc.disable)()
    gc.set_threshold(*threshold)


def _logging() -> tuple:
    return logging.root.manager.disable, *((each.level, each.disabled, list(each.handlers)) for each in _LOGGERS)


def _restore_logging(before: tuple) -> None:
    disable, *states = before
    logging.disable(disable)
    for logger, (level, disabled, handlers) in zip(_LOGGERS, states, strict=True):
        logger.setLevel(level)
        logger.disabled, logger.handlers = disabled, handlers


def _random_states() -> tuple:
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), random.getstate(), np.random.get_state(), gpu  # noqa: NPY002


def _restore_random_states(before: tuple) -> None:
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    np.random.set_state(before[2])  # noqa: NPY002
    if before[3]:
        torch.cuda.set_rng_state_all(before[3])


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody removed it
        return None


def _restore_environment(before: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(before)


def _handlers() -> dict[int, Any] | None:
    """Signal handlers, which only the main thread can set."""
    if threading.current_thread() is not threading.main_thread():
        return None
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _restore_handlers(before: dict[int, Any] | None) -> None:
    for number, handler in (before or {}).items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _running_timers() -> list[bool]:
    return [signal.getitimer(timer)[0] > 0 for timer in _TIMERS]


def _restore_timers(before: list[bool]) -> None:
    for timer, was_running in zip(_TIMERS, before, strict=True):
        if not was_running:
            signal.setitimer(timer, 0)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _limits() -> dict[str, tuple[int, int]]:
    known = [name for name in _LIMITS if hasattr(resource, name)]
    return {name: resource.getrlimit(getattr(resource, name)) for name in known}  # pyright: ignore


def _restore_limits(before: dict[str, tuple[int, int]]) -> None:
    for name, limits in before.items():
        if _limits()[name] != limits:
            resource.setrlimit(getattr(resource, name), limits)  # pyright: ignore[reportOptionalMemberAccess]


def _threads() -> set[int]:
    """Threads of Python that run; not those that are torch's own, or of a progress bar."""
    own = [t for t in threading.enumerate() if not isinstance(t, threading._DummyThread)]
    return {id(t) for t in own if type(t).__name__ != "TMonitor"}


PYTHON: tuple[Aspect, ...] = (
    Aspect("numpy's error state", np.geterr, lambda before: np.seterr(**before)),
    Aspect("the module search path", lambda: list(sys.path), _restore_path, imports=True),
    Aspect("loaded modules", lambda: sys.modules.copy(), _restore_modules, same=_has_grown),
    Aspect("warnings filters", lambda: list(warnings.filters), _restore_filters, imports=True),
    Aspect("standard streams", *attributes(sys, "stdout", "stderr", "stdin")),
    Aspect("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Aspect("a trace function", sys.gettrace, sys.settrace),
    Aspect("a profile function", sys.getprofile, sys.setprofile),
    Aspect("garbage collection", lambda: (gc.isenabled(), gc.get_threshold()), _restore_collection),
    Aspect("logging", _logging, _restore_logging, imports=True),
    Aspect("random states", _random_states, _restore_random_states, silent=True),
)
PROCESS: tuple[Aspect, ...] = (
    Aspect("the current folder", _folder, lambda before: before and os.chdir(before)),
    Aspect("environment variables", lambda: dict(os.environ), _restore_environment, imports=True),
    Aspect("signal handlers", _handlers, _restore_handlers, imports=True),
    Aspect("timers", _running_timers, _restore_timers),
    Aspect("the file mode mask", _umask, os.umask),
    Aspect("limits on resources", _limits, _restore_limits),
    Aspect("a thread that runs on", _threads, None, same=lambda before, now: now <= before),
)
