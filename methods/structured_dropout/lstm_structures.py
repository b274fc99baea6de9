"""What leaves an LSTM as a whole: words, inputs, neurons and gates, with the weights that each of them scales.

Chirkova, Lobacheva, Vetrov, "Bayesian compression for natural language processing", EMNLP 2018 (arXiv 1810.10927);
Lobacheva, Chirkova, Markovich, Vetrov, "Structured sparsification of gated recurrent neural networks", AAAI 2020
(arXiv 1911.05585). A factor z of a

    word      scales its row of the embedding, or, one-hot, its columns of W_x,
    input     scales its column of the first layer's W_x,
    neuron    scales the columns of W_h and of the next layer, or read-out, that read its state,
    gate      scales its rows of W_x and W_h, before the bias,

so that all factors fold into weights. With a gate's weights gone the gate is constant, s(b) or tanh(b), which a row of
zeros and its bias compute in any LSTM; a neuron all of whose gates are constant is not zero, but a sequence that
depends on nothing, and stays as long as it is read.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...architectures.declared.groups import runs
from ...architectures.layers.words import OneHot, Words
from ...architectures.lstm import LSTM, columns_of, gates
from .structures import Structure


def structures(network: LSTM) -> tuple[Structure, ...]:
    """All structures of a network, in the order in which it computes; of a layer its gates before its neurons."""
    names = [f"recurrent.{i}" for i in range(len(network.recurrent))]
    readers = [*(f"{name}.weight_ih_l0" for name in names[1:]), "readout.weight"]
    layers = (_layer(network, name, reader) for name, reader in zip(names, readers, strict=True))
    return (*_inputs(network), *(structure for layer in layers for structure in layer))


def _inputs(network: LSTM) -> Iterator[Structure]:
    first = network.get_parameter("recurrent.0.weight_ih_l0")
    read = columns_of(network, "recurrent.0.weight_ih_l0", first.shape[1])
    if isinstance(network.inputs, OneHot):
        yield Structure("inputs words", "word", (read,), (read,))
        return
    written = ()
    if isinstance(network.inputs, Words):
        shape = network.inputs.weight.shape
        rows = (runs("inputs.weight", 0, shape[0], shape),)
        yield Structure("inputs words", "word", rows, rows)
        written = (columns_of(network, "inputs.weight", shape[1]),)
    yield Structure("inputs dimensions", "input", (read,), (*written, read))


def _layer(network: LSTM, layer: str, reader: str) -> tuple[Structure, Structure]:
    shapes = {name: network.get_parameter(name).shape for name in (f"{layer}.weight_ih_l0", f"{layer}.weight_hh_l0")}
    hidden = shapes[f"{layer}.weight_hh_l0"][1]
    rows = tuple(runs(name, 0, 4 * hidden, shape) for name, shape in shapes.items())
    columns = tuple(columns_of(network, name, hidden) for name in (f"{layer}.weight_hh_l0", reader))
    written = (gates(name, hidden, shape) for name, shape in shapes.items())
    neurons = Structure(f"{layer} neurons", "neuron", columns, (*written, *columns))
    return Structure(f"{layer} gates", "gate", rows, rows), neurons
