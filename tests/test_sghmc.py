"""SGHMC: the chain's stationary moments against closed forms, exact posteriors, and what is done with draws."""

import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import leave, train
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.sghmc import SGHMC, Steps
from torch import nn

F64 = torch.float64
CURVES = torch.tensor([0.5, 2.0, 20.0], dtype=F64)
CHAINS = 3000


def second_moments(lr, friction, heat, curve):
    """Covariance of (θ, v) in stationarity: the fixed point of P ← F P F' + Q of the linear map, by doubling."""
    f = torch.tensor([[1 - lr * curve, 1 - friction], [-lr * curve, 1 - friction]], dtype=F64)
    total = 2 * friction * lr * heat * torch.ones(2, 2, dtype=F64)
    for _ in range(30):
        total, f = total + f @ total @ f.T, f @ f
    return total


@pytest.mark.parametrize("friction", [0.1, 0.6, 1.0])
def test_stationary_moments_on_a_quadratic(friction):
    """Chains on ½ λ θ²: variance and autocorrelation are the docstring's, and those of the linear map.

    3,000 chains, 40 draws far apart: the standard error of a variance is below 0.5 %.
    """
    lr, heat = 0.05, 2.0 / 500
    theta = nn.Parameter(torch.zeros(3, CHAINS, dtype=F64))
    chain = Steps([theta], lr, friction, heat)
    torch.manual_seed(0)
    square, lagged, velocity, draws = torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64), torch.zeros(3, dtype=F64), 0
    for step in range(2600):
        before = theta.detach().clone()
        theta.grad = CURVES.unsqueeze(1) * theta.detach()
        chain.step()
        if step >= 600 and step % 50 == 0:
            draws += 1
            square += theta.detach().square().mean(1)
            lagged += (theta.detach() * before).mean(1)
            velocity += chain.state[theta]["velocity"].square().mean(1)
    closed = heat / CURVES / (1 - lr * CURVES / (2 * (2 - friction)))
    linear = torch.stack([second_moments(lr, friction, heat, float(c)) for c in CURVES])
    torch.testing.assert_close(linear[:, 0, 0], closed, rtol=1e-9, atol=0)
    torch.testing.assert_close(square / draws, closed, rtol=0.03, atol=0)
    torch.testing.assert_close(velocity / draws, linear[:, 1, 1], rtol=0.03, atol=0)
    torch.testing.assert_close(lagged / square, 1 - lr * CURVES / (2 - friction), rtol=0.03, atol=0.01)


def regression(n=40, d=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=generator, dtype=F64)
    y = x @ torch.tensor([1.0, -0.5, 0.2], dtype=F64) + torch.randn(n, generator=generator, dtype=F64)
    return Split(x, y.unsqueeze(1), "gaussian")


def test_linear_regression_has_its_exact_posterior():
    """Through the loop, full batches, one draw each epoch: N((X'X + δ)⁻¹ X'y, T (X'X + δ)⁻¹), noise variance 1."""
    data, delta, temperature, epochs = regression(), 3.0, 0.5, 8_000
    torch.manual_seed(0)
    network = nn.Linear(3, 1, bias=False, dtype=F64)
    inference = SGHMC(delta, rank=epochs, share=0.95, friction=0.4, temperature=temperature, lr_factor=1.0)
    inference.attach(network, units(network, "weights"), data)
    settings = Training(epochs=epochs, batch_size=len(data), lr=0.1)
    train(network, data, inference, settings, epochs, torch.Generator().manual_seed(0))
    precision = data.x.T @ data.x + delta * torch.eye(3, dtype=F64)
    mode = torch.linalg.solve(precision, data.x.T @ data.y).squeeze(1)
    drawn = inference.latest[: inference.count].double()
    assert inference.count == epochs * 0.95
    deviation = torch.linalg.inv(precision).diagonal().mul(temperature).sqrt()
    assert bool(((network.weight.detach()[0] - mode).abs() < 0.1 * deviation).all())
    torch.testing.assert_close(
        drawn.T.cov(), temperature * torch.linalg.inv(precision), rtol=0.1, atol=0.05 * float(deviation.square().max())
    )
    found = inference.posterior(network, data)  # its diagonal is the variance; correlations are halved, as SWAG's
    expected = 0.5 * (drawn.T.cov() + drawn.T.cov().diagonal().diag())
    torch.testing.assert_close(found.covariance, expected, rtol=2e-3, atol=1e-6)


def test_what_has_left_stays_zero_while_the_chain_goes_on():
    data = load("digits", 0, subset=100)
    network = build("mlp", data.input_shape, 10, seed=0, widths=[5])
    parts, inference = units(network, "weights"), SGHMC(1.0, share=0.5)
    inference.attach(network, parts, data.train)
    torch.manual_seed(3)
    settings = Training(epochs=10, batch_size=50)
    train(network, data.train, inference, settings, 10, torch.Generator().manual_seed(0))
    mask = Mask(parts, torch.arange(parts.n) % 3 > 0)
    leave(network, inference, mask)
    train(network, data.train, inference, settings, 5, torch.Generator().manual_seed(1), mask, past=10)
    assert inference.count == 5  # of the training that went on
    q, drawn = inference.posterior(network, data.train), inference.sample(network, torch.Generator().manual_seed(0))
    for name, kept in mask.tensors.items():
        for found in (network.get_parameter(name).detach(), drawn[name], q.mean[name]):
            assert not found[~kept].any()
            assert bool(found[kept].all())


def test_a_step_is_momentum_where_it_is_cold():
    """At no heat the parameters are those of torch's SGD with momentum 1 - α."""
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    chain, sgd = Steps([ours], 0.1, 0.2, 0.0), torch.optim.SGD([theirs], 0.1, momentum=0.8)
    for _ in range(20):
        for p, optimizer in ((ours, chain), (theirs, sgd)):
            optimizer.zero_grad()
            (p.square() * torch.arange(1, 6)).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"friction": 1.5}, "friction must be a share"),
        ({"friction": 0.0}, "friction"),
        ({"temperature": -1.0}, "temperature"),
        ({"lr_factor": math.inf}, "lr_factor"),
        ({"share": 2.0}, "share must be"),
    ],
)
def test_bad_values_are_refused(given, why):
    with pytest.raises(UsageError, match=why):
        build_pruner("sghmc-obs", **given)
