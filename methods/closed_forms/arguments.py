"""Arguments of closed forms, checked."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ...datasets.errors import UsageError


def checked(name: str, value: Tensor | float, lowest: float, what: str) -> Tensor:
    """`value` as float64; raises UsageError, naming it and saying `what` it must be, if it is below or not finite."""
    tensor = torch.as_tensor(value, dtype=torch.float64)
    least, largest = map(float, tensor.detach().aminmax()) if tensor.numel() else (lowest, lowest)
    if not lowest <= least <= largest < math.inf:
        raise UsageError(f"{name} must be {what}, got values from {least:g} to {largest:g}")
    return tensor


_LIMITS = torch.finfo(torch.float64)
finite = partial(checked, lowest=_LIMITS.min, what="finite")
positive = partial(checked, lowest=_LIMITS.tiny, what="positive and finite")
non_negative = partial(checked, lowest=0.0, what="at least 0 and finite")
