"""The units that a network has: declared by its class, or found by one forward pass of some inputs."""

from __future__ import annotations

from torch import nn

from ...datasets.errors import UsageError
from ...datasets.trees import Inputs
from ..declared.groups import declared_groups, declares, load_declarations
from ..declared.residual import declared
from ..units.prunable import prunable
from ..units.slices import Elementwise, Group
from ..units.vector import Granularity, Units
from . import traced, traced_residual
from .traced import Found

_KIND = {"head": "head", "ffn_hidden": "hidden"}


def units(network: nn.Module, granularity: Granularity, example: Inputs | None = None) -> Units:
    """The units of `network`: its single "weights", its "groups" (see `group_units`), those of one kind, or
    what is added to its residual streams (see `residual_outputs`).

    Raises UsageError for a network that has no such units.
    """
    if granularity == "weights":
        return weight_units(network)
    if granularity == "residual_out":
        return Units(residual_outputs(network, example))
    found = group_units(network, example)
    if granularity == "groups":
        return found
    if not (chosen := tuple(group for group in found.groups if group.kind == _KIND[granularity])):
        raise UsageError(
            f"{type(network).__name__} has no unit that is known to be of the kind {granularity!r}, as networks that "
            "declare their groups have; choose units: groups"
        )
    return Units(chosen)


def weight_units(network: nn.Module) -> Units:
    """Every prunable weight is a unit; raises UsageError if the network has none."""
    weights = prunable(network)
    if not weights:
        raise UsageError(
            f"nothing prunable in {type(network).__name__}: it has no linear, convolution, recurrent or "
            "attention layer with a trainable weight"
        )
    return Units(tuple(Group(n, "weight", (Elementwise(n, p.shape),)) for n, p in weights.items()))


def group_units(network: nn.Module, example: Inputs | None = None) -> Units:
    """Every neuron, filter, channel or head is a unit; raises UsageError where none can be removed.

    `example`, a batch of inputs each of shape (n, ...), is needed for networks that do not declare their groups.
    """
    found = groups_of(network, example)
    if not found:
        raise UsageError(f"{type(network).__name__} has no group of units that could be removed")
    return Units(found)


def groups_of(network: nn.Module, example: Inputs | None = None) -> tuple[Group, ...]:
    """The groups of units that can be removed from `network` without changing what stays.

    Those that the class of `network` declares; for any other class those that one forward pass of
    `example`, a batch of inputs of shape (n, ...), shows. The network is left as it is.

    Raises UsageError without an example if the class declares none, and if nothing can be removed.
    """
    declared = declared_groups(network)
    if declared or (example is None and declares(network)):
        return declared
    found = _traced_groups(network, example)
    if not found.groups:
        reasons = [f"{name}: {reason}" for name, reason in found.left_out.items()]
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise UsageError(
            f"{type(network).__name__} has no group of units that could be removed"
            f" ({'; '.join(reasons[:3])}{more}); its weights can still be pruned (units: weights)"
        )
    return found.groups


def left_out(network: nn.Module, example: Inputs | None = None) -> dict[str, str]:
    """What is no group of `network`, by name, and the reason.

    Of a network whose class declares its groups, what tracing finds beside them; empty if there is no example to trace.

    Raises UsageError without an example if the class declares none.
    """
    if not (declared := declared_groups(network)):
        return _traced_groups(network, example).left_out
    return {} if example is None else traced.left_beside(network, example, declared)


def _traced_groups(network: nn.Module, example: Inputs | None) -> Found:
    if example is None:
        raise UsageError(
            f"groups of {type(network).__name__} are not known; its weights can still be pruned (units: weights), "
            "or pass example=, a batch of its inputs, to have its groups traced"
        )
    return traced.find(network, example)


def residual_outputs(network: nn.Module, example: Inputs | None = None) -> tuple[Group, ...]:
    """The features that layers of `network` add to a residual stream, and inner channels behind a norm.

    Those that the class of `network` declares; for any other class those that one forward pass of `example`, a batch
    of inputs of shape (n, ...), shows. The network is left as it is.

    Raises UsageError without an example if the class declares none, and, with reasons, where nothing can leave.
    """
    load_declarations(network)
    found = tuple(group for group in declared(network) if group.size > 1)  # of a single unit nothing may leave
    return found or _traced_outputs(network, example)


def _traced_outputs(network: nn.Module, example: Inputs | None) -> tuple[Group, ...]:
    if example is None:
        raise UsageError(
            f"what {type(network).__name__} adds to residual streams is not known; pass example=, a batch of its "
            "inputs, to have it traced"
        )
    return traced_residual.find(network, example)
