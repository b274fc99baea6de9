"""Weights of a network that somebody else trained, from a file: read without executing anything that it says."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from ...datasets.errors import UsageError, one_line
from ...datasets.files import content_of, data_root

# Names under which checkpoints keep the tensors among other things.
INSIDE = ("state_dict", "model_state_dict", "model")


def load_weights_(network: nn.Module, path: str, digest: str | None = None) -> None:
    """Fill `network` with the tensors of a .safetensors, .npz or .pt file, in place.

    Tensors are matched by name; where the names are others' own, by their order, if that gives every tensor of the
    network one of its own shape. Paths are looked for here, then in the data folder.

    Raises UsageError for a file that is absent, unreadable, another than that of `digest`, or of another network.
    """
    content = _content(path)
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise UsageError(
            f"weights {path} are not those that were asked for, or have changed since the run began: put the file with "
            f"sha256 {digest} there, or start anew"
        )
    tensors = _read(path, content)
    own = {name: t for name, t in network.state_dict().items() if t.is_floating_point()}
    found = _matched(own, {name: t for name, t in tensors.items() if t.is_floating_point()}, path)
    bad = next((name for name, t in found.items() if not torch.isfinite(t).all()), None)
    if bad:
        raise UsageError(f"weights {path}: {bad!r} holds values that are not finite")
    network.load_state_dict(found, strict=False)


def digest_of(path: str) -> str:
    """SHA-256 of the file; raises UsageError if there is none."""
    return hashlib.sha256(_content(path)).hexdigest()


def _content(path: str) -> bytes:
    places = [Path(path).expanduser(), data_root() / path]
    place = next((p for p in places if p.exists()), None)
    if place is None:
        raise UsageError(f"there is no file of weights {path}, neither here nor in {data_root()}")
    try:
        return content_of(place)
    except OSError as error:
        raise UsageError(f"weights {path} cannot be read: {one_line(error)}") from error


def _read(path: str, content: bytes) -> dict[str, Tensor]:
    reader = READERS.get(Path(path).suffix)
    if reader is None:
        raise UsageError(f"weights {path} must be a file of the kind {', '.join(READERS)}")
    try:
        return reader(content)
    except Exception as error:  # of three libraries, each with its own kinds
        raise UsageError(f"weights {path} are damaged, or hold more than tensors: {one_line(error)}") from error


def _of_archive(content: bytes) -> dict[str, Tensor]:
    archive = np.load(io.BytesIO(content), allow_pickle=False)
    return {name: torch.from_numpy(np.array(archive[name])) for name in archive.files}


def _of_checkpoint(content: bytes) -> dict[str, Tensor]:
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    for name in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError("it holds no mapping of names to tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


READERS: dict[str, Callable[[bytes], dict[str, Tensor]]] = {
    ".safetensors": safetensors.load,
    ".npz": _of_archive,
    ".pt": _of_checkpoint,
    ".pth": _of_checkpoint,
}


def _matched(own: Mapping[str, Tensor], given: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    if own.keys() <= given.keys():
        given = {name: given[name] for name in own}
    elif len(own) != len(given):
        raise UsageError(f"weights {path} are of another network: {len(given)} tensors, and this one has {len(own)}")
    for (name, mine), (theirs, tensor) in zip(own.items(), given.items(), strict=True):
        if mine.shape != tensor.shape or not _alike(name, theirs):
            raise UsageError(
                f"weights {path} are of another network: {theirs!r} of shape {tuple(tensor.shape)} stands where this "
                f"one has {name!r} of shape {tuple(mine.shape)}"
            )
    return {name: tensor.to(mine.dtype) for (name, mine), tensor in zip(own.items(), given.values(), strict=True)}


def _alike(mine: str, theirs: str) -> bool:
    """Whether both are weights, or both biases, or the same statistic; a name without a dot says nothing."""
    return "." not in theirs or mine.rpartition(".")[2] == theirs.rpartition(".")[2]
