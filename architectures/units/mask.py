"""Masks: which units are kept, exact counts, and zeros that stay zero during training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from ...datasets.atomic import write_atomically
from ...datasets.errors import UsageError
from .vector import Units


@dataclass(frozen=True, eq=False)
class Mask:
    """The units of a network that are kept: `kept` is boolean, shape (units.n,)."""

    units: Units
    kept: Tensor

    def __post_init__(self):
        if self.kept.shape != (self.units.n,) or self.kept.dtype != torch.bool:
            raise UsageError(
                f"a mask over {self.units.n} units needs a boolean vector of that length, "
                f"got {self.kept.dtype} of shape {tuple(self.kept.shape)}"
            )

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Boolean mask per parameter, true where an entry stays."""
        return self.units.scatter(self.kept)

    @functools.cached_property
    def count(self) -> int:
        """Number of units kept."""
        return int(self.kept.sum())

    @property
    def density(self) -> float:
        """Share of the units that is kept."""
        return self.count / self.units.n

    @property
    def sparsity(self) -> float:
        """Share of the units that is removed."""
        return (self.units.n - self.count) / self.units.n

    def layer_density(self) -> dict[str, float]:
        """Share of kept units in each group, by the group's name."""
        return {name: count / size for name, count, size in self._layers()}

    def collapsed(self) -> list[str]:
        """Names of the groups that lost every unit."""
        return [name for name, count, _ in self._layers() if not count]

    def _layers(self) -> list[tuple[str, int, int]]:
        counts = [int(part.sum()) for part in self.units.split(self.kept)]
        return list(zip(self.units.layer_names, counts, self.units.layer_sizes, strict=True))

    @torch.no_grad()
    def apply_(self, network: nn.Module) -> None:
        """Zero, in place, the parameters of the units that left; buffers are not touched."""
        for name, mask in self.tensors.items():
            parameter = network.get_parameter(name)
            parameter.masked_fill_(~mask.to(parameter.device), 0)

    def enforcer(self, network: nn.Module) -> Callable[[], None]:
        """A function to call after every optimiser step: it zeroes again what the step revived.

        Parameters and masks are bound now, so that a call is one fused multiplication. A weight that has
        become NaN or infinite stays NaN, so that a diverged training is still seen as one.
        """
        bound = [(network.get_parameter(n), m) for n, m in self.tensors.items() if not bool(m.all())]
        parameters: list[Tensor] = [parameter for parameter, _ in bound]
        masks = [mask.to(parameter.device, parameter.dtype) for parameter, mask in bound]

        @torch.no_grad()
        def enforce() -> None:
            if parameters:
                torch._foreach_mul_(parameters, masks)  # pyright: ignore[reportPrivateImportUsage]

        return enforce

    def save(self, path: str | Path) -> None:
        """Write the mask as safetensors, one boolean tensor per group; `path` is replaced in one step."""
        parts = zip(self.units.layer_names, self.units.split(self.kept.cpu()), strict=True)
        write_atomically(Path(path), safetensors.save({name: part.clone() for name, part in parts}))

    @classmethod
    def load(cls, path: str | Path, units: Units) -> Mask:
        """Read a mask of `units`; raises UsageError for a damaged file or one of another network."""
        try:
            parts = safetensors.load(Path(path).read_bytes())
        except (OSError, SafetensorError) as error:
            raise UsageError(f"cannot read the mask {path}: {error}") from error
        found = {name: part.numel() for name, part in parts.items()}
        expected = dict(zip(units.layer_names, units.layer_sizes, strict=True))
        if found != expected:
            name = sorted(name for name, _ in found.items() ^ expected.items())[0]
            raise UsageError(
                f"the mask {path} is of another network: {name!r} has {found.get(name, 0)} units there "
                f"and {expected.get(name, 0)} here"
            )
        return cls(units, torch.cat([parts[name] for name in units.layer_names]))
