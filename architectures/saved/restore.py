"""From a dense network and the plan of a bundle to the network that was saved."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ...datasets.errors import UsageError
from ..declared.groups import load_declarations
from ..layers.resize import resize
from ..layers.settled import become_settled_
from ..layers.sized import Calls, resized_
from ..layers.spread import become_spread_, can_spread
from .plan import Plan, Size, tensors_of


def restored(dense: nn.Module, plan: Plan, tensors: Mapping[str, Tensor]) -> nn.Module:
    """`dense` itself, in evaluation mode, with the tensors and sizes of the plan in place of its own.

    The plan must fit: see `check_fit`. Tensors stay on the devices where `dense` has them.
    """
    load_declarations(dense)
    for path in _settled(plan):
        become_settled_(dense.get_submodule(path))
    for name, value in tensors.items():
        if _is_spread(dense, name):
            owner, _ = slot(dense, name)
            become_spread_(owner, value.to(owner.get_parameter("weight").device))
    for name, value in tensors.items():
        _place(dense, name, value, plan.tensors[name].frozen)
    dense.zero_grad(set_to_none=True)
    for path, module in dense.named_modules():
        resize(module)
        _restore_sizes(module, plan.sizes.get(path, {}))
    return dense.eval()


def _restore_sizes(module: nn.Module, sizes: Mapping[str, Size]) -> None:
    """Whole numbers as they were saved, whatever `resize` knows of; none is added, and none changes its kind."""
    if (calls := sizes.get("sized_calls")) is not None:
        resized_(module, _whole(calls))
    for name, value in sizes.items():
        present = vars(module).get(name)
        if isinstance(present, (tuple, list)) and isinstance(value, tuple):
            setattr(module, name, type(present)(value))
        elif type(present) is type(value):
            setattr(module, name, value)


def _whole(calls: Size) -> Calls:
    """Sizes of calls as they were saved; raises UsageError for anything else."""
    if not isinstance(calls, tuple) or len(calls) % 3 or not all(type(each) is int for each in calls):
        raise UsageError(f"sizes of calls must be three whole numbers each, got {calls!r}")
    return calls


def check_fit(problem: str, plan: Plan, dense: nn.Module) -> None:
    """Raises UsageError, naming a tensor, unless the tensors of the plan can take the place of those of `dense`."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors_of(dense).items()}
    missing = [name for name in found if name not in plan.tensors]
    for name in [name for name in missing if name.rpartition(".")[0] not in _settled(plan)]:
        raise UsageError(f"{problem}: {type(dense).__name__} has a tensor {name!r} that the {plan.network} has not")
    for name, stored in plan.tensors.items():
        if name not in found:
            if not (_is_free(dense, name) or _is_spread(dense, name)):
                raise UsageError(f"{problem}: {type(dense).__name__} has no tensor {name!r}")
        elif stored.dense is not None and found[name] != stored.dense:
            raise UsageError(f"{problem}: {name!r} has shape {found[name]}, expected {stored.dense}")
        elif not _fits(stored.shape, found[name]):
            raise UsageError(f"{problem}: {name!r} of shape {stored.shape} cannot be cut out of {found[name]}")


def _settled(plan: Plan) -> set[str]:
    """Layers that keep the weights that they computed before."""
    return {path for path, sizes in plan.sizes.items() if "settled" in sizes}


def _fits(shape: tuple[int, ...], dense: tuple[int, ...]) -> bool:
    return len(shape) == len(dense) and all(a <= b for a, b in zip(shape, dense, strict=True))


def _is_free(network: nn.Module, name: str) -> bool:
    """Whether there is a place for the tensor, left empty, such as the bias of a layer built without one."""
    try:
        owner, leaf = slot(network, name)
    except AttributeError:
        return False
    return any(leaf in places and places[leaf] is None for places in (owner._parameters, owner._buffers))


def _is_spread(network: nn.Module, name: str) -> bool:
    """Whether the tensor says where a layer puts the outputs that it still computes (`spread`)."""
    try:
        owner, leaf = slot(network, name)
    except AttributeError:
        return False
    return leaf == "source" and can_spread(owner)


def _place(network: nn.Module, name: str, value: Tensor, frozen: bool) -> None:
    owner, leaf = slot(network, name)
    is_parameter = leaf in owner._parameters
    present = (owner._parameters if is_parameter else owner._buffers)[leaf]
    if present is not None:
        present.data = value.to(present.device)
        if is_parameter:
            present.requires_grad_(not frozen)
    elif is_parameter:
        owner.register_parameter(leaf, nn.Parameter(value, requires_grad=not frozen))
    else:
        owner.register_buffer(leaf, value)


def slot(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that a tensor belongs to, and the tensor's own name there; AttributeError if there is none."""
    path, _, leaf = name.rpartition(".")
    return network.get_submodule(path), leaf
