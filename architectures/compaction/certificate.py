"""The certificate: a smaller network computes what the masked one computes, on real inputs, to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...datasets.errors import UsageError
from ...datasets.trees import Inputs, examples, rows, tensors_in
from ..running.call import called
from ..running.modes import evaluating, precision_of, to_network
from ..running.plain import copied
from .divergence import first_difference, first_non_finite

BATCH = 64
# Double precision leaves no excuse for a difference that single precision would hide.
DOUBLE = 1e-10


@dataclass(frozen=True)
class Certificate:
    """How far two networks are apart on real inputs.

    Attributes:
        difference: Largest absolute difference of two outputs, over max(1, `largest`).
        largest: Largest absolute output; a network whose outputs all but vanish proves little.
        examples: Number of inputs compared.
        tolerance: The difference up to which a certificate is given.
        dtype: The precision of the comparison.
    """

    difference: float
    largest: float
    examples: int
    tolerance: float
    dtype: str

    def __str__(self) -> str:
        size = f"{self.examples:,} example" + ("s" if self.examples != 1 else "")
        return (
            f"outputs of up to {self.largest:.2g} differ by at most {self.difference:.1e} on {size} "
            f"({self.dtype}; allowed {self.tolerance:g})"
        )


@torch.no_grad()
def certify(masked: nn.Module, small: nn.Module, x: Inputs, tolerance: float = 1e-5) -> Certificate:
    """Certify that `small` computes what `masked` computes, in evaluation mode, batch by batch.

    Networks in float64 are held to 1e-10 where `tolerance` is larger. Networks in half precision are
    compared as copies in float32, against the same tolerance: what is certified is that the same is
    computed, not that half precision rounds it alike. Both networks are as before afterwards.

    Args:
        masked: The network with its removed units masked.
        small: The network without them.
        x: Inputs, each of shape (N, ...), N > 0.
        tolerance: Largest difference, relative to max(1, largest absolute output).

    Raises:
        UsageError: outputs of other shapes, not finite, different from one call to the next, or too far
            apart, naming the first layer, in the order of execution, whose kept outputs differ; no inputs.
    """
    if not (total := examples(x)):
        raise UsageError("a certificate needs inputs; x is empty")
    masked, small = _single(masked), _single(small)
    dtype = precision_of(masked)
    allowed = min(tolerance, DOUBLE) if dtype == torch.float64 else tolerance
    apart, largest, worst = 0.0, 0.0, rows(x, slice(0, 1))
    with evaluating(masked, small), _full_precision():
        for start in range(0, total, BATCH):
            batch = rows(x, slice(start, start + BATCH))
            for one, two in _outputs(masked, small, batch):
                largest = max(largest, float(one.abs().max()))
                distances = (one - two).abs().reshape(len(one) if one.dim() else 1, -1).amax(1)
                if float(distances.max()) > apart:
                    place = int(distances.argmax()) if len(distances) == examples(batch) else 0
                    apart, worst = float(distances.max()), rows(batch, slice(place, place + 1))
        difference = apart / max(1.0, largest)
        if difference > allowed:
            raise UsageError(f"no certificate: {_reason(masked, small, worst, difference, allowed)}")
    return Certificate(difference, largest, total, allowed, str(dtype).removeprefix("torch."))


def _single(network: nn.Module) -> nn.Module:
    """The network, or its copy in float32 if any part of it has less precision."""
    half = precision_of(network) not in (torch.float32, torch.float64)
    return copied(network).float() if half else network


@contextmanager
def _full_precision() -> Iterator[None]:
    """Without TensorFloat-32: the rounding of its 10-bit mantissa would look like a difference."""
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution


def _outputs(masked: nn.Module, small: nn.Module, batch: Inputs) -> list[tuple[Tensor, Tensor]]:
    """Outputs of both networks, of one shape and finite: all tensors in what they return, in pairs."""
    ones, twos = (tensors_in(called(net, _fitted(batch, net))) for net in (masked, small))
    if not ones or len(ones) != len(twos):
        raise UsageError(f"no certificate: the masked network returns {len(ones)} tensors, the compact one {len(twos)}")
    for one, two in zip(ones, twos, strict=True):
        if one.shape != two.shape:
            shapes = f"{tuple(two.shape)}, those of the masked one {tuple(one.shape)}"
            raise UsageError(f"no certificate: outputs of the compact network have shape {shapes}")
        for name, network, outputs in (("masked", masked, one), ("compact", small, two)):
            if not bool(outputs.isfinite().all()):
                where = _called(first_non_finite(network, _fitted(batch, network)))
                raise UsageError(f"no certificate: the {name} network's outputs are not finite, first in {where}")
    return list(zip(ones, twos, strict=True))


def _fitted(inputs: Inputs, network: nn.Module) -> Inputs:
    """Inputs of the type and on the device of the network."""
    return pytree.tree_map_only(Tensor, lambda tensor: to_network(tensor, network), inputs)


def _reason(masked: nn.Module, small: nn.Module, x: Inputs, apart: float, allowed: float) -> str:
    """Why the outputs differ, looked for on the one example on which they differ most."""
    for name, network in (("masked", masked), ("compact", small)):
        inputs = _fitted(x, network)
        if found := first_difference(network, network, inputs, allowed):
            return (
                f"the {name} network computes something else on each call in evaluation mode, first in "
                f"{_called(found[0])}; is dropout active?"
            )
    found = first_difference(masked, small, _fitted(x, masked), allowed)
    first = f", first in {_called(found[0])} (by {found[1]:.1e})" if found else ""
    return f"the outputs of both networks differ by {apart:.1e}, more than {allowed:g}{first}"


def _called(layer: str | None) -> str:
    return repr(layer) if layer else "the network's own outputs"
