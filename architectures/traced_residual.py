"""What any network adds to its residual streams, read from the dependency graph of one forward pass."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from .groups import groups
from .residual import outputs
from .sites import Edge, Site
from .slices import Group, Slice
from .spread import can_spread
from .traced import Graph, graph
from .units import prunable

_ADDITION = "the operation add"
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)


def find(network: nn.Module, example: Tensor) -> tuple[Group, ...]:
    """The outputs of layers that are added to what other layers compute, and inner groups with a norm.

    The sum may come behind a norm, an activation or a scale. A layer has no such units where a norm without scale and
    shift follows it, which would make a constant of its zeros, or where its weights are frozen, shared or grouped.

    Raises UsageError if a forward pass cannot be traced.
    """
    traced = graph(network, example)
    following = _following(traced.edges)
    added = _sums(traced, following)
    weights = [name for name in prunable(network) if name not in traced.held]
    found: list[Group] = []
    for site in traced.sites:
        if site.writes and f"{site.layer}.weight" in weights and added & _reached(site, following):
            found += _outputs(network, site, following)
    if not found:
        return ()
    written = {(piece.name, piece.axis) for group in found for piece in _slices(group)}
    inner = [group for group in groups(network, example) if _has_norm(network, group)]
    found += [group for group in inner if not written & {(piece.name, piece.axis) for piece in _slices(group)}]
    order = {name: i for i, name in enumerate(weights)}
    return tuple(sorted(found, key=lambda group: min(order.get(s.name, len(order)) for s in _slices(group))))


def _outputs(network: nn.Module, site: Site, following: dict[Site, list[Site]]) -> Iterator[Group]:
    """The outputs of one layer, with the norm behind it; none if what follows it would not keep zeros zero."""
    layer = network.get_submodule(site.layer)
    after = [network.get_submodule(s.layer) for s in following[site] if _is_module(network, s)]
    norm = next((module for module in after if isinstance(module, _NORMS)), None)
    last = layer if norm is None else norm
    grouped = isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1
    if grouped or not can_spread(layer) or not can_spread(last) or last._parameters.get("weight") is None:
        return
    if norm is None:
        yield outputs(network, site.layer)
    elif len(following[site]) == 1:
        name = following[site][0].layer
        per_unit = norm.num_channels // norm.num_groups if isinstance(norm, nn.GroupNorm) else 1
        yield outputs(network, site.layer, [name], per_unit)


def _following(edges: list[Edge]) -> dict[Site, list[Site]]:
    """What each site passes its positions to."""
    found: dict[Site, list[Site]] = {}
    for source, _, target, _ in edges:
        if source is not target:
            found.setdefault(source, []).append(target)
    return {source: list(dict.fromkeys(targets)) for source, targets in found.items()}


def _reached(site: Site, following: dict[Site, list[Site]]) -> set[Site]:
    """Every site that gets positions of `site`, up to the layers that read them."""
    seen: set[Site] = set()
    pending = [site]
    while pending:
        for target in following.get(pending.pop(), []):
            if target not in seen:
                seen.add(target)
                pending.append(target)
    return seen


def _sums(traced: Graph, following: dict[Site, list[Site]]) -> set[Site]:
    """The additions of at least two things that layers have computed: no biases or tables of positions."""
    writers = [site for site in traced.sites if site.writes]
    computed = set(writers).union(*(_reached(site, following) for site in writers))
    terms: dict[Site, set[Site]] = {}
    for source, _, target, _ in traced.edges:
        if target.layer == _ADDITION and source in computed:
            terms.setdefault(target, set()).add(source)
    return {site for site, sources in terms.items() if len(sources) > 1}


def _is_module(network: nn.Module, site: Site) -> bool:
    return site.layer in dict(network.named_modules())


def _has_norm(network: nn.Module, group: Group) -> bool:
    layers = {piece.name.rpartition(".")[0] for piece in group.slices}
    return any(isinstance(network.get_submodule(layer), _NORMS) for layer in layers)


def _slices(group: Group) -> Iterator[Slice]:
    return (piece for piece in group.slices if isinstance(piece, Slice))
