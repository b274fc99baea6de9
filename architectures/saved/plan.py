"""The plan of a bundle: what its tensors are, which network they fit, and how to know that nothing changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from ... import __version__
from ...datasets.errors import UsageError
from ..build import build, is_own
from ..compaction.certificate import Certificate
from ..running.bounded import bounded, check_numbers, most_elements

FORMAT = 1
Number = bool | int
Size = Number | tuple[Number, ...]
# What every module has; its mode is chosen anew at each load.
_COMMON = frozenset(vars(nn.Module()))


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How to build the dense network: a registered name, the shape of one input, outputs, and options."""

    name: str
    input_shape: tuple[int, ...]
    outputs: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def build(self) -> nn.Module:
        """The dense network with weights of no meaning; nothing is downloaded for it."""
        options = {name: value for name, value in self.options.items() if name != "pretrained"}
        return build(self.name, self.input_shape, self.outputs, seed=0, **options)

    def build_within(self, tensors: Iterable[Tensor]) -> nn.Module:
        """The dense network, if the package itself offers it, and if a file with these tensors can describe it.

        Raises UsageError, without a file's name, for an architecture that is code of somebody else, and for sizes
        that the tensors cannot fill.
        """
        if not is_own(self.name):
            raise UsageError(
                f"it names code, {self.name!r}, to be imported and run; if you know whose it is, say trust=True, or "
                "give load the dense network"
            )
        sizes = [tensor.numel() for tensor in tensors]
        check_numbers(dataclasses.asdict(self), most_elements(sum(sizes)))
        with bounded(len(sizes), sum(sizes)):
            return self.build()


@dataclasses.dataclass(frozen=True)
class Stored:
    """One tensor: its own shape, that in the dense network (None: unknown, or not there), and its digest."""

    shape: tuple[int, ...]
    dense: tuple[int, ...] | None
    frozen: bool
    sha256: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a bundle says of itself.

    Attributes:
        network: Name of the network's class.
        architecture: How to rebuild the dense network, if that is known.
        tensors: All parameters and buffers, by name.
        sizes: Whole numbers that modules keep as attributes, such as numbers of heads, by path and name.
        certificate: Of the compact network, if there is one.
        notes: Whatever the writer wanted to be remembered.
        format: Version of this layout.
        package: Version of the package that wrote it.
    """

    network: str
    architecture: Architecture | None
    tensors: dict[str, Stored]
    sizes: dict[str, dict[str, Size]]
    certificate: Certificate | None
    notes: dict[str, Any]
    format: int = FORMAT
    package: str = __version__

    def to_json(self) -> str:
        """As JSON, with a checksum over all of it."""
        fields = json.loads(_canonical(dataclasses.asdict(self)))
        return _canonical(fields | {"sha256": _digest(fields)})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan; raises UsageError, without a file's name, for one that is newer, changed or not readable."""
        try:
            fields = json.loads(text)
            checksum, version, digest = fields.pop("sha256"), int(fields["format"]), _digest(fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise UsageError("its plan cannot be read as JSON; the file is damaged") from error
        if version > FORMAT:
            raise UsageError(
                f"it has format {version}, this version of the package reads {FORMAT}; "
                f"upgrade to bayesprune {fields.get('package')} or newer"
            )
        if checksum != digest:
            raise UsageError("its plan does not agree with its checksum; the file is damaged")
        return checked(cls, fields)


def checked(kind: type, fields: Any) -> Any:
    """An instance of the dataclass `kind` from a mapping; raises UsageError naming the first wrong field."""
    try:
        return TypeAdapter(kind).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{kind.__name__.lower()}: {where}: {first['msg'].lower()}") from error
    except RecursionError as error:
        raise UsageError(f"{kind.__name__.lower()}: nested too deeply") from error


def sizes_of(network: nn.Module) -> dict[str, dict[str, Size]]:
    """The whole numbers, and tuples or lists of them, that modules keep as attributes, by path and name."""
    found = {
        path: {name: _size(value) for name, value in vars(module).items() if name not in _COMMON and _is_size(value)}
        for path, module in network.named_modules()
    }
    return {path: sizes for path, sizes in found.items() if sizes}


def _size(value: Any) -> Size:
    return tuple(value) if isinstance(value, list) else value


def _is_size(value: Any) -> bool:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return bool(values) and all(isinstance(each, int) for each in values)


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, those that modules share once."""
    return dict(network.named_parameters()) | dict(network.named_buffers())


def digest_of(tensor: Tensor) -> str:
    """SHA-256 of a tensor's type, shape and bytes."""
    head = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(head + content.tobytes()).hexdigest()


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(fields).encode()).hexdigest()
