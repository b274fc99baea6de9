"""What structured pruning saves for real: the compact network, its certificate, size, operations and latency."""

from __future__ import annotations

from typing import Any

from safetensors.torch import save
from torch import nn

from ...architectures.compaction.certificate import Certificate, certify
from ...architectures.compaction.compact import compact
from ...architectures.units.mask import Mask
from ...datasets.trees import Inputs, rows
from .flops import flops
from .latency import Speedup, speedups

# Inputs on which the compact network must agree with the masked one.
CERTIFIED = 256
SECONDS = 0.15  # of timing for each batch size


def deployed(dense: nn.Module, masked: nn.Module, mask: Mask, x: Inputs) -> dict[str, Any]:
    """Cut the removed units out of `masked`, and measure what that gives on inputs `x`.

    Returns columns of a record: parameters masked and removed, operations and bytes of the compact network, the
    certificate, and latencies at several batch sizes as multiples of the dense network's.
    Raises UsageError, with the layer's name, if the compact network does not compute what the masked one does.
    """
    small, certificate = compacted(masked, mask, x)
    found = speedups(dense, {"masked": masked, "compact": small}, x, seconds=SECONDS)
    return {
        "parameters": count(masked),
        "parameters_masked": sum(int((~kept).sum()) for kept in mask.tensors.values()),
        "parameters_removed": count(masked) - count(small),
        "flops_compact": flops(small, x)["flops_dense"],
        "bytes_dense": _bytes(masked),
        "bytes_compact": _bytes(small),
        "certificate": certificate.difference,
        **_columns("masked", found["masked"]),
        **_columns("compact", found["compact"]),
        "latency": {name: [s.record() for s in speedup] for name, speedup in found.items()},
    }


def compacted(masked: nn.Module, mask: Mask, x: Inputs) -> tuple[nn.Module, Certificate]:
    """The network without its removed units, and the certificate over the first inputs of `x`; raises UsageError."""
    some = rows(x, slice(CERTIFIED))
    small = compact(masked, mask, some)
    return small, certify(masked, small, some)


def count(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


def _columns(name: str, found: list[Speedup]) -> dict[str, float]:
    """The speed-up at the largest batch, with its interval."""
    last = found[-1]
    return {f"speedup_{name}": last.ratio, f"speedup_{name}_low": last.low, f"speedup_{name}_high": last.high}


def _bytes(network: nn.Module) -> int:
    """Size of the network as a safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    return len(save(tensors))
