"""The adapter to torch-pruning's dependency graph (Fang et al., 2023, DepGraph, arXiv 2301.12900).

One forward pass is traced into a graph whose nodes are layers, bare parameters and the operations between
them. Each node becomes the `Site`s it reads from and writes to, each edge pairs of positions that must
leave together. The graph takes operations it does not know for elementwise ones, so that what comes out
of here is a proposal: `families` makes groups of it, and `trial` tries them.
"""

from __future__ import annotations

import graphlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from .arrivals import Arrival, moved
from .sites import Edge, Ends, Site, barrier, blocks, ends_of

OUTPUT = "the outputs of the network stay"
_MISFIT = "{} and {} do not fit: a reshape, transpose or broadcast that the dependency graph cannot follow"
# Layers that torch-pruning does not know, and that it must not take for the operations inside them.
_OPAQUE = (nn.RMSNorm, nn.RNN, nn.GRU, nn.RNNCell, nn.GRUCell, nn.LSTMCell, nn.Bilinear, nn.EmbeddingBag)


def couplings(
    network: nn.Module, forward: Callable[[], list[Tensor]], reused: set[nn.Module]
) -> tuple[list[Site], list[Edge]]:
    """All sites of a network, and what must leave together, by one traced forward pass.

    Args:
        network: A lent network whose floating parameters all require gradients; it may come back in
            another mode and with hooks left.
        forward: Runs the pass and returns the network's outputs, all with a gradient function.
        reused: Layers that the pass goes through more than once.
    """
    nodes, results = _graph(network, forward)
    names = {id(item): name for name, item in (*network.named_modules(), *network.named_parameters())}
    ends = {node: _ends(node, names.get(id(node.module)), node.module in reused) for node in nodes}
    for node in nodes:
        if node.grad_fn in results:
            ends[node][1].reason = OUTPUT
    edges = list(_edges(nodes, ends))
    return list(dict.fromkeys(site for pair in ends.values() for site in pair)), edges


def _graph(network: nn.Module, forward: Callable[[], list[Tensor]]) -> tuple[list[Any], set[Any]]:
    """The nodes of torch-pruning's graph, and the gradient functions of the outputs."""
    outputs: list[Tensor] = []

    def run(*_: object) -> list[Tensor]:
        outputs.extend(forward())
        return outputs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning
        from torch_pruning import ops

        graph: Any = torch_pruning.DependencyGraph()
        opaque = {kind: ops.CustomizedPruner() for kind in _OPAQUE}
        graph.build_dependency(network, (), forward_fn=run, customized_pruners=opaque, verbose=False)
    return list(graph.module2node.values()), {output.grad_fn for output in outputs}


def _ends(node: Any, name: str | None, reused: bool) -> Ends:
    if isinstance(node.module, nn.Parameter):
        axis = node.pruning_dim % node.module.dim()
        site = Site(name or "", node.module.shape[axis], ((name or "", axis),))
        return site, site
    if name is None:
        site = Site(_operation(node))
        return site, site
    ends = ends_of(node.module, name)
    return barrier(ends, f"{name} is used more than once") if reused else ends


def _operation(node: Any) -> str:
    """For example "the operation add", from AddBackward0."""
    name = node.grad_fn.name() if hasattr(node.grad_fn, "name") else type(node.grad_fn).__name__
    return f"the operation {name.rpartition('::')[2].partition('Backward')[0].lower()}"


# ---------------------------------------------------------------------------------- edges


class _Index(NamedTuple):
    """A position, and the one it came from at the start of an edge, as torch-pruning maps them."""

    idx: int
    root_idx: int


def _edges(nodes: list[Any], ends: dict[Any, Ends]) -> Iterator[Edge]:
    arriving: dict[Any, list[Arrival]] = {node: [] for node in nodes}
    for node in _ordered(nodes, ends):
        reads, writes = ends[node]
        arriving[node] = moved(node.grad_fn, arriving[node])
        is_operation = reads is writes and not reads.width
        present = _settle(reads, arriving[node]) if is_operation else np.arange(writes.width)
        for following, edge in zip(node.outputs, node.dependencies[len(node.inputs) :], strict=True):
            arriving[following].append(_arrival(node, writes, present, edge.index_mapping))
    for node in nodes:
        yield from blocks(node.module, ends[node])
        reads = ends[node][0]
        if not reads.width:
            _settle(reads, arriving[node])
        for arrival in _fitting(reads, arriving[node]):
            yield arrival.source, arrival.before, reads, arrival.after


def _ordered(nodes: list[Any], ends: dict[Any, Ends]) -> tuple[Any, ...]:
    """Nodes, each after those whose positions it passes on."""
    passing = {node: node.inputs if ends[node][0] is ends[node][1] else () for node in nodes}
    return tuple(graphlib.TopologicalSorter(passing).static_order())


def _arrival(node: Any, source: Site, present: np.ndarray, mappings: list[Callable[[Any], Any] | None]) -> Arrival:
    moves = [mapping for mapping in mappings if mapping is not None]
    if not moves:
        return Arrival(source, node.grad_fn, present, present, False)
    pairs: list[_Index] = [_Index(i, i) for i in present.tolist()]
    for move in moves:
        pairs = move(pairs)
    before, after = np.array([(pair.root_idx, pair.idx) for pair in pairs], dtype=np.int64).reshape(-1, 2).T
    return Arrival(source, node.grad_fn, before, after, True)


def _settle(site: Site, arrivals: list[Arrival]) -> np.ndarray:
    """Give an operation the width of what arrives; the positions that it passes on."""
    site.width = max((arrival.width for arrival in arrivals), default=0)
    return np.unique(np.concatenate([np.empty(0, np.int64), *(arrival.after for arrival in arrivals)]))


def _fitting(site: Site, arrivals: list[Arrival]) -> Iterator[Arrival]:
    """Arrivals without those of a single, broadcast position; what does not fit is kept from leaving."""
    arrivals = [arrival for arrival in arrivals if arrival.width]
    is_joined = len(arrivals) > 1 and not any(arrival.moved for arrival in arrivals)
    for arrival in arrivals:
        if is_joined and arrival.width == 1 < site.width:
            continue
        if arrival.width > site.width or (is_joined and arrival.width < site.width):
            site.reason = arrival.source.reason = _MISFIT.format(arrival.source.layer, site.layer)
        else:
            yield arrival
