"""The hooks of the engine: rewinding, growing, stopping, and inferences that own their step."""

import itertools
from dataclasses import replace

import pytest
import torch
from bayesprune.bench.harness.workbench import Workbench
from bayesprune.bench.pruning.rewind import past
from bayesprune.bench.pruning.schedules import prune
from bayesprune.bench.results.store import Store
from bayesprune.bench.spec.run import Choice, Run
from bayesprune.bench.spec.settings import Finetune, Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import NotApplicable, UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.ivon import IVON
from bayesprune.methods.laplace.evidence import evidence_at
from bayesprune.methods.magnitude import magnitude
from bayesprune.methods.set import by_gradient
from torch import nn

DATA = load("digits", 0, subset=120)
MLP = Choice(name="mlp", options={"widths": [16, 12]})


def bench(tmp_path, method, architecture=MLP, epochs=4, schedule="constant", units="weights", **options):
    run = Run(
        dataset=Choice(name="digits", options={"subset": 120}), architecture=architecture, sparsity=0.5, seed=0,
        method=Choice(name=method, options=options), units=units, finetune=Finetune(epochs=1),
        training=Training(epochs=epochs, lr=3e-3, schedule=schedule),
    )  # fmt: skip
    return Workbench(run, DATA, Store(tmp_path), torch.device("cpu"))


def weights(network):
    return {name: p.detach().clone() for name, p in network.named_parameters()}


# ---------------------------------------------------------------------- rewinding


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_rewinding_to_the_start_with_nothing_removed_is_the_training(schedule, tmp_path):
    """Same values, same order, same schedule, same noise: bit for bit, with dropout-like draws of mean field too."""
    for method in ("magnitude", "mean-field"):
        cell = bench(tmp_path, method, schedule=schedule, rewind="initial")
        outcome = cell.prune(0.0)
        trained, inference = cell.fit.restore(DATA, torch.device("cpu"))
        inference.detach(trained)
        for name, value in weights(trained).items():
            assert torch.equal(outcome.network.get_parameter(name), value), (method, name)


@pytest.mark.parametrize("architecture", [MLP, Choice(name="resnet", options={"width": 4})])
def test_survivors_start_from_the_epoch_and_its_rest_follows(architecture, tmp_path, monkeypatch):
    cell = bench(tmp_path, "magnitude", architecture, rewind=2, rounds=2)
    seen, from_epoch = [], past(cell.engine)
    short = cell.run.model_copy(update={"training": Training(epochs=2, lr=3e-3)})
    two = Workbench(short, DATA, Store(tmp_path), torch.device("cpu")).fit.network_state
    assert all(torch.equal(from_epoch.kept.network[n], t) for n, t in two.items())

    def watch(*arguments):
        seen.append((weights(arguments[0]), arguments))
        train(*arguments)

    monkeypatch.setattr("bayesprune.bench.pruning.rewind.train", watch)
    outcome = prune(cell.engine, 0.6)
    starts = [s for s in seen if s[1][-1] == 2]  # those that follow a rewinding
    assert len(starts) == 2
    for (start, call), kept in zip(starts[-1:], [outcome.mask.tensors], strict=True):
        assert call[4] == 2  # of four epochs
        for name, value in start.items():
            mask = kept.get(name, torch.ones_like(value, dtype=torch.bool))
            assert torch.equal(value, two[name] * mask)


def test_a_transplant_starts_from_other_values(tmp_path):
    cell = bench(tmp_path, "magnitude", rewind="transplant")
    other = past(cell.engine)
    assert not any(
        torch.equal(t, cell.untrained.state_dict()[n]) for n, t in other.kept.network.items() if n.endswith("weight")
    )
    assert cell.prune(0.5).mask.count == cell.engine.units.n // 2


