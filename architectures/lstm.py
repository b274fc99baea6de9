"""LSTM (Hochreiter and Schmidhuber, Neural Computation 9, 1997) for sequences of tokens and for rows of images.

Gates i, f, g, o in torch's order, c_t = f c_{t-1} + i g and h_t = o tanh(c_t), from states of zero. Each layer is an
`nn.LSTM` of its own, so that layers may lose different numbers of neurons. Of torch's two biases, which only ever
occur as a sum, the second stays zero and frozen.

Paper: hochreiter1997long
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from ..datasets.errors import UsageError
from ..datasets.tokens import PADDING
from . import register
from .checks import image
from .declared.groups import groups, runs
from .layers.words import OneHot, Words
from .units.slices import Group, Slice

Read = Literal["last", "all"]
EMBEDDING_STD = 0.1


class Rows(nn.Module):
    """The rows of an image, from its top, as a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, H, C W) of images (N, C, H, W)."""
        return x.transpose(1, 2).flatten(2)


class LSTM(nn.Module):
    """Inputs, layers of LSTM, and a linear read-out of the last state or of every state.

    Where the last state is read, steps of padding copy (h, c): sequences that are padded on the left begin with
    their first token, in states of zero. To that end they are moved to the left, and the state is read where they
    end, which is the same and needs no masks. Where every state is read there may be no padding.

    Attributes:
        inputs: what the first layer reads of x: `Words`, `OneHot` or `Rows`.
        recurrent: one `nn.LSTM` of one layer for each layer.
        readout: linear, from the last layer's states to the outputs.
        read: "last" for outputs (N, outputs), "all" for (N, T, outputs).
        word_units: whether the words of the vocabulary are units that can leave.
    """

    def __init__(
        self, inputs: nn.Module, width: int, hidden: int, layers: int, outputs: int, read: Read = "last",
        word_units: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.inputs = inputs
        widths = [width, *[hidden] * layers]
        self.recurrent = nn.ModuleList(nn.LSTM(a, b, batch_first=True) for a, b in itertools.pairwise(widths))
        self.readout = nn.Linear(hidden, outputs)
        self.read: Read = read
        self.word_units = word_units

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of tokens, int64 (N, T), or of images (N, C, H, W)."""
        if self.read == "all":
            return self.readout(self._states(x))
        if x.is_floating_point():
            return self.readout(self._states(x)[:, -1])
        padding = (x == PADDING).sum(1)
        states = self._states(x.gather(1, (_steps(x) + padding.unsqueeze(1)) % x.shape[1]))
        last = (x.shape[1] - 1 - padding).clamp_min(0).view(-1, 1, 1).expand(-1, 1, states.shape[2])
        return self.readout(states.gather(1, last).squeeze(1))

    def _states(self, x: Tensor) -> Tensor:
        """States h of the last layer at all steps, shape (N, T, hidden)."""
        states = self.inputs(x)
        for layer in self.recurrent:
            states = layer(states)[0]
        return states


def _steps(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1], device=x.device)


@groups.register
def lstm_groups(network: LSTM) -> tuple[Group, ...]:
    """The neurons of every layer, the dimensions of the embedding, and, if `word_units`, the words.

    A neuron owns its rows in all four gates, biases included, and the columns that read its state: those of its own
    layer, and those of the next one or of the read-out. Without them its state is zero, since g = tanh(0) is.
    """
    names = [f"recurrent.{i}" for i in range(len(network.recurrent))]
    readers = [*(f"{name}.weight_ih_l0" for name in names[1:]), "readout.weight"]
    neurons = (_neurons(network, name, reader) for name, reader in zip(names, readers, strict=True))
    return (*_words(network), *_dimensions(network), *neurons)


def _neurons(network: LSTM, layer: str, reader: str) -> Group:
    module = network.get_submodule(layer)
    hidden = module.get_parameter("weight_hh_l0").shape[1]
    parts = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    rows = (gates(f"{layer}.{part}", hidden, module.get_parameter(part).shape) for part in parts)
    columns = (columns_of(network, name, hidden) for name in (f"{layer}.weight_hh_l0", reader))
    return Group(f"{layer} neurons", "neuron", (*rows, *columns))


