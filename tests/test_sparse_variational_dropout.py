"""Training under variational dropout: its gradient, warm-up, mask and decision; collapse is recorded, not failed."""

import logging
import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.harness import run_matrix as harness
from bayesprune.bench.results.frames import results
from bayesprune.bench.spec.matrix import Matrix
from bayesprune.bench.spec.settings import Finetune, Training
from bayesprune.bench.training.loop import train as fit
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.dawson import slope
from bayesprune.methods.pruner import State
from bayesprune.methods.variational.weight_dropout import CLAMP, INITIAL, SMALL, VariationalDropout, kl
from torch import nn


def attached(**options):
    network = build("mlp", (20,), 3, seed=0, widths=(10, 8)).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 20, generator=generator, dtype=torch.float64)
    train = Split(x, torch.arange(30) % 3)
    inference = VariationalDropout(**options)
    inference.attach(network, weight_units(network), train)
    with torch.no_grad():
        inference.log_sigma += 3 * torch.randn(inference.log_sigma.shape, generator=generator, dtype=torch.float64)
    return network, inference, train


def gradients(network, inference, train, add):
    """Gradients of the means and of log σ that `add` leaves after a backward pass of a loss of zero."""
    own = [network.get_parameter(name) for name in inference.names] + [inference.log_sigma]
    for parameter in (*network.parameters(), inference.log_sigma):
        parameter.grad = None
    network.train()
    (0 * network(train.x).sum()).backward()
    add()
    return torch.cat([parameter.grad.flatten() for parameter in own])


