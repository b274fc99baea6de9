"""MLP-Mixer (Tolstikhin et al., 2021, arXiv 2105.01601), timm's implementation in small sizes.

The units are the hidden units of the token-mixing and of the channel-mixing perceptrons. Channels of the
residual stream are not offered: LayerNorm mixes them, so that none can leave without changing the others.

Paper: tolstikhin2021mlp
"""

from __future__ import annotations

from timm.models.mlp_mixer import MlpMixer
from torch import nn

from . import register
from .checks import image, patch_size, positive
from .declared.groups import groups
from .declared.residual import declared, projections
from .units.slices import Group
from .vit import hidden_groups


@groups.register
def mixer_groups(network: MlpMixer) -> tuple[Group, ...]:
    """The token-mixing and the channel-mixing hidden units of every block."""
    return tuple(hidden_groups(network))


@declared.register
def mixer_outputs(network: MlpMixer) -> tuple[Group, ...]:
    """What both perceptrons of every block add to the residual stream, for every token or for every channel."""
    return tuple(projections(network, ("mlp_tokens.fc2", "mlp_channels.fc2")))


@register("mixer")
def mixer(
    input_shape: tuple[int, ...],
    outputs: int,
    /,
    patch: int | None = None,
    dim: int = 32,
    depth: int = 2,
    mlp_ratio: tuple[float, float] = (0.5, 4.0),
) -> nn.Module:
    """Small MLP-Mixer (timm) of any patch, dim and depth.

    `mlp_ratio` is the number of hidden units of the token mixing and of the channel mixing, in dims.
    Without `patch`, the smallest one that divides the image into at most 8 x 8 patches: 2 for 8x8 digits,
    4 for 28x28 and 32x32. The classifier starts like any linear layer, not at timm's zeros: with a zero
    classifier no gradient reaches any other layer, and pruning at initialisation would see only ties.
    """
    tokens, channel = mlp_ratio
    positive("mixer", dim=dim, depth=depth, mlp_ratio=min(int(tokens * dim), int(channel * dim)))
    channels, *sides = image("mixer", input_shape)
    network = MlpMixer(
        num_classes=outputs,
        img_size=(sides[0], sides[1]),  # pyright: ignore[reportArgumentType]
        in_chans=channels,
        patch_size=patch_size("mixer", sides, patch),
        num_blocks=depth,
        embed_dim=dim,
        mlp_ratio=mlp_ratio,
    )
    network.head.reset_parameters()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return network
