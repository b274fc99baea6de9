"""What a method costs in a loop of one's own: of MAP at most 5 % of the plain loop, of any at most 2 % of ours."""

import bayesprune as bp
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import units
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from torch import nn

PLAIN, OURS = 1.05, 1.02
SETTINGS = Training(batch_size=64)
METHODS = ["opd", "mean-field", "bmrs-u", "variational-dropout", "pip-gates", "horseshoe"]
EPOCHS, PAIRS = {"mlp": 10, "lenet5": 2}, {"mlp": 61, "lenet5": 41}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def fresh(digits, name: str) -> nn.Module:
    return build(name, digits.input_shape, digits.outputs, seed=0)


def in_ones_own_loop(network: nn.Module, method: bp.AttachedMethod, split, epochs: int, fused: bool | None) -> None:
    """Adam and shuffled batches in memory; the method after every backward pass and step."""
    optimizer = torch.optim.Adam([*network.parameters(), *method.parameters()], SETTINGS.lr, fused=fused)
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(epochs):
        for x, y in split.batches(SETTINGS.batch_size, generator):
            optimizer.zero_grad()
            method.backward(nn.functional.cross_entropy(network(x), y))
            optimizer.step()
            method.after_step()


def plain(network: nn.Module, split, epochs: int) -> None:
    """The same with the L2 penalty as weight decay, with Adam as everybody writes it."""
    optimizer = torch.optim.Adam(network.parameters(), SETTINGS.lr, weight_decay=1 / len(split))
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(epochs):
        for x, y in split.batches(SETTINGS.batch_size, generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()


def attached(digits, name: str, method: str):
    network = fresh(digits, name)
    return network, bp.attach(network, method, example=digits.train.x[:64], size=len(digits.train))


def by_the_suite(digits, name: str, method: str):
    network = fresh(digits, name)
    inference = build_pruner(method).inference().for_units("weights")
    inference.attach(network, units(network, "weights"), digits.train)
    return network, inference


@pytest.mark.benchmark(group="attached method")
@pytest.mark.parametrize("name", EPOCHS)
def test_map_costs_at_most_5_percent_of_the_plain_loop(digits, contender, compare, name):
    epochs = EPOCHS[name]
    ours = contender(
        lambda pair: in_ones_own_loop(*pair, digits.train, epochs, None), lambda: attached(digits, name, "opd")
    )
    theirs = contender(lambda net: plain(net, digits.train, epochs), lambda: fresh(digits, name))
    ratio = compare(f"attached MAP / plain loop, {name}", ours, theirs, PAIRS[name])
    assert ratio.median <= PLAIN, f"an attached MAP takes {ratio} times the plain loop on {name}, at most {PLAIN}"


@pytest.mark.benchmark(group="attached method")
@pytest.mark.parametrize("method", METHODS)
def test_a_loop_of_ones_own_costs_at_most_2_percent_more_than_ours(digits, contender, compare, method):
    def suite(pair):
        train(pair[0], digits.train, pair[1], SETTINGS, EPOCHS["mlp"], torch.Generator().manual_seed(0))

    ours = contender(
        lambda pair: in_ones_own_loop(*pair, digits.train, EPOCHS["mlp"], True),
        lambda: attached(digits, "mlp", method),
    )
    theirs = contender(suite, lambda: by_the_suite(digits, "mlp", method))
    ratio = compare(f"attached / loop of the suite, {method}", ours, theirs, 41)
    assert ratio.median <= OURS, f"{method} takes {ratio} times the loop of the suite, at most {OURS}"