@pytest.mark.parametrize(
    ("method", "given", "why"),
    [
        ("magnitude", {"rewind": -1}, "give an epoch, initial or transplant"),
        ("magnitude", {"rewind": "never"}, "give an epoch, initial or transplant"),
        ("snip", {"rewind": 0}, "use when='after'"),
        ("obs", {"rewind": 0}, "rewound or adjusted, not both"),
        ("magnitude", {"when": "dynamic"}, "needs a method that says what grows back"),
        ("rigl", {"when": "after"}, "needs a method that says what grows back"),
        ("rigl", {"adjust": "condition"}, "units may grow back"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(method, given, why):
    with pytest.raises(UsageError, match=why):
        build_pruner(method, **given)


def test_rewinding_beyond_the_training_is_refused(tmp_path):
    with pytest.raises(UsageError, match="rewind=4 lies beyond the 4 epochs"):
        bench(tmp_path, "magnitude", rewind=4).prune(0.5)


def test_a_network_of_ones_own_has_no_past():
    import bayesprune as bp

    examples = (DATA.train.x.flatten(1), DATA.train.y)
    with pytest.raises(UsageError, match=r"use bayesprune\.fit"):
        bp.prune(nn.Linear(64, 10), examples, "magnitude", 0.5, rewind=0, progress=False)
    with pytest.raises(UsageError, match="run it in a matrix"):
        bp.fit(nn.Linear(64, 10), examples, "magnitude", 0.5, epochs=2, rewind="transplant", progress=False)


def test_fit_goes_back_in_the_training_of_a_network_of_ones_own():
    import bayesprune as bp

    examples, network = (DATA.train.x.flatten(1), DATA.train.y), nn.Linear(64, 10)
    rewound = bp.fit(network, examples, "magnitude", 0.5, epochs=4, rewind=0, progress=False)
    trained = bp.fit(network, examples, "magnitude", 0.5, epochs=4, progress=False)
    assert torch.equal(rewound.mask.kept, trained.mask.kept)
    assert not torch.equal(rewound.network.weight, trained.network.weight)


# ---------------------------------------------------------------------- growing


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_weights_are_exchanged_and_counts_stay(method, tmp_path):
    cell = bench(tmp_path, method, epochs=8)
    masks = []
    settle = cell.engine.settle
    cell.engine.settle = lambda outcome, part=0: (masks.append(outcome.mask), settle(outcome, part))[1]
    outcome = cell.prune(0.8)
    assert len(masks) == 1 + 6  # the first, and until three quarters of nine epochs
    densities = [m.layer_density() for m in masks]
    assert all(d == densities[0] for d in densities)
    moved = [int((a.kept & ~b.kept).sum()) for a, b in itertools.pairwise(masks)]
    assert moved[0] > moved[-1]
    assert moved[0] > 0
    for name, kept in outcome.mask.tensors.items():
        assert not outcome.network.get_parameter(name).detach()[~kept].any()
    assert any((masks[0].kept != outcome.mask.kept).tolist())


def test_the_gradient_of_absent_weights_is_the_losss(tmp_path):
    cell = bench(tmp_path, "rigl")
    state = cell.engine.first.state
    worth = by_gradient(state, None, examples=len(DATA.train))
    network = state.network.eval()
    nn.functional.cross_entropy(network(DATA.train.x), DATA.train.y).backward()
    expected = state.units.gather({n: p.grad.abs() for n, p in network.named_parameters()})
    torch.testing.assert_close(worth, expected, rtol=1e-4, atol=1e-7)


def test_whole_units_do_not_grow(tmp_path):
    with pytest.raises(NotApplicable, match="single weights"):
        bench(tmp_path, "rigl", units="groups").prune(0.5)


def test_what_an_optimiser_remembers_of_the_newborn_is_nothing():
    from bayesprune.architectures.discovery.units_of import weight_units
    from bayesprune.architectures.units.mask import Mask
    from bayesprune.bench.training.steps import clear_newborn_

    network = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    units = weight_units(network)
    old, new = (Mask(units, torch.arange(12) >= n) for n in (6, 3))
    clear_newborn_(optimizer, network, old, new)
    memory = optimizer.state[network.weight]["exp_avg"].flatten()
    assert not memory[3:6].any()
    assert memory[:3].any()
    assert memory[6:].any()


# ---------------------------------------------------------------------- stopping


def test_rounds_end_when_the_method_says_so(tmp_path):
    cell = bench(tmp_path, "magnitude", rounds=5)
    cell.engine.pruner = replace(
        cell.engine.pruner, decide=lambda state: magnitude(state) > 0.05, report=lambda state: {"seen": 1},
        stop=lambda reports: len(reports) > 3,
    )  # fmt: skip
    outcome = cell.prune(None)
    assert len(outcome.reports) == 4


def test_the_free_energy_ends_rounds_that_make_it_fall(tmp_path):
    cell = bench(tmp_path, "bmr-laplace", epochs=20, stop="evidence", rounds=30)
    cell.engine.finetune = Finetune(epochs=30)
    outcome = cell.prune(None)
    found = [report["log_evidence"] for report in outcome.reports]
    assert 1 < len(found) < 30
    assert all(b > a for a, b in itertools.pairwise(found[:-1]))
    assert found[-1] <= found[-2]
    state = cell.engine.first.state
    expected = evidence_at(state.network, state.train, "diag", "ggn", torch.Generator())
    value = expected.value(
        torch.cat([p.flatten() for p in state.posterior.prior.values()]), torch.zeros((), dtype=torch.float64)
    )
    assert found[0] == pytest.approx(float(value), rel=1e-9)


# ---------------------------------------------------------------------- a step of one's own


def test_ivon_finds_the_curvature_of_a_quadratic():
    """Diagonal quadratic with known h*: the mean of h/h* over the last steps is 1, and h stays positive."""
    torch.manual_seed(0)
    network = nn.Linear(6, 1, bias=False)
    target, curve = torch.linspace(-1, 1, 6), torch.tensor([0.5, 1.0, 2.0, 4.0, 1.5, 3.0])
    inference = IVON(precision=2.0, start=1.0, lr_factor=1.0)
    inference.attach(network, None, Split(torch.zeros(200, 6), torch.zeros(200, 1)))
    optimizer = inference.optimizer(list(network.parameters()), 0.1, 6000)
    optimizer.beta2 = 0.999
    total, least = torch.zeros(6), float("inf")
    for i in range(6000):
        with inference.perturbed(network):
            network.zero_grad()
            (0.5 * curve * (network.weight[0] - target).square()).sum().backward()
        optimizer.step()
        least = min(least, float(inference.h["weight"].min()))
        total += inference.h["weight"][0] if i >= 3000 else 0
    assert (total / 3000 / curve).tolist() == pytest.approx([1.0] * 6, abs=0.06)
    assert least > 0
    mode = curve * target / (curve + inference.decay)
    torch.testing.assert_close(network.weight.detach()[0], mode, atol=0.05, rtol=0.1)
    posterior = inference.posterior(network, None)
    torch.testing.assert_close(posterior.precision["weight"], 200 * inference.h["weight"].double() + 2.0)


@pytest.mark.parametrize("method", ["ivon-opd", "ivon-bmr"])
def test_ivon_trains_and_reports_what_became_of_its_variances(method, tmp_path):
    few = bench(tmp_path, method, epochs=20, lr_factor=30.0)  # for a learning rate three times the usual one
    run = few.run.model_copy(update={"dataset": Choice(name="digits")})
    cell = Workbench(run, load("digits", 0), Store(tmp_path), torch.device("cpu"))
    outcome = cell.prune(None if method == "ivon-bmr" else 0.5)
    spread = next(iter(cell.fit.learned["h"].values()))
    assert spread[0] < spread[2]
    assert cell.fit.dense["accuracy"] > 0.85
    assert 0 < outcome.mask.count < outcome.mask.units.n


def test_ivon_keeps_zeros(tmp_path):
    cell = bench(tmp_path, "ivon-opd")
    network, inference = cell.engine.start()
    mask = cell.engine.mask(cell.engine.first, 0.5)
    inference.reduce(network, mask)
    mask.apply_(network)
    with inference.perturbed(network):
        assert all(not network.get_parameter(n).detach()[~m].any() for n, m in mask.tensors.items())


def test_bad_hyperparameters_of_ivon():
    with pytest.raises(UsageError, match="must be positive"):
        IVON(precision=0.0)
