"""Folding: what removed units still emit becomes part of the biases of the layers that read them.

A mask zeroes the parameters that a group lists as slices; what a group lists as buffers leaves the network
without ever being masked. Where the columns that read a unit are slices, nothing is left of it. Where only
what writes the unit is zeroed, the reader still receives f(0): an activation with f(0) != 0, a BatchNorm
without affine part, a bias outside the group. If that is a constant c, then W x + b = W' x' + (W_r c + b),
with W_r the columns that leave and W', x' what stays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ...datasets.errors import UsageError
from ...datasets.trees import Inputs, examples
from ..layers.axes import channel_axis, input_axis, is_reader, output_axis
from ..running.call import called
from ..running.plain import copied
from ..units.mask import Mask

# A constant sum is computed in different orders at different places: rounding errors by which they may differ.
ROUNDING = 16

Positions = Mapping[tuple[str, int], Tensor]


@torch.no_grad()
def constants(network: nn.Module, mask: Mask, stays: Positions, example: Inputs) -> dict[str, Tensor]:
    """What each reader's outputs receive from units that leave, by the reader's name.

    The masked network is run on `example` in evaluation mode. Readers are linear layers and ungrouped
    convolutions; those to which the leaving units contribute nothing are left out.

    Args:
        network: The network, masked or not yet.
        mask: The units that stay.
        stays: Positions that stay, boolean, for every (tensor, axis) that loses some.
        example: A batch of inputs.

    Returns:
        What to add to the bias: one vector per reader, over its outputs that stay, float64.

    Raises:
        UsageError: a contribution that is no constant, naming the layer and why, or fewer than two examples.
    """
    masked = copied(network).eval()
    mask.apply_(masked)
    found = _probes(masked, stays).items()
    probes = {
        name: probe for name, probe in found if bool(probe.get_parameter("weight").any()) and name not in settled(mask)
    }
    if probes and examples(example) < 2:
        raise UsageError("folding needs at least two examples: of one alone, everything looks constant")
    received: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in probes}
    for name, probe in probes.items():
        masked.get_submodule(name).register_forward_pre_hook(partial(_measure, probe, received[name]))
    if probes:
        called(masked, example)
    found = {
        name: _constant(name, probe, stays.get((f"{name}.weight", output_axis(probe))), received[name])
        for name, probe in probes.items()
    }
    return {name: shift for name, shift in found.items() if bool(shift.any())}


def settled(mask: Mask) -> list[str]:
    """Layers that are settled on the weights that they compute, as units that they read leave; these send zeros."""
    parts = zip(mask.units.groups, mask.units.split(mask.kept), strict=True)
    return list(dict.fromkeys(path for group, kept in parts if not bool(kept.all()) for path in group.settles))


def add_to_bias(reader: nn.Module, shift: Tensor) -> None:
    """Add `shift` to the bias of a linear or convolution layer, which gets one if it has none."""
    weight = reader.get_parameter("weight")
    shift = shift.to(weight)
    if reader.bias is None:
        reader.bias = nn.Parameter(shift, requires_grad=weight.requires_grad)
    else:
        reader.get_parameter("bias").data += shift


def _probes(masked: nn.Module, stays: Positions) -> dict[str, nn.Module]:
    """Copies of the readers in which only the columns that leave have weights."""
    found = {}
    for name, module in masked.named_modules():
        if is_reader(module) and getattr(module, "groups", 1) == 1:
            stay = stays.get((f"{name}.weight", input_axis(module)))
            if stay is not None:
                found[name] = _probe(module, stay)
    return found


def _probe(reader: nn.Module, stay: Tensor) -> nn.Module:
    probe = copy.deepcopy(reader)
    if probe.bias is not None:
        probe.get_parameter("bias").data.zero_()
    kept = stay.nonzero().flatten().to(probe.get_parameter("weight").device)
    probe.get_parameter("weight").data.index_fill_(input_axis(probe), kept, 0)
    return probe


def _measure(
    probe: nn.Module, received: list[tuple[Tensor, ...]], reader: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    axis = channel_axis(probe)
    received.append(tuple(each.movedim(axis, 0).flatten(1) for each in (inputs[0], probe(inputs[0]))))


def _constant(name: str, probe: nn.Module, stay: Tensor | None, calls: list[tuple[Tensor, ...]]) -> Tensor:
    """The contribution to each output that stays, shape (outputs,), from (inputs, contribution) of every call."""
    if not calls:
        raise UsageError(f"cannot compact: {name!r} reads removed units, but is not called on the example")
    inputs, outputs = (torch.cat(each, 1) for each in zip(*calls, strict=True))
    own = probe.get_parameter("weight").movedim(output_axis(probe), 0).flatten(1)
    if stay is not None:
        outputs = outputs[stay.to(outputs.device)]
    read = probe.get_parameter("weight").movedim(input_axis(probe), 0).flatten(1).any(1)
    unit = ROUNDING * torch.finfo(outputs.dtype).eps * inputs[read].abs().max()
    if not bool(_spread(outputs) <= unit * own.abs().sum(1).max()):
        raise UsageError(f"cannot compact: {_why(name, probe, bool(_spread(inputs[read]) <= unit))}")
    return outputs.double().mean(1)


def _spread(values: Tensor) -> Tensor:
    return (values.amax(1) - values.amin(1)).max()


def _why(name: str, probe: nn.Module, same: bool) -> str:
    kind = type(probe).__name__
    if same:
        return (
            f"removed units send a constant to {name!r}, but {kind} adds it to some positions and not to others "
            "(zero padding or gaps), so that no bias can stand for it"
        )
    return f"what removed units send to {name!r} ({kind}) is not the same for all examples and positions"
