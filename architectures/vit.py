"""Vision transformer (Dosovitskiy et al., 2021, arXiv 2010.11929), timm's implementation in small sizes.

The units are attention heads and hidden units of the feed-forward layers. Channels of the residual stream
are not offered: LayerNorm mixes them, so that none can leave without changing the others. What the branches add
to them can leave (`residual`).

Paper: dosovitskiy2021image
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

from ..datasets.errors import UsageError
from . import register
from .checks import image, patch_size, positive
from .declared.groups import groups, parallel, runs, within
from .declared.residual import declared, projections
from .layers.resize import resize
from .units.slices import Group, Slice


@groups.register
def vit_groups(network: VisionTransformer) -> tuple[Group, ...]:
    """The attention heads and the feed-forward hidden units of every block."""
    return (*head_groups(network), *hidden_groups(network))


@declared.register
def vit_outputs(network: VisionTransformer) -> tuple[Group, ...]:
    """What attention and feed-forward layers add to the residual stream: the rows of both projections.

    None where a norm lies between projection and stream.
    """
    if any(isinstance(module, ResPostBlock) for module in network.modules()):
        return ()
    return tuple(projections(network, ("attn.proj", "mlp.fc2")))


def head_groups(network: nn.Module) -> Iterator[Group]:
    """The heads of every attention layer."""
    for name, module in network.named_modules():
        if isinstance(module, Attention):
            yield from (within(name, group) for group in attention_groups(module))


@groups.register
def attention_groups(attention: Attention) -> tuple[Group, ...]:
    """The heads: their rows of q, k and v, and their columns of the projection.

    An attention layer that normalises over all heads together has none.
    """
    if type(attention) is not Attention or not isinstance(attention.norm, nn.Identity):
        return ()
    return (Group("heads", "head", tuple(_head_slices(attention))),)


def _head_slices(attention: Attention) -> Iterator[Slice]:
    heads, width = attention.num_heads, attention.head_dim
    gate = getattr(attention, "gate", None)  # not in every version of timm
    # Rows of qkv run over (q k v, head, position within the head).
    rows = torch.arange(3 * heads * width).view(3, heads, width).transpose(0, 1).reshape(heads, -1)
    for part, tensor in attention.qkv.named_parameters():
        yield Slice(f"qkv.{part}", 0, rows, tensor.shape)
    for part, tensor in gate.named_parameters() if gate is not None else ():
        yield runs(f"gate.{part}", 0, heads, tensor.shape)
    yield runs("proj.weight", 1, heads, attention.proj.weight.shape)


def hidden_groups(network: nn.Module) -> Iterator[Group]:
    """The hidden units of every two-layer perceptron, gated or not: rows and biases of fc1, column of fc2."""
    for name, module in network.named_modules():
        if not isinstance(getattr(module, "norm", None), nn.Identity):
            continue
        if type(module) is Mlp:
            yield parallel(network, f"{name} hidden", "hidden", writes=[f"{name}.fc1"], reads=[f"{name}.fc2"])
        elif type(module) is SwiGLU:
            writes = [f"{name}.fc1_g", f"{name}.fc1_x"]
            yield parallel(network, f"{name} hidden", "hidden", writes=writes, reads=[f"{name}.fc2"])
        elif type(module) is GluMlp:
            yield within(name, Group("hidden", "hidden", tuple(_gated_slices(module))))


def _gated_slices(module: GluMlp) -> Iterator[Slice]:
    """Rows of fc1 run over (gate and value, hidden unit)."""
    hidden = module.fc2.weight.shape[1]
    rows = torch.arange(2 * hidden).view(2, hidden).T
    for part, tensor in module.fc1.named_parameters():
        yield Slice(f"fc1.{part}", 0, rows, tensor.shape)
    yield runs("fc2.weight", 1, hidden, module.fc2.weight.shape)


@resize.register
def resize_attention(module: Attention) -> None:
    """The number of heads, from the width of the output projection."""
    module.attn_dim = module.proj.weight.shape[1]
    module.num_heads = module.attn_dim // module.head_dim


def write_out_attention(network: nn.Module) -> nn.Module:
    """Let every timm attention layer compute softmax(q k') v step by step.

    The fused kernel has no second derivative on the CPU and no batching rule for per-example gradients.
    """
    for module in network.modules():
        if isinstance(getattr(module, "fused_attn", None), bool):
            module.fused_attn = False  # pyright: ignore[reportArgumentType]
    return network


@register("vit")
def vit(
    input_shape: tuple[int, ...],
    outputs: int,
    /,
    patch: int | None = None,
    dim: int = 32,
    depth: int = 2,
    heads: int = 4,
    mlp_ratio: float = 2.0,
) -> nn.Module:
    """Small vision transformer (timm) of any patch, dim, depth and heads.

    The classifier reads the average of the tokens; there is no class token. Without `patch`, the smallest
    one that divides the image into at most 8 x 8 patches: 2 for 8x8 digits, 4 for 28x28 and 32x32.
    Weights start as Glorot's and positions at unit scale; timm's 0.02 is made for hundreds of dimensions,
    and in 32 it hides the positions behind the patches.
    """
    positive("vit", dim=dim, depth=depth, heads=heads, mlp_ratio=mlp_ratio)
    channels, *sides = image("vit", input_shape)
    if dim % heads:
        raise UsageError(f"architecture 'vit': dim={dim} must be a multiple of heads={heads}")
    network = VisionTransformer(
        img_size=(sides[0], sides[1]),
        patch_size=patch_size("vit", sides, patch),
        in_chans=channels,
        num_classes=outputs,
        global_pool="avg",
        class_token=False,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        weight_init="moco",
    )
    nn.init.normal_(network.pos_embed)  # pyright: ignore[reportArgumentType]
    return write_out_attention(network)
