"""The methods of sparse Bayesian LSTMs: weights alone (W), with neurons (W+N), and with gates (W+G+N).

Deviations: the divergence is exact instead of the published fit (`form: molchanov`); it rises over a warm-up.
"""

from __future__ import annotations

from functools import partial

from .closed_forms.posteriors import Gaussian
from .pruner import Pruner, register
from .structured_dropout.factored import Ties
from .structured_dropout.lstm import RecurrentDropout
from .structured_dropout.lstm_account import account
from .structured_dropout.structures import Kind
from .structured_dropout.worth import worth
from .variational.weight_dropout import Form


@register("lstm-w")
def lstm_w(
    threshold: float = 3.0, form: Form = "exact", warm_up: tuple[int, int] = (5, 20), kl: float = 1.0,
    start: float = -3.0, lr_factor: float = 1.0, words: bool = False,
) -> Pruner[Gaussian]:  # fmt: skip
    """Sparse variational dropout of LSTMs, noise tied over the sequence (Lobacheva, Chirkova, Vetrov 2017).

    With `words`, the vocabulary has factors too, which learn `lr_factor` times faster than the weights.

    Formula: s_k = -log α_k,  α_k = σ_k² / θ_k²
    Paper: lobacheva2017bayesian
    Oracle: test_recurrent_dropout.py::test_noise_is_tied_over_the_sequence,
        test_recurrent_dropout.py::test_the_divergence_has_a_term_for_every_weight_and_factor
    """
    return _pruner((), threshold, form, warm_up, kl, start, lr_factor, words)


@register("lstm-wn")
def lstm_wn(
    threshold: float = 3.0, form: Form = "exact", warm_up: tuple[int, int] = (5, 20), kl: float = 1.0,
    start: float = -3.0, lr_factor: float = 1.0, words: bool | None = None, ties: Ties = "example",
) -> Pruner[Gaussian]:  # fmt: skip
    """LSTM dropout of weights and neurons: factors on inputs and states (Chirkova, Lobacheva, Vetrov 2018).

    Embedded words have factors, one-hot ones only with `words`. Factors learn `lr_factor` times faster than weights.

    Formula: W_ij = w_ij z_i (z of inputs and neurons);  leaves if log α > 3
    Paper: chirkova2018bayesian
    Oracle: test_recurrent_dropout.py::test_factors_fold_into_weights,
        test_recurrent_dropout.py::test_the_counts_of_the_published_imdb_logs
    """
    return _pruner(("input", "neuron"), threshold, form, warm_up, kl, start, lr_factor, words, ties)


@register("lstm-wgn")
def lstm_wgn(
    threshold: float = 3.0, form: Form = "exact", warm_up: tuple[int, int] = (5, 20), kl: float = 1.0,
    start: float = -3.0, lr_factor: float = 1.0, words: bool | None = None, ties: Ties = "example",
) -> Pruner[Gaussian]:  # fmt: skip
    """LSTM dropout of weights, gates and neurons (Lobacheva, Chirkova, Markovich, Vetrov 2020).

    Embedded words have factors, one-hot ones only with `words`. Factors learn `lr_factor` times faster than weights.

    Formula: W_ij = w_ij z_i g_j (g of gates' preactivations);  leaves if log α > 3
    Paper: lobacheva2020structured
    Oracle: test_recurrent_dropout.py::test_a_gate_without_weights_is_its_bias_whatever_is_behind_it,
        test_recurrent_dropout.py::test_the_counts_of_the_published_imdb_logs
    """
    return _pruner(("input", "neuron", "gate"), threshold, form, warm_up, kl, start, lr_factor, words, ties)


def _pruner(
    kinds: tuple[Kind, ...], threshold: float, form: Form, warm_up: tuple[int, int], kl: float, start: float,
    lr_factor: float, words: bool | None, ties: Ties = "example",
) -> Pruner[Gaussian]:  # fmt: skip
    inference = partial(
        RecurrentDropout, kl, warm_up, form=form, start=start, kinds=kinds, words=words, ties=ties, lr_factor=lr_factor
    )
    return Pruner(inference, worth, keep_above=-threshold, report=partial(account, threshold=threshold))