@pytest.mark.parametrize("pruned", [False, True])
def test_the_gradient_in_closed_form_is_that_of_the_divergence(pruned):
    network, inference, train = attached(warm_up=(0, 0), kl=0.7)
    if pruned:
        units = weight_units(network)
        mask = Mask(units, torch.rand(units.n, generator=torch.Generator().manual_seed(1)) > 0.4)
        inference.reduce(network, mask)
        mask.apply_(network)
    closed = gradients(network, inference, train, inference.penalizer(network, 0.01))
    by_autograd = gradients(network, inference, train, lambda: (0.01 * inference.penalty(network)).backward())
    torch.testing.assert_close(closed, by_autograd, rtol=1e-8, atol=1e-11)
    log_alpha = torch.cat([a.flatten() for a in inference._log_alpha(network).detach().split(1)])
    outside = log_alpha > CLAMP
    assert outside.any()
    assert (log_alpha < -CLAMP).any()
    assert (closed[-len(log_alpha) :][outside] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_slope_is_the_derivative_of_the_divergence(dtype):
    log_alpha = torch.linspace(-12, 12, 2001, dtype=torch.float64, requires_grad=True)
    expected = -torch.autograd.grad(kl(log_alpha).sum(), log_alpha)[0]
    variance = torch.tensor(0.3, dtype=dtype).expand(2001)
    found = slope((variance.double() * (-log_alpha.detach()).exp()).to(dtype), variance, 8.0)
    expected = torch.where(log_alpha.detach() < 8, expected, 0.0)
    inside = (log_alpha.detach() - 8).abs() > 1e-4
    tolerance = 1e-12 if dtype == torch.float64 else 3e-6
    torch.testing.assert_close(found.double()[inside], expected[inside], rtol=tolerance, atol=tolerance / 10)
    assert slope(torch.zeros(3), torch.zeros(3), 8.0).tolist() == [0, 0, 0]
    assert slope(torch.ones(3, dtype=dtype), torch.zeros(3, dtype=dtype), 8.0).tolist() == [0.5] * 3  # as α → 0


def test_the_warm_up_rises_linearly_and_survives_a_store():
    network, inference, train = attached(warm_up=(5, 20), kl=0.5)
    found = []
    for epoch in range(25):
        found.append(inference.beta)
        inference.update(network, train, epoch + 1)
    assert found[:6] == [0.0] * 6
    assert found[6:20] == pytest.approx([0.5 * (e - 5) / 15 for e in range(6, 20)])
    assert found[20:] == [0.5] * 5
    other = VariationalDropout(warm_up=(5, 20), kl=0.5)
    other.attach(network, weight_units(network), train)
    assert other.beta == 0
    other.load_tensors(inference.tensors())
    assert other.beta == 0.5
    assert torch.equal(other.log_sigma, inference.log_sigma)


def test_the_two_starts():
    network, *_ = attached()
    fresh = VariationalDropout()
    fresh.attach(network, weight_units(network), Split(torch.zeros(2, 20), torch.zeros(2).long()))
    torch.testing.assert_close(fresh._log_alpha(network), torch.full_like(fresh.log_sigma, INITIAL["network"]))
    torch.manual_seed(0)
    fresh = VariationalDropout(weights="small")
    large = build("mlp", (100,), 3, seed=0, widths=(100,))
    fresh.attach(large, weight_units(large), Split(torch.zeros(2, 100), torch.zeros(2).long()))
    assert large.layers[0].weight.std().item() == pytest.approx(SMALL, rel=0.05)
    assert (2 * fresh.log_sigma == INITIAL["small"]).all()


def test_scores_are_minus_log_alpha_and_of_groups_from_summed_moments():
    network, inference, train = attached()
    pruner = build_pruner("variational-dropout")
    score = pruner.score(State(network, weight_units(network), train, inference))
    torch.testing.assert_close(score, -inference._log_alpha(network).detach(), rtol=1e-6, atol=1e-8)
    assert pruner.keep_above == -3
    groups = group_units(network)
    found = pruner.score(State(network, groups, train, inference))
    weight, reader = network.layers[0].weight, network.layers[1].weight
    sigma = inference.sigma()
    squares = weight.square().sum(1) + reader.square().sum(0)
    variances = sigma["layers.0.weight"].square().sum(1) + sigma["layers.1.weight"].square().sum(0)
    torch.testing.assert_close(found[:10], (squares / variances).log().detach())


def test_bad_options_and_cold_or_short_warm_ups_are_said(caplog):
    for form in ("hron", "kingma"):
        with pytest.raises(UsageError, match=f"form of the divergence '{form}'; known: exact, molchanov"):
            VariationalDropout(form=form)
    with pytest.raises(UsageError, match="two epochs in order"):
        VariationalDropout(warm_up=(7, 3))
    with pytest.raises(UsageError, match="finite number >= 0, got -1"):
        VariationalDropout(kl=-1)
    with caplog.at_level(logging.WARNING, logger="bayesprune"):
        VariationalDropout(warm_up=(0, 0))
        assert not caplog.records  # to name is not to train
        attached(warm_up=(0, 0))
        assert "usually removes every weight" in caplog.text
        caplog.clear()
        network, inference, train = attached()
        inference.update(network, train, 12)
        inference.learned(network)
        assert "in the warm-up of the divergence, at 0.47 of its weight" in caplog.text


def run(tmp_path, epochs=60, **options):
    m = Matrix(
        datasets=[{"name": "digits", "subset": 400}], architectures=[{"name": "mlp", "widths": [20]}],
        methods=[{"name": "variational-dropout", "weights": "small", **options}], sparsity=["auto"], seeds=[0],
        training=Training(epochs=epochs, lr=1e-2), finetune=Finetune(epochs=0), shift=False,
    )  # fmt: skip
    harness.run(m, tmp_path / "r", jobs=1)
    (record,) = results(tmp_path / "r").to_dict("records")
    assert record["status"] == "done", record["reason"]
    return record


def test_with_a_warm_up_a_sparse_network_that_still_works(tmp_path):
    record = run(tmp_path, kl=1.0)
    assert record["compression"] > 4
    assert record["accuracy"] > 0.75
    assert record["mc_draws"] == 50
    assert record["mc_accuracy"] > 0.75
    assert math.isfinite(record["mc_nll"])
    assert record["learned"]["beta"] == 1
    assert record["learned"]["above"] == pytest.approx(record["sparsity"], abs=1e-9)


def test_what_had_little_noise_when_the_divergence_came_leaves_too(generator):
    """Half of the inputs mean nothing: their weights go, however small log α is at first."""
    x = torch.randn(400, 20, generator=generator)
    train = Split(x, (x[:, :10].sum(1) > 0).long())
    network, inference = build("mlp", (20,), 2, seed=0, widths=()), VariationalDropout(warm_up=(0, 1), start=-12.0)
    inference.attach(network, weight_units(network), train)
    fit(network, train, inference, Training(lr=0.02, batch_size=100), 250, generator)
    rates = inference._log_alpha(network).detach().view(2, 20)
    assert (rates[:, 10:] >= 3).all()
    assert (rates[:, :10].amin(0) < 3).all()


class Loose(nn.Module):
    """A layer that nothing reads, and one whose weight is read without a call of the layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(6, 5), nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, x):
        return self.second(torch.tanh(nn.functional.linear(x, self.first.weight, self.first.bias)))


@pytest.mark.parametrize("method", ["variational-dropout", "pip", "pip-gates"])
def test_layers_that_are_not_called_train(method, generator):
    x = torch.randn(60, 6, generator=generator)
    train, network = Split(x, (x[:, 0] > 0).long()), Loose()
    inference = build_pruner(method, warm_up=(0, 1)).inference()
    inference.attach(network, weight_units(network), train)
    before = network.unused.weight.detach().clone()
    fit(network, train, inference, Training(lr=1e-2, batch_size=20), 4, generator)
    assert not torch.equal(network.unused.weight, before)  # the divergence is of all weights
    seen = []
    network.second.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(x)
    network(x)
    assert not torch.equal(*seen)  # the first layer's weight has noise


def test_without_a_warm_up_the_collapse_is_recorded(tmp_path):
    # At 60 epochs rounding decides whether the last weight has left.
    record = run(tmp_path, 120, warm_up=[0, 0], kl=1.0)
    assert record["kept"] == 0
    assert record["sparsity"] == 1
    assert record["collapsed"] == ["layers.0.weight", "layers.1.weight"]
    assert math.isnan(record["compression"])  # there is no number for it
    assert record["accuracy"] < 0.2


@pytest.mark.slow
def test_random_labels_leave_nothing(tmp_path):
    """Molchanov et al. 2017: without a signal every weight goes, where other dropout memorises."""
    from bayesprune.datasets.load import load

    data = load("digits", seed=0)
    train = Split(
        data.train.x, data.train.y[torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))]
    )
    torch.manual_seed(0)
    network, inference = (
        build("mlp", data.input_shape, 10, seed=0, widths=(300, 100)),
        VariationalDropout(weights="small"),
    )
    inference.attach(network, weight_units(network), train)
    fit(network, train, inference, Training(lr=2e-3, schedule="cosine"), 200, torch.Generator().manual_seed(0))
    above = inference._log_alpha(network) >= 3
    assert above.all()
