"""What a computation costs: seconds, passes through the network, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor


@dataclass
class Cost:
    """Seconds of wall time, examples sent forward or backward through the network, peak memory in bytes."""

    seconds: float = 0.0
    passes: int = 0
    peak_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Costs of consecutive phases: times and passes add up, the higher peak stands."""
        return Cost(self.seconds + other.seconds, self.passes + other.passes, max(self.peak_bytes, other.peak_bytes))

    def without(self, inner: Cost) -> Cost:
        """This cost less that of a phase inside it."""
        return Cost(self.seconds - inner.seconds, self.passes - inner.passes, max(self.peak_bytes, inner.peak_bytes))


_running: ContextVar[tuple[Cost, ...]] = ContextVar("running costs", default=())


def count_passes(examples: int) -> None:
    """Count passes that hooks on the network cannot see (those under `torch.func.vmap`)."""
    for cost in _running.get():
        cost.passes += examples


@cache
def warm_up(device: torch.device) -> None:
    """Take one optimiser step, once per process, so that no measurement pays for what torch loads lazily."""
    weight = torch.zeros(2, 2, device=device, requires_grad=True)
    nn.functional.linear(weight.detach(), weight).sum().backward()
    torch.optim.Adam([weight], fused=True).step()


@contextmanager
def measured(network: nn.Module, device: torch.device) -> Iterator[Cost]:
    """Measure the block; the yielded cost is complete when the block has ended. Blocks may be nested.

    A pass is one example going forward through `network` or a copy of it, or its gradient coming back.
    """
    warm_up(device)
    outer, cost = _running.get(), Cost()
    _note_peak(outer, device)
    token = _running.set((*outer, cost))
    hook = network.register_forward_hook(_counter(cost))
    _reset_peak(device)
    start = time.perf_counter()
    try:
        yield cost
    finally:
        _note_peak((*outer, cost), device)  # on an accelerator this also waits for the work to finish
        cost.seconds = time.perf_counter() - start
        hook.remove()
        _running.reset(token)


def _note_peak(costs: tuple[Cost, ...], device: torch.device) -> None:
    """Keep the peak so far for all that are being measured, as the next reset forgets it."""
    peak = _peak(device)
    for cost in costs:
        cost.peak_bytes = max(cost.peak_bytes, peak)


def _counter(cost: Cost) -> Callable[[nn.Module, tuple, Any], None]:
    def count(module: nn.Module, inputs: tuple, output: Any) -> None:
        if not isinstance(output, Tensor) or is_batchedtensor(output):
            return
        examples = len(output)
        cost.passes += examples
        if output.requires_grad:
            output.register_hook(backward_counter(examples))

    def backward_counter(examples: int) -> Callable[[Tensor], None]:
        def count_backward(gradient: Tensor) -> None:
            cost.passes += examples

        return count_backward

    return count


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark of resident memory
        except OSError:
            return


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    except (OSError, StopIteration):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
