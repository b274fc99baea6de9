"""Layers that hold their weights (inputs, outputs), as GPT-2's do, are linear layers, transposed."""

import pytest
import torch
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.bench.pruning.select import select
from bayesprune.bench.pruning.two_of_four import two_of_four
from bayesprune.datasets.data import Split
from bayesprune.methods.curvature.diagonals import SquaredGradients, diagonal, send_back
from bayesprune.methods.curvature.kronecker import KroneckerSums, kfac
from bayesprune.methods.laplace.layer_errors import LayerErrors
from bayesprune.methods.obc import obc
from bayesprune.methods.pruner import State
from bayesprune.methods.wanda import wanda
from networks import Conv1D
from torch import nn

F64 = torch.float64


class Product(Conv1D):
    """The same with an operator, and no bias of its own operation."""

    def forward(self, x):
        return x @ self.weight + self.bias


class Summed(nn.Module):
    """(N, T, C) to (N, C)."""

    def forward(self, x):
        return x.mean(1)


def networks(kind=Conv1D, double=True):
    """Two layers on tokens held transposed, and the same as linear layers."""
    torch.manual_seed(0)
    transposed = nn.Sequential(kind(8, 4), nn.Tanh(), kind(3, 8), Summed())
    plain = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), Summed())
    with torch.no_grad():
        for i in (0, 2):
            plain[i].weight.copy_(transposed[i].weight.T)
            plain[i].bias.copy_(transposed[i].bias)
    return transposed.double().eval(), plain.double().eval()


def data(n=12):
    generator = torch.Generator().manual_seed(1)
    return Split(torch.randn(n, 5, 4, generator=generator, dtype=F64), torch.randint(0, 3, (n,), generator=generator))


def like(name, tensor, shape):
    return tensor.view(shape).T if "weight" in name else tensor.view(shape)


@pytest.mark.parametrize("kind", [Conv1D, Product])
def test_curvature_is_that_of_the_linear_layers(kind):
    transposed, plain = networks(kind)
    x, y = data().x, data().y
    ours, theirs = diagonal(transposed, x, y), diagonal(plain, x, y)
    for name, found in ours.items():
        torch.testing.assert_close(found.T if "weight" in name else found, theirs[name])
    ours, theirs = kfac(transposed, x, y), kfac(plain, x, y)
    no_prior = torch.zeros(sum(ours.sizes), dtype=F64)
    parts = [c.precision(no_prior).split(c.sizes) for c in (ours, theirs)]
    for name, found, expected in zip(ours.blocks, *parts, strict=True):
        shape = transposed.get_parameter(name).shape
        torch.testing.assert_close(like(name, found, shape), expected.view_as(plain.get_parameter(name)))


@pytest.mark.parametrize("sums", [SquaredGradients, KroneckerSums])
def test_nothing_is_left_to_one_example_at_a_time(sums):
    transposed, _ = networks()
    sink = sums(dict(transposed.named_parameters()))
    assert not send_back(sink, transposed, data(), "ggn", None)
    assert not sink.fallback


def test_tokens_that_no_batch_stands_behind_are_taken_one_by_one():
    """Tokens whose order nothing says: the times come first."""

    class Turned(Conv1D):
        def forward(self, x):
            turned = x.transpose(0, 1).reshape(-1, x.shape[-1])
            return torch.addmm(self.bias, turned, self.weight).view(x.shape[1], len(x), -1).transpose(0, 1)

    transposed, plain = networks(Turned)
    x, y = data().x, data().y
    ours, theirs = diagonal(transposed, x, y), diagonal(plain, x, y)
    torch.testing.assert_close(ours["0.weight"].T, theirs["0.weight"])
    torch.testing.assert_close(ours["0.bias"], theirs["0.bias"])


def states(damping=0.01):
    return [State(net, weight_units(net), data(), LayerErrors(1.0, damping=damping)) for net in networks()]


@pytest.mark.parametrize("score", [wanda, obc])
def test_scores_are_those_of_the_linear_layers(score):
    ours, theirs = (dict(zip(s.units.layer_names, s.units.split(score(s)), strict=True)) for s in states())
    for name, found in ours.items():
        shape = (4, 8) if name.startswith("0") else (8, 3)
        torch.testing.assert_close(found.view(shape).T.flatten(), theirs[name])


def test_outputs_keep_the_same_share():
    ours, theirs = states()
    for allocation, keep in (("rowwise", 24), ("2:4", 28)):
        kept, expected = (select(wanda(s), s, keep, allocation) for s in (ours, theirs))
        for found, other, shape in zip(ours.units.split(kept), theirs.units.split(expected), ((4, 8), (8, 3)),
                                       strict=True):  # fmt: skip
            assert torch.equal(found.view(shape).T.flatten(), other)
    assert two_of_four(wanda(ours), ours, 28).sum() == 28
