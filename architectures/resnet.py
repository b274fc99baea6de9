"""Residual networks in the CIFAR style (He et al., 2016, arXiv 1512.03385), with three kinds of norm.

Depth is 6n + 2: a stem convolution, three stages of n blocks of two 3x3 convolutions, and a linear layer.
The second and third stage halve the image and double the channels; their first block projects its input by
a 1x1 convolution. That projection separates the residual streams of the stages, so that the channels of
each stream are units of their own; a zero-padded shortcut would tie them together across stages.

Paper: he2016deep
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..datasets.errors import UsageError
from . import register
from .checks import image, positive
from .declared.groups import groups, parallel
from .declared.residual import declared, outputs
from .units.slices import Group

Norm = Literal["batch", "group", "fixup"]
CHANNELS_PER_GROUP = 4
STAGES = 3


class Block(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))), with a projection of x where the shape changes."""

    def __init__(self, inputs: int, channels: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = _conv3(inputs, channels, stride)
        self.norm1 = norm(channels)
        self.conv2 = _conv3(channels, channels)
        self.norm2 = norm(channels)
        self.project = _projection(inputs, channels, stride)
        self.norm3 = norm(channels) if isinstance(self.project, nn.Conv2d) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Next value of the residual stream, shape (N, channels, height / stride, width / stride)."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm3(self.project(x)) + self.norm2(self.conv2(inner)))


class FixupBlock(nn.Module):
    """A block without normalisation: scalar biases, one scalar multiplier and a scaled initialisation.

    Zhang et al., 2019, Fixup initialization, arXiv 1901.09321. `blocks` is L, the number of residual
    branches of the network: with m = 2 layers per branch the first convolution is initialised as He et al.
    times L^(-1/(2m-2)) = L^(-1/2), the last one at zero.
    """

    def __init__(self, inputs: int, channels: int, stride: int, blocks: int):
        super().__init__()
        self.bias1, self.bias2, self.bias3, self.bias4 = (nn.Parameter(torch.zeros(1)) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(1))
        self.conv1 = _conv3(inputs, channels, stride)
        self.conv2 = _conv3(channels, channels)
        self.project = _projection(inputs, channels, stride)
        with torch.no_grad():
            self.conv1.weight.mul_(blocks**-0.5)
            self.conv2.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Next value of the residual stream, shape (N, channels, height / stride, width / stride)."""
        x_biased = x + self.bias1
        stream = x if isinstance(self.project, nn.Identity) else self.project(x_biased)
        inner = F.relu(self.conv1(x_biased) + self.bias2) + self.bias3
        return F.relu(stream + self.conv2(inner) * self.scale + self.bias4)


class ResNet(nn.Module):
    """Stem, three stages of residual blocks, global average pooling and a linear classifier."""

    def __init__(self, channels: int, outputs: int, blocks: int, width: int, norm: Norm):
        super().__init__()
        self.norm = norm
        self.stem = _conv3(channels, width)
        self.stem_norm = ScalarBias() if norm == "fixup" else NORMS[norm](width)
        widths = [width * 2**stage for stage in range(STAGES)]
        self.stages = nn.ModuleList()
        for stage, (inputs, own) in enumerate(zip([width, *widths], widths, strict=False)):
            sizes = [(inputs, own, 1 if stage == 0 else 2)] + [(own, own, 1)] * (blocks - 1)
            self.stages.append(nn.Sequential(*(_block(norm, STAGES * blocks, *size) for size in sizes)))
        self.head_bias = ScalarBias() if norm == "fixup" else nn.Identity()
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape (N, outputs), of images of shape (N, channels, height, width)."""
        x = F.relu(self.stem_norm(self.stem(x)))
        for stage in self.stages:
            x = stage(x)
        return self.head(self.head_bias(x.mean((2, 3))))


class ScalarBias(nn.Module):
    """x + b with one learned number b, in the place where other networks have a norm."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """The shifted input, in its own shape."""
        return x + self.shift


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": _group_norm}


def _block(norm: Norm, blocks: int, inputs: int, channels: int, stride: int) -> nn.Module:
    if norm == "fixup":
        return FixupBlock(inputs, channels, stride, blocks)
    return Block(inputs, channels, stride, NORMS[norm])


def _conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return _he(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False))


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return _he(nn.Conv2d(inputs, outputs, 1, stride, bias=False))


def _he(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


@groups.register
def resnet_groups(network: ResNet) -> tuple[Group, ...]:
    """The inner channels of every block, and the channels of each stage's residual stream.

    With GroupNorm a unit is one whole normalisation group of channels: without some channels of a group
    its mean and variance would be others, and the compact network would not compute the same.
    """
    inner = (inner_group(network, block) for stage in range(STAGES) for block in _blocks(network, stage))
    return (*inner, *(stream_group(network, stage) for stage in range(STAGES)))


def inner_group(network: ResNet, block: str) -> Group:
    """The channels between the two convolutions of a block."""
    return parallel(
        network,
        f"{block} channels",
        "channel",
        writes=[f"{block}.conv1"],
        norms=_norms(network, f"{block}.norm1"),
        reads=[f"{block}.conv2"],
        per_unit=_per_unit(network),
    )


def stream_group(network: ResNet, stage: int) -> Group:
    """The channels of a stage's residual stream: all that writes into it, and all that reads from it."""
    first, *rest = blocks = _blocks(network, stage)
    starts, inside = (["stem"], blocks) if stage == 0 else ([f"{first}.project"], rest)
    enters = "stem_norm" if stage == 0 else f"{first}.norm3"
    leaves = [f"stages.{stage + 1}.0.{part}" for part in ("conv1", "project")]
    return parallel(
        network,
        f"stages.{stage} stream",
        "channel",
        writes=[*starts, *(f"{block}.conv2" for block in blocks)],
        norms=_norms(network, enters, *(f"{block}.norm2" for block in blocks)),
        reads=[*(f"{block}.conv1" for block in inside), *(leaves if stage + 1 < STAGES else ["head"])],
        per_unit=_per_unit(network),
    )


@declared.register
def resnet_outputs(network: ResNet) -> tuple[Group, ...]:
    """The channels behind every norm: inner ones, and what the stem and each block add to the residual stream."""
    blocks = [block for stage in range(STAGES) for block in _blocks(network, stage)]
    found = [_output(network, "stem", "stem_norm")]
    for block in blocks:
        if network.norm != "fixup":
            found.append(inner_group(network, block))
        found.append(_output(network, f"{block}.conv2", f"{block}.norm2"))
        if isinstance(network.get_submodule(f"{block}.project"), nn.Conv2d):
            found.append(_output(network, f"{block}.project", f"{block}.norm3"))
    return tuple(found)


def _output(network: ResNet, writer: str, norm: str) -> Group:
    return outputs(network, writer, _norms(network, norm), _per_unit(network))


def _blocks(network: ResNet, stage: int) -> list[str]:
    return [f"stages.{stage}.{i}" for i, _ in enumerate(network.stages[stage].children())]


def _norms(network: ResNet, *names: str) -> tuple[str, ...]:
    return () if network.norm == "fixup" else names


def _per_unit(network: ResNet) -> int:
    return CHANNELS_PER_GROUP if network.norm == "group" else 1


@register("resnet")
def resnet(
    input_shape: tuple[int, ...],
    outputs: int,
    /,
    depth: int = 8,
    width: int = 16,
    norm: Norm = "batch",
) -> nn.Module:
    """Residual network in the CIFAR style: depth 6n+2, width, norm batch, group or fixup.

    GroupNorm normalises groups of four channels, so that `width` must be a multiple of 4. Fixup follows
    the paper except that the classifier keeps its ordinary initialisation instead of zero: with a zero
    classifier no gradient reaches any other layer, and pruning at initialisation would see only ties.
    """
    positive("resnet", width=width)
    blocks, rest = divmod(depth - 2, 2 * STAGES)
    if rest or blocks < 1:
        below = max(blocks, 1) * 2 * STAGES + 2
        raise UsageError(f"architecture 'resnet': depth={depth} is not 6n+2; use {below} or {below + 6}")
    if norm == "group" and width % CHANNELS_PER_GROUP:
        raise UsageError(f"architecture 'resnet': norm='group' needs a width that is a multiple of 4, not {width}")
    return ResNet(image("resnet", input_shape)[0], outputs, blocks, width, norm)
