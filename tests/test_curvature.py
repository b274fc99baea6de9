"""The curvature diagonal against explicit Jacobians, an explicit Hessian of a linear model, and laplace-torch."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.datasets.registry import UsageError
from bayesprune.methods import curvature
from bayesprune.methods.curvature import diagonal
from oracles import flat, jacobians, tiny_conv_net
from torch import nn

FAMILIES = ["mlp", "lenet5", "resnet", "vit", "mixer"]


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


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_against_explicit_jacobians(family):
    network = build(family, (1, 8, 8), 3, seed=0).double().eval()
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
        monkeypatch.setattr(curvature, "_chunk_size", lambda *_, size=size: size)
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
