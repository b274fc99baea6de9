"""Multiplicative noise: a training step with it takes at most twice as long; evidence and compaction cost little.

The published layer makes a step of the same perceptron six to eight times as long.
"""

import statistics

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.methods.bmrs import delta_f_lognormal, delta_f_loguniform
from bayesprune.methods.closed_forms.truncated_lognormal import noise_snr
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.noise.multiplicative import MultiplicativeNoise

MNIST = (1, 28, 28)
PERCEPTRON = {"widths": (100,) * 8, "activation": "tanh"}
SIZE, STEPS, ROUNDS = 128, 40, 31
BOUND = 2.0
STRUCTURES = 30_000
MILLISECONDS = 10.0
SECONDS = 1.0


def images(examples: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(
        torch.randn(examples, *MNIST, generator=generator), torch.randint(0, 10, (examples,), generator=generator)
    )


def steps(inference, split: Split, size: int) -> None:
    network = build("mlp", MNIST, 10, seed=0, **PERCEPTRON)
    inference.attach(network, weight_units(network), split)
    train(network, split, inference, Training(batch_size=size), 1, torch.Generator().manual_seed(0))


@pytest.mark.benchmark(group="a training step with noise")
def test_noise_makes_a_step_at_most_twice_as_long(contender, compare):
    """One draw for every example and structure; the perceptron of Wright et al. for MNIST, in its batches of 128."""
    split = images(STEPS * SIZE)
    ours, theirs = (contender(lambda _, i=i: steps(i(), split, SIZE)) for i in (MultiplicativeNoise, MAP))
    ratio = compare(f"training step with / without noise, perceptron, batch {SIZE}", ours, theirs, ROUNDS)
    assert ratio.median <= BOUND


@pytest.mark.benchmark(group="a training step with noise")
@pytest.mark.parametrize("draws", ["example", "minibatch", "element"])
def test_small_batches_and_other_draws(contender, compare, draws):
    """Reported, without a bound."""
    split = images(STEPS * 32)
    ours = contender(lambda _: steps(MultiplicativeNoise(draws=draws), split, 32))
    theirs = contender(lambda _: steps(MAP(), split, 32))
    compare(f"training step with a draw for each {draws} / without noise, perceptron, batch 32", ours, theirs, 9)


@pytest.mark.benchmark(group="evidence")
@pytest.mark.parametrize("score", [delta_f_lognormal, delta_f_loguniform, noise_snr], ids=lambda score: score.__name__)
def test_scores_of_30_000_structures_take_at_most_10_ms(contender, compare, score):
    """Of posteriors as training leaves them; an absolute bound on CPU time, on a machine of this kind."""
    generator = torch.Generator().manual_seed(0)
    mu, log_sigma = torch.randn(2, STRUCTURES, generator=generator, dtype=torch.float64) * torch.tensor([[1.0], [2.0]])
    ours = contender(lambda _: score(mu - 0.5, log_sigma - 0.5))
    title = f"{score.__name__} / its smallest part, log Φ, of {STRUCTURES:,} structures"
    ratio = compare(title, ours, contender(lambda _: torch.special.log_ndtr(mu)), ROUNDS)
    assert 1e3 * statistics.median(ratio.ours) <= MILLISECONDS


@pytest.mark.benchmark(group="compaction")
def test_compaction_of_a_lenet_takes_at_most_a_second(benchmark, note):
    """Folding the noise into the weights, then cutting half of the structures out."""
    split = images(8)

    def prepared():
        network, inference = build("lenet5", MNIST, 10, seed=0), MultiplicativeNoise()
        inference.attach(network, weight_units(network), split)
        units = group_units(network)
        return (network, inference, Mask(units, torch.arange(units.n) % 2 == 0)), {}

    def compacted(network, inference, mask) -> None:
        inference.detach(network)
        compact(network, mask, split.x)

    benchmark.pedantic(compacted, setup=prepared, rounds=9, warmup_rounds=1)
    seconds = benchmark.stats.stats.median
    note(f"compaction of LeNet-5 with noise: {1e3 * seconds:.1f} ms", seconds=seconds)
    assert seconds <= SECONDS
