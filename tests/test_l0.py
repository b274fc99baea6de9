"""Hard concrete gates: published probabilities, what the penalty counts, and that closed gates change nothing."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.harness.workbench import Workbench
from bayesprune.bench.results.store import Store
from bayesprune.bench.spec.run import Choice, Run
from bayesprune.bench.spec.settings import Finetune, Training
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.hard_concrete import CLOSED, draw, gate, open_probability
from bayesprune.methods.l0 import HardConcreteGates
from networks import assert_folds

F64 = torch.float64
LOG_ALPHA = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0], dtype=F64)


@pytest.fixture(scope="module")
def data():
    return load("digits", 0, subset=200)


def test_the_probability_of_an_open_gate_is_that_of_its_draws():
    uniform = torch.rand(200_000, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    z = draw(LOG_ALPHA, uniform)
    shares = (z > 0).double().mean(0), (z == 1).double().mean(0)
    torch.testing.assert_close(shares[0], open_probability(LOG_ALPHA), atol=4e-3, rtol=0)
    known = torch.tensor([0.197594, 0.645335, 0.831822, 0.930771, 0.990034], dtype=F64)
    torch.testing.assert_close(open_probability(LOG_ALPHA), known, atol=1e-6, rtol=0)
    full = torch.tensor([0.009966, 0.069229, 0.168178, 0.354665, 0.802406], dtype=F64)
    torch.testing.assert_close(shares[1], full, atol=4e-3, rtol=0)
    torch.testing.assert_close(gate(LOG_ALPHA), torch.tensor([0, 0.2227, 0.5, 0.7773, 1], dtype=F64), atol=1e-4, rtol=0)
    ends = torch.tensor([CLOSED - 1e-9, CLOSED + 1e-9], dtype=F64)
    assert (gate(ends) > 0).tolist() == [False, True]


def test_draws_at_the_ends_of_the_uniform_have_gradients():
    log_alpha = torch.zeros(3, requires_grad=True)
    z = draw(log_alpha, torch.tensor([0.0, 0.5, 1 - 2**-24]))
    z.sum().backward()
    assert z.tolist() == [0.0, 0.5, 1.0]
    assert torch.isfinite(log_alpha.grad).all()


def attached(name, data, **options):
    network = build(name, data.input_shape, 10, seed=0, **({"widths": [7, 5]} if name == "mlp" else {}))
    inference = HardConcreteGates(**options)
    inference.attach(network, weight_units(network), data.train)
    return network, inference


def test_the_penalty_counts_what_reads_each_structure(data):
    """Two hidden layers of 7 and 5 neurons, read by 5 and 10 weights each."""
    network, inference = attached("mlp", data, kl=0.3, precision=2.0)
    with torch.no_grad():
        inference.steps.copy_(torch.linspace(-4, 4, 12).unsqueeze(0))
    log_alpha = inference.values()[0]
    p = torch.sigmoid(log_alpha + 1.598597)
    expected = torch.zeros((), dtype=F64)
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    for reader, part, reads in ((layers[1], p[:7], 5), (layers[2], p[7:], 10)):
        expected += (part * (0.3 * reads + reader.weight.square().sum(0).double())).sum()
    free = [layers[0].weight, *(layer.bias for layer in layers)]
    expected += sum(parameter.square().sum() for parameter in free)
    torch.testing.assert_close(inference.penalty(network).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_penalty_is_lowered_to_what_examples_can_pay_for(data):
    """85 weights read the gates of 7 and 5 neurons, at 2 nats each."""
    for at_most, nats in ((0.5, 0.5 * data.train.terms), (1e3, 170.0), (None, 170.0)):
        network, inference = attached("mlp", data, kl=2.0, precision=0.0, at_most=at_most)
        with torch.no_grad():
            inference.steps.fill_(60.0)
        assert inference.penalty(network).item() == pytest.approx(nats)
        assert inference.learned(network)["lambda"] == pytest.approx(nats / 85)


def test_what_a_weight_costs_stays_when_others_leave(data):
    network, inference = attached("mlp", data, kl=2.0, precision=0.0, at_most=0.5)
    with torch.no_grad():
        inference.steps.fill_(60.0)
    before = inference.penalty(network).item()
    mask = Mask(inference.units, torch.arange(12) >= 7)
    inference.reduce(network, mask)
    assert inference.penalty(network).item() == pytest.approx(before * 50 / 85)


def test_only_the_authors_gates_cost_whatever_they_cost():
    suite, authors = (build_pruner("l0", preset=preset).inference() for preset in (None, "authors"))
    assert isinstance(suite, HardConcreteGates)
    assert isinstance(authors, HardConcreteGates)
    assert suite.at_most is not None
    assert (authors.kl, authors.at_most, authors.draws, authors.lr_factor, authors.closed) == (
        1.0, None, "minibatch", 1.0, 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet", "vit"])
def test_gates_of_evaluation_fold_into_what_reads(name, data):
    assert_folds(*attached(name, data), data.train[:16].x)


def test_its_own_decision_removes_what_is_closed_and_nothing_else(data, tmp_path):
    method = Choice(name="l0", options={"kl": 0.1, "lr_factor": 80.0})
    run = Run(
        dataset=Choice(name="digits", options={"subset": 200}), architecture=Choice(name="mlp"), method=method,
        sparsity="auto", seed=0, units="groups", training=Training(epochs=15), finetune=Finetune(epochs=0),
    )  # fmt: skip
    bench = Workbench(run, data, Store(tmp_path), torch.device("cpu"))
    network, inference = bench.fit.restore(data, torch.device("cpu"))
    with torch.no_grad():
        inference.detach(network)
        dense = network.eval()(data.train[:50].x)
        outcome = bench.prune(None)
        kept = outcome.network.eval()(data.train[:50].x)
    assert 0.1 < outcome.mask.sparsity < 0.95
    assert torch.equal(outcome.mask.kept, gate(bench.engine.first.state.posterior.log_alpha) > 0)
    torch.testing.assert_close(kept, dense)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UsageError, match="closed must be a share"):
        HardConcreteGates(closed=0.0)
    with pytest.raises(UsageError, match="at_most must be positive"):
        HardConcreteGates(at_most=0.0)


def test_gates_that_never_closed_say_so(data):
    _, inference = attached("mlp", data)
    assert "no gate had closed" in (inference.unfinished() or "")
    with torch.no_grad():
        inference.steps[0, 3] = -10.0
    assert inference.unfinished() is None
    assert units(build("mlp", (1, 8, 8), 10, seed=0, widths=[7, 5]), "groups").n == inference.units.n
