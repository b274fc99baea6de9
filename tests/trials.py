"""Tasks for a child process, which imports them by name: one that crashes, one that hangs, one that is greedy."""

import os
import signal
import threading


def crash(_):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(_):
    threading.Event().wait()


def allocate(_, count):
    import torch

    try:
        return torch.empty(count, dtype=torch.uint8).numel()
    except RuntimeError as error:
        return str(error)
