"""Bundles: a network and all that is needed to load it again, in one safetensors file without pickle.

A compact network has other shapes than its class would build. The file holds its tensors, and in its
metadata a JSON plan: how to build the dense network, the shapes before and after, checksums, certificate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from ...datasets.atomic import write_atomically
from ...datasets.errors import UsageError, one_line
from ...datasets.files import content_of
from ..checks import random_inputs
from ..compaction.certificate import Certificate, certify
from ..running.plain import copied, plain
from .plan import Architecture, Plan, Stored, checked, digest_of, sizes_of, tensors_of
from .restore import check_fit, restored, slot

KEY = "bayesprune"


def save(
    path: str | Path,
    network: nn.Module,
    architecture: Mapping[str, Any] | None = None,
    certificate: Certificate | None = None,
    *,
    dense: nn.Module | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Plan:
    """Write `network`, compact or merely masked, so that `load` gives it back; `path` is replaced in one step.

    Args:
        path: The file.
        network: The network; it is left as it is.
        architecture: How to build the dense network: name, input_shape, outputs and options, as
            `architectures.build` takes them. Without it, whoever loads must bring the dense network.
        certificate: What `certify` gave for this network.
        dense: The dense network, for its shapes, where no architecture is given.
        notes: Anything that JSON can hold, to be remembered: method, sparsity, re-estimated norms.

    Returns:
        The plan that was written.

    Raises:
        UsageError: a network that does not fit its architecture or `dense`, naming the tensor; state that is
            not in tensors; notes that are not JSON; a file that cannot be written.
    """
    problem = f"cannot save {path}"
    reference = None if architecture is None else checked(Architecture, architecture)
    _check_state(network)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors_of(network).items()}
    origin = reference.build() if reference else dense
    shapes = {} if origin is None else {name: tuple(tensor.shape) for name, tensor in tensors_of(origin).items()}
    stored = {name: _stored(network, name, tensor, shapes.get(name)) for name, tensor in tensors.items()}
    plan = Plan(type(network).__name__, reference, stored, sizes_of(network), certificate, dict(notes or {}))
    try:
        content = safetensors.save(tensors, {KEY: plan.to_json()})
    except (TypeError, ValueError, SafetensorError) as error:
        raise UsageError(
            f"{problem}: options and notes must be plain JSON, tensors of plain types ({error})"
        ) from error
    if origin is not None:
        check_fit(f"{problem}: the dense network and this one do not fit", plan, origin)
    if reference is not None and origin is not None:
        _rehearse(problem, network, restored(origin, plan, tensors), reference)
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise UsageError(f"{problem}: {error}") from error
    return plan


def _rehearse(problem: str, network: nn.Module, again: nn.Module, reference: Architecture) -> None:
    """Raises UsageError if what would be loaded computes something else, such as with another activation."""
    x = random_inputs(reference.input_shape, 2)
    try:
        certify(copied(network).cpu(), again, x)
    except UsageError as error:
        raise UsageError(f"{problem}: {reference.name!r} with the same tensors is another network; {error}") from error


def load(path: str | Path, network: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """The network of a bundle, in evaluation mode, with bit-identical tensors.

    Args:
        path: The file.
        network: A dense network of the same architecture; its weights do not matter, and it is left as it
            is. Without it the network is built as the bundle says.
        trust: Whether the file may name code: a `module:function` of yours, which is then imported and called, or an
            architecture that a plug-in registered. Networks of this package, of timm and of torchvision need none.

    Raises:
        UsageError: a file that is damaged, newer or no bundle; one that names code, without trust, or describes more
            than its tensors can fill; and a network that does not fit, naming the file and the tensor.
    """
    plan, tensors = read(path)
    fresh = _built(Path(path), plan, tensors, trust) if network is None else plain(network).network
    check_fit(f"the bundle {path} is of another network", plan, fresh)
    try:
        return restored(fresh, plan, tensors)
    except Exception as error:
        raise UsageError(f"cannot load the bundle {path}: {one_line(error)}") from error


def read(path: str | Path) -> tuple[Plan, dict[str, Tensor]]:
    """The plan and the tensors of a bundle, all of them checked; raises UsageError naming the file."""
    try:
        content = content_of(Path(path))
        tensors = safetensors.load(content)
    except Exception as error:  # of hostile headers, safetensors raises what its parts raise
        raise UsageError(f"cannot read the bundle {path}: {one_line(error)}") from error
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    if KEY not in metadata:
        raise UsageError(f"{path} is not a bundle: it has no plan of {KEY}; load its tensors with safetensors")
    try:
        plan = Plan.from_json(metadata[KEY])
    except UsageError as error:
        raise UsageError(f"cannot read the bundle {path}: {error}") from error
    for name in sorted(plan.tensors.keys() ^ tensors.keys()):
        raise UsageError(f"the bundle {path} is damaged: tensor {name!r} is not both in its plan and in its data")
    for name, tensor in tensors.items():
        if digest_of(tensor) != plan.tensors[name].sha256:
            raise UsageError(f"the bundle {path} is damaged: tensor {name!r} does not agree with its checksum")
    # Copies of its own lie where the allocator aligns them; sums over unaligned memory round differently.
    return plan, {name: tensor.clone() for name, tensor in tensors.items()}


def _stored(network: nn.Module, name: str, tensor: Tensor, dense: tuple[int, ...] | None) -> Stored:
    owner, leaf = slot(network, name)
    parameter = owner._parameters.get(leaf)
    frozen = parameter is not None and not parameter.requires_grad
    return Stored(tuple(tensor.shape), dense, frozen, digest_of(tensor))


def _check_state(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise UsageError(f"cannot save {type(network).__name__}: {name!r} keeps state that is not in tensors")


def _built(path: Path, plan: Plan, tensors: Mapping[str, Tensor], trust: bool) -> nn.Module:
    if plan.architecture is None:
        raise UsageError(f"the bundle {path} does not say how to build its {plan.network}; give load the dense network")
    try:
        return plan.architecture.build() if trust else plan.architecture.build_within(tensors.values())
    except UsageError as error:
        raise UsageError(f"cannot load the bundle {path}: {error}") from error
    except Exception as error:  # sizes that no network has
        raise UsageError(f"cannot load the bundle {path}: {one_line(error)}") from error
