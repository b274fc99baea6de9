"""Prior structures: how many precisions a network's prior has, and which parameters share one.

`scalar`: one. `layerwise`: one per tensor. `unitwise`: log δ[o, i, ...] = a[o] + b[i] for a weight, the
product of a precision per output and one per input unit, and one per entry of a vector. `parameterwise`:
one per parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

PriorStructure = Literal["scalar", "layerwise", "unitwise", "parameterwise"]


class LogPrecisions:
    """The free log precisions of a structure, float64, and their expansion to the parameters' shapes."""

    def __init__(self, structure: PriorStructure, shapes: Mapping[str, torch.Size], initial: float = 1.0,
                 device: torch.device | str = "cpu"):  # fmt: skip
        self.structure, self.shapes = structure, dict(shapes)
        start = torch.tensor(initial, dtype=torch.float64, device=device).log()
        self.free = {name: start.expand(shape).clone() for name, shape in self._free_shapes().items()}
        if structure == "unitwise":
            for name in self.free:
                if name.endswith(("/out", "/in")):
                    self.free[name] *= 0.5  # a + b = log of the initial precision

    def _free_shapes(self) -> dict[str, tuple[int, ...]]:
        if self.structure == "scalar":
            return {"all": ()}
        if self.structure == "layerwise":
            return dict.fromkeys(self.shapes, ())
        if self.structure == "parameterwise":
            return {name: tuple(shape) for name, shape in self.shapes.items()}
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in self.shapes.items():
            if len(shape) < 2:
                found[name] = tuple(shape)
            else:
                rest = (1,) * (len(shape) - 2)
                found[f"{name}/out"], found[f"{name}/in"] = (shape[0], 1, *rest), (1, shape[1], *rest)
        return found

    def expanded(self) -> dict[str, Tensor]:
        """Log precision of every parameter, by name, broadcast to its shape."""
        return {name: sum(self._parts(name)).expand(shape) for name, shape in self.shapes.items()}  # pyright: ignore

    def _parts(self, name: str) -> Iterable[Tensor]:
        if self.structure == "scalar":
            return (self.free["all"],)
        if self.structure == "unitwise" and len(self.shapes[name]) >= 2:
            return self.free[f"{name}/out"], self.free[f"{name}/in"]
        return (self.free[name],)

    def collected(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Per-parameter values, such as gradients, summed over the parameters that share a free precision."""
        if self.structure == "scalar":
            return {"all": torch.stack([v.sum() for v in values.values()]).sum()}
        sums = {}
        for name in self.free:
            tensor = values[name.removesuffix("/out").removesuffix("/in")]
            sums[name] = tensor.sum_to_size(self.free[name].shape)
        return sums
