"""SpaM against exact Gaussian evidence, automatic relevance determination in closed form, and autograd."""

import math

import pytest
import torch
from bayesprune.architectures.units import weight_units
from bayesprune.datasets.data import Split
from bayesprune.datasets.registry import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.evidence import effective_parameters, log_evidence, log_evidence_gradient, log_likelihood
from bayesprune.methods.priors import LogPrecisions
from bayesprune.methods.pruner import State
from bayesprune.methods.spam import SpaM
from torch import nn

STRUCTURES = ["scalar", "layerwise", "unitwise", "parameterwise"]
F64 = torch.float64


def design(orthogonal, n=30, p=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, dtype=F64, generator=generator)
    if orthogonal:
        x = torch.linalg.qr(x)[0] * torch.tensor([1.0, 2.0, 5.0, 0.5], dtype=F64)
    y = x @ torch.tensor([[1.0], [0.0], [2.0], [-3.0]], dtype=F64) + 0.5 * torch.randn(
        n, 1, dtype=F64, generator=generator
    )
    return x, y


def mode_of(x, y, delta, noise):
    return torch.linalg.solve(x.T @ x / noise**2 + torch.diag(delta), x.T @ y / noise**2)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_evidence_of_a_linear_model_is_exact_iff_its_design_is_orthogonal(orthogonal):
    """log N(y; 0, s² I + X D⁻¹ X')."""
    x, y = design(orthogonal)
    delta, noise = torch.tensor([0.5, 2.0, 0.1, 30.0], dtype=F64), torch.tensor(0.7, dtype=F64)
    covariance = noise**2 * torch.eye(len(x), dtype=F64) + x @ torch.diag(1 / delta) @ x.T
    exact = torch.distributions.MultivariateNormal(torch.zeros(len(x), dtype=F64), covariance).log_prob(y.squeeze(1))
    theta = mode_of(x, y, delta, noise)
    loss = 0.5 * (x @ theta - y).square().sum()
    found = log_evidence(log_likelihood(loss, len(y), noise), x.square().sum(0) / noise**2, theta.squeeze(1), delta)
    assert math.isclose(found, exact, rel_tol=1e-10) == orthogonal


def test_gradient_equals_autograd_and_mackay_is_its_root():
    h, theta = torch.rand(6, dtype=F64) * 10, torch.randn(6, dtype=F64)
    log_delta = torch.randn(6, dtype=F64, requires_grad=True)
    log_evidence(torch.zeros(()), h, theta, log_delta.exp()).backward()
    torch.testing.assert_close(log_evidence_gradient(h, theta, log_delta.exp()).detach(), log_delta.grad)
    delta = torch.ones(6, dtype=F64)
    for _ in range(2000):
        delta = h / (h + delta) / theta.square()
    assert log_evidence_gradient(h, theta, delta).abs().max() < 1e-8
    gamma = h / (h + delta)
    torch.testing.assert_close((h + delta) * theta.square(), h / delta)  # OPD = h/δ = γ/(1-γ)
    torch.testing.assert_close(h / delta, gamma / (1 - gamma))
    assert effective_parameters(h, delta).item() == pytest.approx(gamma.sum().item())


def linear_state(x, y, spam):
    network = nn.Linear(x.shape[1], 1, bias=False, dtype=F64)
    split = Split(x, y)
    spam.attach(network, weight_units(network), split)
    return network, split


@pytest.mark.parametrize("rule", ["adam", "mackay"])
def test_relevance_determination_in_closed_form(rule):
    """Orthogonal design, known noise: z = h m²; δ → h/(z-1) and OPD → z-1 where z > 1, else δ → ∞, OPD → 0."""
    x, y = design(True)
    h, m = x.square().sum(0), (x.T @ y).squeeze(1) / x.square().sum(0)
    z = h * m.square()
    spam = SpaM(update_rule=rule, frequency=1, steps=50, lr=0.1)
    network, split = linear_state(x, y, spam)
    spam._optimizer = torch.optim.Adam(spam.precisions.free.values(), spam.lr)  # the noise is known here
    for epoch in range(1, 200):
        delta = spam.prior_precision()["weight"].squeeze(0)
        network.weight.data = mode_of(x, y, delta, 1.0).T
        spam.update(network, split, epoch)
    state = State(network, weight_units(network), split, spam)
    opd = 2 * build_pruner("opd").score(state)
    expected = torch.where(z > 1, z - 1, 0.0)
    torch.testing.assert_close(opd, expected, rtol=1e-3, atol=1e-3)
    delta = spam.prior_precision()["weight"].squeeze(0)
    torch.testing.assert_close(delta[z > 1], (h / (z - 1))[z > 1], rtol=1e-3, atol=0)
    assert (z <= 1).any()
    assert (delta[z <= 1] > 1e3).all()  # and growing


