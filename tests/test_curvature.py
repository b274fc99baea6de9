"""The curvature diagonal against explicit Jacobians, an explicit Hessian of a linear model, and laplace-torch."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.datasets.registry import UsageError
from bayesprune.methods import curvature
from bayesprune.methods.curvature import diagonal
from bayesprune.methods.squared_gradients import SquaredGradients
from oracles import flat, jacobians, tiny_conv_net
from torch import nn

FAMILIES = [
    ("mlp", {}),
    ("lenet5", {}),
    ("resnet", {}),
    ("resnet", {"norm": "group"}),
    ("resnet", {"norm": "fixup"}),
    ("vit", {}),
    ("mixer", {}),
]


def batch(n=6, shape=(1, 4, 4), classes=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (n,), generator=generator)


def explicit(network, x, y, kind):
    network = network.eval()
    j, _ = jacobians(network, x)
    p = network(x).detach().softmax(1)
    if kind == "ef":
        v = nn.functional.one_hot(y, p.shape[1]) - p
        return torch.einsum("ncp,nc->np", j, v.to(j)).square().sum(0)
    hessian = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return torch.einsum("ncp,ncd,ndp->p", j, hessian, j)


@pytest.mark.parametrize("kind", ["ggn", "ef"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_equals_explicit_jacobians(kind, batch_norm):
    network = tiny_conv_net(batch_norm)
    x, y = batch()
    found = flat(diagonal(network, x, y, kind=kind).values())
    torch.testing.assert_close(found, explicit(network, x, y, kind), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_every_family_against_explicit_jacobians(family, options):
    network = build(family, (1, 8, 8), 3, seed=0, **options).double().eval()
    for p in network.parameters():  # no zeros of an initialisation may hide a mistake
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype)
    x, y = batch(2, (1, 8, 8), 3)
    found = diagonal(network, x, y)
    expected = explicit(network, x, y, "ggn").split([p.numel() for p in network.parameters()])
    for (name, value), oracle in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(value.flatten(), oracle, rtol=1e-8, atol=1e-12, msg=name)


def test_gaussian_likelihood_of_a_linear_model_is_its_hessian():
    network = nn.Linear(3, 2, dtype=torch.float64)
    x = torch.randn(7, 3, dtype=torch.float64)
    found = diagonal(network, x, torch.zeros(7, 2, dtype=torch.float64), "gaussian")
    torch.testing.assert_close(found["weight"], x.square().sum(0).expand(2, 3))
    torch.testing.assert_close(found["bias"], torch.full((2,), 7.0, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["mc", "rademacher"])
def test_random_kinds_are_unbiased(kind):
    network = nn.Linear(3, 4, dtype=torch.float64)
    x, y = batch(4, (3,))
    exact = flat(diagonal(network, x, y).values())
    many_x, many_y = x.repeat(8000, 1), y.repeat(8000)
    draws = (
        flat(diagonal(network, many_x, many_y, kind=kind, generator=torch.Generator().manual_seed(0)).values()) / 8000
    )
    torch.testing.assert_close(draws, exact, rtol=0.05, atol=1e-3)


def test_batches_and_order_do_not_matter(monkeypatch):
    network, (x, y) = tiny_conv_net(), batch(16)
    whole = flat(diagonal(network, x, y).values())
    order = torch.randperm(16)
    for size in (1, 5):
        monkeypatch.setattr(curvature, "BATCH", size)
        torch.testing.assert_close(flat(diagonal(network, x[order], y[order]).values()), whole, rtol=1e-12, atol=0)


def test_laplace_torch_agrees():
    laplace = pytest.importorskip("laplace")
    from laplace.curvature import CurvlinopsGGN

    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(20, 5), torch.randint(0, 3, (20,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=20)
    reference = laplace.Laplace(network, "classification", "all", "diag", backend=CurvlinopsGGN)
    reference.fit(loader)
    torch.testing.assert_close(flat(diagonal(network, x, y).values()).float(), reference.H, rtol=1e-4, atol=1e-6)


def test_leaves_modes_and_gradients_alone():
    network, (x, y) = tiny_conv_net(True).train(), batch()
    network[2].eval()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    diagonal(network, x, y)
    assert network.training
    assert not network[2].training
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_frozen_parameters_are_left_out():
    network, (x, y) = tiny_conv_net(), batch()
    network[0].weight.requires_grad_(False)
    found = diagonal(network, x, y)
    assert "0.weight" not in found
    network[0].weight.requires_grad_(True)
    torch.testing.assert_close(found["7.weight"], diagonal(network, x, y)["7.weight"])


def test_bad_input_is_refused():
    network, (x, y) = tiny_conv_net(), batch()
    with pytest.raises(UsageError, match="at least one example"):
        diagonal(network, x[:0], y[:0])
    with pytest.raises(UsageError, match="generator"):
        diagonal(network, x, y, kind="mc")
    with pytest.raises(ArithmeticError, match="not finite"):
        diagonal(network, x * float("inf"), y)
    with pytest.raises(UsageError, match="frozen"):
        diagonal(network.requires_grad_(False), x, y)


class Odd(nn.Module):
    """Tied weights, a grouped and a strided convolution, an embedding, and operations that nobody foresaw."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 6)
        self.grouped = nn.Conv1d(6, 6, 1)
        self.convolution = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False)
        self.same = nn.Conv2d(4, 4, 3, padding="same")
        self.tied = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.rand(6))
        self.power = nn.Parameter(torch.rand(6))
        self.head = nn.Linear(6 + 4, 3)

    def forward(self, x):
        tokens = self.table((x.flatten(1)[:, :7] * 3).round().long().abs() % 5)
        tokens = self.tied(self.tied(tokens).tanh()) * self.scale + tokens.abs() ** self.power
        tokens = self.grouped(tokens.transpose(1, 2)).mean(2)
        return self.head(torch.cat([tokens, self.same(self.convolution(x)).mean((2, 3))], 1))


def test_unforeseen_operations_and_tied_weights_are_exact_too():
    torch.manual_seed(0)
    network = Odd().double()
    x, y = batch(5, (2, 5, 5), 3)
    found = diagonal(network, x, y)
    expected = explicit(network, x, y, "ggn").split([p.numel() for p in network.parameters()])
    for (name, value), oracle in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(value.flatten(), oracle, rtol=1e-8, atol=1e-13, msg=name)


@pytest.mark.parametrize("model", ["convnext_atto", "mobilenetv3_small_050"])
def test_networks_of_timm_against_explicit_jacobians(model):
    network = build(f"timm/{model}", (3, 32, 32), 2, seed=0).double().eval()
    x, y = batch(1, (3, 32, 32), 2)
    found = flat(diagonal(network, x, y).values())
    torch.testing.assert_close(found, explicit(network, x, y, "ggn"), rtol=1e-6, atol=1e-12)


def test_our_own_families_need_no_fallback():
    for family, options in FAMILIES:
        network = build(family, (1, 8, 8), 3, seed=0, **options).eval()
        collected = SquaredGradients(curvature.trainable(network))
        with collected:
            network(torch.randn(2, 1, 8, 8))
        assert not collected.fallback, family


def test_a_recurrent_network_against_explicit_jacobians():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    torch.manual_seed(0)
    network = Reader().double()
    x, y = batch(4, (5, 3), 3)
    found = flat(diagonal(network, x, y).values())
    torch.testing.assert_close(found, explicit(network, x, y, "ggn"), rtol=1e-8, atol=1e-13)
