"""Sparse variational dropout of gated recurrent networks: weights, and the words, inputs, neurons and gates they form.

Lobacheva, Chirkova, Vetrov, "Bayesian sparsification of recurrent neural networks", 2017 (arXiv 1708.00077);
Chirkova, Lobacheva, Vetrov, "Bayesian compression for natural language processing", EMNLP 2018 (arXiv 1810.10927).
Beside its weights, the structures of an LSTM have factors z ~ N(θ, σ²) under a log-uniform prior, which begin at 1. The
divergence is the sum of those of all weights and factors. A step has one draw of the weights and, for each sequence,
one of the factors, the same at all times: binary variational dropout. Evaluated are means, which fold into weights.

Deliberate deviations from the published code: the exact divergence, and a warm-up of its weight (0, 0 is as published);
plain sigmoids; what the read-out of a language model draws is shared by all steps too.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ...architectures.layers.words import Words
from ...architectures.lstm import LSTM
from ...architectures.units.vector import Units
from ...datasets.errors import NotApplicable
from ...datasets.examples import Examples
from ..variational.inference import equal_log_sigma
from ..variational.weight_noise import Draws
from .factored import FactoredDropout, Hooks
from .lstm_noise import StructureNoise
from .lstm_structures import structures
from .structures import Kind, Structure

# log σ of weights before training (published code).
LOG_SIGMA = -3.0


@dataclass
class RecurrentDropout(FactoredDropout):
    """Variational dropout of the weights of an LSTM and of factors on its structures; an example is a sequence.

    Attributes:
        kinds: of the structures with factors, beside words.
        words: whether words have factors; unless given, embedded ones have them beside other structures.
        start: log σ of every weight before training.
    """

    start: float | None = LOG_SIGMA
    kinds: tuple[Kind, ...] = ()
    words: bool | None = None

    def attach(self, network: nn.Module, units: Units, train: Examples) -> None:
        """As `FactoredDropout`; raises NotApplicable for a network that is no LSTM of this package."""
        if not isinstance(network, LSTM):
            raise NotApplicable(
                f"this method prunes gated recurrent networks, and {type(network).__name__} is none: use the "
                "architecture 'lstm', or variational-dropout, which takes any network"
            )
        super().attach(network, units, train)

    def draws_on(self, network: nn.Module) -> Draws:
        """A local draw at each step would be one of other weights."""
        assert isinstance(network, LSTM)
        return "minibatch" if network.read == "all" else self.draws

    def structures_of(self, network: nn.Module, train: Examples) -> tuple[tuple[Structure, ...], list[Structure]]:
        """Those of an LSTM, and those of the kinds that have factors."""
        assert isinstance(network, LSTM)
        found = structures(network)
        return found, [structure for structure in found if self._has_factors(structure, network)]

    def _has_factors(self, structure: Structure, network: LSTM) -> bool:
        if structure.kind != "word":
            return structure.kind in self.kinds
        return bool(self.kinds) and isinstance(network.inputs, Words) if self.words is None else self.words

    def multiplied(self, network: nn.Module) -> Hooks:
        """Noise on inputs, states and gates."""
        assert isinstance(network, LSTM)
        return StructureNoise(network, self.noisy, lambda *call: self.by_structure(self.draw(*call)))

    def initial_log_sigma(self, network: nn.Module) -> Tensor:
        """`start` for every weight; shape (P,)."""
        return equal_log_sigma(self.named_weights(network), LOG_SIGMA if self.start is None else self.start)