def _dimensions(network: LSTM) -> tuple[Group, ...]:
    if not isinstance(network.inputs, Words):
        return ()
    size = network.inputs.embedding_dim
    read = (columns_of(network, name, size) for name in ("inputs.weight", "recurrent.0.weight_ih_l0"))
    return (Group("inputs dimensions", "dimension", tuple(read)),)


def _words(network: LSTM) -> tuple[Group, ...]:
    if not network.word_units or not isinstance(network.inputs, Words | OneHot):
        return ()
    count = len(network.inputs.present)
    places = (runs("inputs.present", 0, count, network.inputs.present.shape),)
    if isinstance(network.inputs, Words):
        return (Group("inputs words", "word", (runs("inputs.weight", 0, count, network.inputs.weight.shape),), places),)
    return (Group("inputs words", "word", (columns_of(network, "recurrent.0.weight_ih_l0", count),), places),)


def gates(name: str, hidden: int, shape: torch.Size) -> Slice:
    """The rows of i, f, g and o of every neuron, along the first axis of a tensor of an LSTM."""
    return Slice(name, 0, torch.arange(4 * hidden).view(4, hidden).T.contiguous(), shape)


def columns_of(network: nn.Module, name: str, size: int) -> Slice:
    """One column each of a matrix for `size` units."""
    return runs(name, 1, size, network.get_parameter(name).shape)


@torch.no_grad()
def initialise_(network: LSTM, forget_bias: float) -> LSTM:
    """Glorot-uniform input weights and orthogonal recurrent ones, gate by gate; small vectors of words.

    The bias of the forget gate is `forget_bias`, the others are zero (Chirkova et al., 2018, arXiv 1810.10927).
    """
    if isinstance(network.inputs, Words):
        nn.init.normal_(network.inputs.weight, std=EMBEDDING_STD)
    for layer in network.recurrent:
        for w_x, w_h in zip(*(layer.get_parameter(f"weight_{part}_l0").chunk(4) for part in ("ih", "hh")), strict=True):
            nn.init.xavier_uniform_(w_x)
            nn.init.orthogonal_(w_h)
        for part in ("ih", "hh"):
            layer.get_parameter(f"bias_{part}_l0").zero_()
        layer.get_parameter("bias_ih_l0").chunk(4)[1].fill_(forget_bias)
        layer.get_parameter("bias_hh_l0").requires_grad_(False)
    return network


@register("lstm")
def lstm(
    input_shape: tuple[int, ...],
    outputs: int,
    /,
    hidden: PositiveInt = 128,
    embedding: NonNegativeInt = 64,
    layers: PositiveInt = 1,
    forget_bias: float = 1.0,
    read: Read | None = None,
    words: bool = False,
) -> nn.Module:
    """LSTM for sequences of tokens, as a classifier or a language model, and for the rows of images.

    `embedding: 0` reads words one-hot. `read` is the last state or all of them; by default all where the outputs are
    the vocabulary, as they are for a language model, else the last. With `words` each word of the vocabulary is a
    unit too, beside neurons and dimensions of the embedding.
    """
    if len(input_shape) != 2:
        return initialise_(_of_images(input_shape, outputs, hidden, layers, read, words), forget_bias)
    vocabulary = input_shape[1]
    inputs = Words(vocabulary, embedding) if embedding else OneHot(vocabulary)
    read = read or ("all" if outputs == vocabulary else "last")
    return initialise_(LSTM(inputs, embedding or vocabulary, hidden, layers, outputs, read, words), forget_bias)


def _of_images(
    input_shape: tuple[int, ...], outputs: int, hidden: int, layers: int, read: Read | None, words: bool
) -> LSTM:
    if len(input_shape) != 3:
        raise UsageError(
            f"architecture 'lstm' needs sequences of tokens or images, got inputs of shape {tuple(input_shape)}; "
            "use 'mlp' for tables"
        )
    if read == "all" or words:
        raise UsageError(
            "architecture 'lstm': read='all' and words=True are for sequences of tokens, and images have one label "
            f"and no words; leave them out for inputs of shape {tuple(input_shape)}"
        )
    channels, _, columns = image("lstm", input_shape)
    return LSTM(Rows(), channels * columns, hidden, layers, outputs)