@pytest.mark.parametrize("structure", STRUCTURES)
def test_shared_precisions_collect_the_gradients_of_those_who_share(structure):
    shapes = {"w": torch.Size([3, 4, 2, 2]), "b": torch.Size([3]), "s": torch.Size([])}
    precisions = LogPrecisions(structure, shapes, initial=5.0)
    for value in precisions.expanded().values():
        torch.testing.assert_close(value.exp(), torch.full_like(value, 5.0))
    for free in precisions.free.values():
        free.requires_grad_(True)
    weights = {n: torch.randn(s, dtype=F64) for n, s in shapes.items()}
    sum((weights[n] * v).sum() for n, v in precisions.expanded().items()).backward()
    for name, gradient in precisions.collected(weights).items():
        torch.testing.assert_close(gradient, precisions.free[name].grad)
    sizes = {"scalar": 1, "layerwise": 3, "unitwise": 3 + 4 + 3 + 1, "parameterwise": 48 + 3 + 1}
    assert sum(f.numel() for f in precisions.free.values()) == sizes[structure]


def test_unit_prior_is_additive_kernel_constant_and_only_its_sum_counts():
    precisions = LogPrecisions("unitwise", {"w": torch.Size([3, 4, 2, 2])})
    for free in precisions.free.values():
        free.copy_(torch.randn(free.shape, dtype=F64))
    before = precisions.expanded()["w"].clone()
    assert (before - before[:, :, :1, :1]).abs().max() == 0
    precisions.free["w/out"] += 3
    precisions.free["w/in"] -= 3
    torch.testing.assert_close(precisions.expanded()["w"], before)


def classification(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, dtype=F64, generator=generator)
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return network, Split(x, torch.randint(0, 3, (n,), generator=generator))


def value_of(network, split, **options):
    spam = SpaM(**options)
    spam.attach(network, weight_units(network), split)
    return spam.evidence(network, split).value().item()


def test_half_the_temperature_is_the_data_twice_and_order_does_not_matter():
    network, split = classification()
    twice = Split(split.x.repeat(2, 1), split.y.repeat(2))
    assert value_of(network, split, temperature=0.5) == pytest.approx(value_of(network, twice), rel=1e-10)
    shuffled = split[torch.randperm(len(split))]
    assert value_of(network, shuffled) == pytest.approx(value_of(network, split), rel=1e-12)


def test_penalty_is_tempered_and_its_shortcut_is_its_gradient():
    network, split = classification()
    spam = SpaM(temperature=0.2)
    spam.attach(network, weight_units(network), split)
    for free in spam.precisions.free.values():
        free.copy_(torch.randn(free.shape, dtype=F64))
    (0.3 * spam.penalty(network)).backward()
    expected = [p.grad.clone() for p in network.parameters()]
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    spam.penalizer(network, 0.3)()
    for p, e in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, e)


def test_evidence_steps_raise_the_evidence_learn_the_noise_and_restore_the_mode():
    network, split = classification()
    spam = SpaM(frequency=1)
    spam.attach(network, weight_units(network), split)
    before = spam.evidence(network, split).value().item()
    network.train()
    spam.update(network, split, 1)
    assert spam.trace[0][1] > before
    assert network.training
    x, y = design(False, n=400)
    spam = SpaM(frequency=1, steps=400)
    linear, split = linear_state(x, y, spam)
    linear.weight.data = torch.linalg.lstsq(x, y).solution.T.clone()
    spam.update(linear, split, 1)
    assert spam.log_noise.exp().item() == pytest.approx(0.5, rel=0.1)


def test_frequency_burn_in_and_stored_state():
    network, split = classification()
    spam = SpaM(frequency=5, burn_in=10, steps=2)
    spam.attach(network, weight_units(network), split)
    for epoch in range(1, 21):
        spam.update(network, split, epoch)
    assert [row[0] for row in spam.trace] == [10, 15, 20]
    again = SpaM(frequency=5, burn_in=10, steps=2)
    again.attach(network, weight_units(network), split)
    again.load_tensors({n: t.clone() for n, t in spam.tensors().items()})
    assert again.trace == spam.trace
    for mine, theirs in zip(again.prior_precision().values(), spam.prior_precision().values(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("option", ["frequency", "steps", "lr", "temperature"])
def test_impossible_settings_are_refused(option):
    with pytest.raises(UsageError, match=f"{option} must be positive, got 0"):
        SpaM(**{option: 0})


@pytest.mark.slow
def test_spam_networks_on_digits_survive_one_shot_pruning_where_map_does_not(tmp_path):
    """Dhahri et al., claims C1 and C2 on a small case: MLP 64-100-100-10, 90 % pruned, no fine-tuning."""
    from bayesprune.bench.harness import run
    from bayesprune.bench.matrix import load_matrix
    from bayesprune.bench.store import results

    matrix = load_matrix("spam-digits").model_copy(update={"seeds": [0, 1], "sparsity": [0.9]})
    run(matrix, tmp_path / "r")
    accuracy = results(tmp_path / "r").groupby("method")["accuracy"].mean()
    assert accuracy["spam-opd"] > 0.93
    assert accuracy["spam-opd"] > accuracy["opd"] + 0.05
    assert accuracy["spam-magnitude"] > accuracy["magnitude"] + 0.03
