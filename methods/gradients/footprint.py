"""How much memory a batch of curvature takes, from what the forward pass of one example leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ...datasets.trees import Inputs, tensors_in

# Tensors of the size of the largest saved one that a backward pass holds beside the saved ones:
# gradients on their way, and what convolutions reorder.
IN_FLIGHT = 3
# Memory that a process takes for every byte of tensors: allocators leave gaps.
GAPS = 1.25
# Most examples in a forward pass; fewer, but not fewer than FEW, if they would fill the working set:
# beyond it, batches cost time instead of saving it.
BATCH = 256
FEW = 8
WORKING_SET = 1 << 28


class SavedBytes:
    """Sizes of the storages that autograd keeps between a forward and a backward pass, other than those given."""

    def __init__(self, given: Iterable[Tensor]):
        self._given = {_place(t) for t in given}
        self._kept: dict[int, Tensor] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Note what is saved in the block."""
        with saved_tensors_hooks(self._note, lambda kept: kept):
            yield

    def _note(self, tensor: Tensor) -> Tensor:
        if _place(tensor) not in self._given:
            self._kept[_place(tensor)] = tensor.detach()
        return tensor.detach()  # what belongs to the graph, and is held by it, is never let go

    def sizes(self) -> list[int]:
        """In bytes."""
        return [t.untyped_storage().nbytes() for t in self._kept.values()]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@dataclass(frozen=True)
class Footprint:
    """Bytes that are there from the beginning, and those of every further example in a batch."""

    fixed: int
    each: int

    def of(self, examples: int) -> int:
        """Of a batch."""
        return self.fixed + examples * self.each

    def batch(self, memory: int, most: int = BATCH) -> int:
        """Examples in a batch that takes at most this many bytes, but at least one."""
        fitting = (memory - self.fixed) // max(self.each, 1)
        quick = max(FEW, WORKING_SET // max(self.each, 1))
        return max(1, min(fitting, quick, most))


def per_example(saved: SavedBytes, x: Inputs, outputs: Tensor, vectors: int) -> int:
    """Bytes of one example x (1, ...) whose forward pass was recorded, with outputs (1, C) and vectors (1, K, C)."""
    sizes = saved.sizes()
    given = max((tensor.nbytes for tensor in tensors_in(x)), default=0)
    return int(GAPS * (sum(sizes) + IN_FLIGHT * max(*sizes, given, 0) + 5 * (vectors + 1) * outputs.nbytes))
