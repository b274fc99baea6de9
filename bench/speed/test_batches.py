"""Batches cut from tensors in memory against torch's DataLoader over the same tensors: reported."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.datasets.load import load
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SIZE = 64


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def in_memory(split):
    return split.batches(SIZE, torch.Generator().manual_seed(0))


def loader(split):
    dataset = TensorDataset(split.x, split.y)
    return DataLoader(dataset, SIZE, shuffle=True, num_workers=0, generator=torch.Generator().manual_seed(0))


def trained(network: nn.Module, batches) -> None:
    """One epoch; everything but where the batches come from is equal."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()


def exhausted(batches) -> None:
    for _ in batches:
        pass


def test_both_give_each_example_once(digits):
    for batches in (in_memory(digits.train), loader(digits.train)):
        x = torch.cat([x for x, _ in batches])
        torch.testing.assert_close(x.sum(0), digits.train.x.sum(0), rtol=1e-4, atol=1e-3)
        assert len(x) == len(digits.train)


@pytest.mark.benchmark(group="batches")
def test_one_pass(digits, contender, compare):
    ours = contender(lambda _: exhausted(in_memory(digits.train)))
    theirs = contender(lambda _: exhausted(loader(digits.train)))
    ratio = compare("one pass in memory / DataLoader", ours, theirs, rounds=51)
    assert ratio.median < 1, f"a pass over batches in memory takes {ratio} times one of a DataLoader"


@pytest.mark.benchmark(group="batches in training")
@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_one_epoch_of_training(digits, contender, compare, name):
    def fresh() -> nn.Module:
        return build(name, digits.input_shape, digits.outputs, seed=0)

    ours = contender(lambda net: trained(net, in_memory(digits.train)), fresh)
    theirs = contender(lambda net: trained(net, loader(digits.train)), fresh)
    ratio = compare(f"training from memory / from a DataLoader, {name}", ours, theirs, rounds=51)
    assert ratio.median < 1, f"training from batches in memory takes {ratio} times training from a DataLoader"
