"""SpaM against exact Gaussian evidence, automatic relevance determination in closed form, and autograd."""

import copy
import math

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.spec.settings import Training
from bayesprune.bench.training.loop import train
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.curvature_matrix import Diagonal
from bayesprune.methods.closed_forms.flat import flat, named
from bayesprune.methods.laplace.evidence import Evidence, evidence_at, log_evidence, log_likelihood
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.laplace.prior_structure import LogPrecisions
from bayesprune.methods.pruner import State
from bayesprune.methods.spam import SpaM
from torch import nn

STRUCTURES = ["scalar", "layerwise", "unitwise", "parameterwise"]
F64 = torch.float64


@pytest.fixture(scope="module")
def digits():
    return load("digits", subset=300)


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


def evidence_of(h, theta, **changes):
    given = {"loss": torch.zeros(()), "size": 1, "count": None, "temperature": 1.0} | changes
    return Evidence(Diagonal(h), theta.square(), **given)


def test_gradient_equals_autograd_and_mackay_is_its_root(generator):
    """Seeded, as steps towards a root hardly shrink where h θ² is 1, beyond which there is none."""
    h = torch.rand(6, dtype=F64, generator=generator) * 10
    theta, log_delta = torch.randn(2, 6, dtype=F64, generator=generator)
    evidence, no_noise = evidence_of(h, theta), torch.zeros((), dtype=F64)
    log_delta.requires_grad_()
    log_evidence(torch.zeros(()), h, theta, log_delta.exp()).backward()
    delta = log_delta.detach().exp()
    gamma = evidence.determined(delta, no_noise)
    torch.testing.assert_close(0.5 * evidence.twice_gradient(delta, gamma), log_delta.grad)
    for _ in range(2000):
        delta = evidence.determined(delta, no_noise) / theta.square()
    gamma = h / (h + delta)
    assert evidence.twice_gradient(delta, gamma.clone()).abs().max() < 1e-8
    torch.testing.assert_close((h + delta) * theta.square(), h / delta)  # OPD = h/δ = γ/(1-γ)
    torch.testing.assert_close(h / delta, gamma / (1 - gamma))


def test_gradient_of_the_noise_equals_autograd_and_its_fixed_point_is_its_root():
    h, theta, delta = torch.rand(6, dtype=F64) * 10, torch.randn(6, dtype=F64), torch.rand(6, dtype=F64)
    evidence = evidence_of(h, theta, loss=torch.tensor(7.0, dtype=F64), size=20, count=40, temperature=0.5)
    log_noise = torch.tensor(0.3, dtype=F64, requires_grad=True)
    evidence.value(delta, log_noise).backward()
    effective = evidence.determined(delta, log_noise.detach()).sum()
    torch.testing.assert_close(evidence.noise_gradient(effective, log_noise.detach()), log_noise.grad)
    root = evidence.fixed_point_noise(effective)
    assert evidence.noise_gradient(effective, root.log()).abs() < 1e-10


def test_named_tensors_and_a_shared_precision_give_the_same_evidence():
    h, theta = torch.rand(6, dtype=F64), torch.randn(6, dtype=F64)
    whole = log_evidence(-3.0, h, theta, torch.full((6,), 2.0, dtype=F64))
    parts = [{"a": v[:4].view(2, 2), "b": v[4:]} for v in (h, theta)]
    torch.testing.assert_close(log_evidence(-3.0, *parts, 2.0), whole)


def linear_state(x, y, spam):
    network = nn.Linear(x.shape[1], 1, bias=False, dtype=F64)
    split = Split(x, y)
    spam.attach(network, weight_units(network), split)
    return network, split


@pytest.mark.parametrize(("rule", "epochs"), [("adam", 80), ("mackay", 200)])  # Adam then jitters by 1e-3
def test_relevance_determination_in_closed_form(rule, epochs):
    """Orthogonal design, known noise: z = h m²; δ → h/(z-1) and OPD → z-1 where z > 1, else δ → ∞, OPD → 0."""
    x, y = design(True)
    h, m = x.square().sum(0), (x.T @ y).squeeze(1) / x.square().sum(0)
    z = h * m.square()
    spam = SpaM(update_rule=rule, frequency=1, steps=50, lr=0.1, learn_noise=False)
    network, split = linear_state(x, y, spam)
    for epoch in range(1, epochs + 1):
        delta = spam.hyper.precision()
        network.weight.data = mode_of(x, y, delta, 1.0).T
        spam.update(network, split, epoch)
    state = State(network, weight_units(network), split, spam)
    opd = 2 * build_pruner("opd").score(state)
    expected = torch.where(z > 1, z - 1, 0.0)
    torch.testing.assert_close(opd, expected, rtol=1e-3, atol=1e-3)
    delta = spam.hyper.precision()
    torch.testing.assert_close(delta[z > 1], (h / (z - 1))[z > 1], rtol=1e-3, atol=0)
    assert (z <= 1).any()
    assert (delta[z <= 1] > 1e3).all()  # and growing


@pytest.mark.parametrize("structure", STRUCTURES)
def test_shared_precisions_collect_the_gradients_of_those_who_share(structure):
    like = {"w": torch.empty(3, 4, 2, 2), "b": torch.empty(3), "s": torch.empty(())}
    precisions = LogPrecisions(structure, like, initial=5.0)
    torch.testing.assert_close(precisions.expanded().exp(), torch.full((52,), 5.0, dtype=F64))
    weights = torch.randn(52, dtype=F64)
    precisions.free.requires_grad_(True)
    (weights * precisions.expanded()).sum().backward()
    torch.testing.assert_close(precisions.collected(weights), precisions.free.grad)
    sizes = {"scalar": 1, "layerwise": 3, "unitwise": 3 + 4 + 3 + 1, "parameterwise": 48 + 3 + 1}
    assert len(precisions.free) == sizes[structure]


def test_unit_prior_is_additive_kernel_constant_and_only_its_sum_counts():
    precisions = LogPrecisions("unitwise", {"w": torch.empty(3, 4, 2, 2)})
    a, b = torch.randn(3, 1, 1, 1, dtype=F64), torch.randn(1, 4, 1, 1, dtype=F64)
    for shift in (0, 3):
        precisions.free = torch.cat([(a + shift).flatten(), (b - shift).flatten()])
        torch.testing.assert_close(precisions.expanded().view(3, 4, 2, 2), (a + b).expand(3, 4, 2, 2))


def classification(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, dtype=F64, generator=generator)
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return network, Split(x, torch.randint(0, 3, (n,), generator=generator))


def value_of(network, split, **options):
    spam = SpaM(kind="ggn", **options)
    spam.attach(network, weight_units(network), split)
    return spam.evidence(network, split).value(spam.hyper.precision(), spam.hyper.log_noise).item()


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
    spam.hyper.precisions.free.normal_()
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
    before = spam.evidence(network, split).value(spam.hyper.precision(), spam.hyper.log_noise).item()
    network.train()
    spam.update(network, split, 1)
    assert spam.trace[0][1] > before
    assert network.training
    x, y = design(False, n=400)
    spam = SpaM(frequency=1, steps=400)
    linear, split = linear_state(x, y, spam)
    linear.weight.data = torch.linalg.lstsq(x, y).solution.T.clone()
    spam.update(linear, split, 1)
    assert spam.hyper.log_noise.exp().item() == pytest.approx(0.5, rel=0.1)


def test_batch_norm_statistics_are_those_of_the_present_network_when_the_evidence_is_taken():
    network, split = classification()
    normed = nn.Sequential(network[0], nn.BatchNorm1d(6, dtype=F64), *network[1:])
    normed[1].running_mean += 3
    spam = SpaM(frequency=1)
    spam.attach(normed, weight_units(normed), split)
    spam.update(normed, split, 1)
    torch.testing.assert_close(normed[1].running_mean, network[0](split.x).mean(0).detach())


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
    assert torch.equal(again.hyper.precision(), spam.hyper.precision())
    assert again.learned(network) == spam.learned(network)


@pytest.mark.parametrize("option", ["frequency", "steps", "lr", "temperature"])
def test_impossible_settings_are_refused(option):
    with pytest.raises(UsageError, match=f"{option} must be positive, got 0"):
        SpaM(**{option: 0})


def test_opd_is_the_exact_rise_of_the_negative_log_joint_where_parameters_are_independent():
    """Oracle O2: an orthogonal linear model at its mode; removing θ_k costs ½ Λ_kk θ_k² nats exactly."""
    x, y = design(True)
    linear, split = nn.Linear(4, 1, bias=False, dtype=F64), Split(x, y)
    linear.weight.data = mode_of(x, y, torch.full((4,), 1.5, dtype=F64), 1.0).T
    found = build_pruner("opd").score(State(linear, weight_units(linear), split, MAP(1.5)))

    def negative_log_joint(theta):
        return 0.5 * (x @ theta.unsqueeze(1) - y).square().sum() + 0.5 * 1.5 * theta.square().sum()

    theta = linear.weight.detach().squeeze(0)
    rises = torch.stack([negative_log_joint(theta * (torch.arange(4) != k)) for k in range(4)])
    torch.testing.assert_close(found, rises - negative_log_joint(theta))


def test_permuting_hidden_units_permutes_their_scores():
    """Oracle O8: nothing of the score depends on the order of the units."""
    network, split = classification()
    permuted, order = copy.deepcopy(network), torch.randperm(6)
    permuted[0].weight.data, permuted[0].bias.data = network[0].weight.data[order], network[0].bias.data[order]
    permuted[2].weight.data = network[2].weight.data[:, order]
    first, second = (
        build_pruner("opd").score(State(n, weight_units(n), split, MAP(1.0))).split([30, 18])
        for n in (network, permuted)
    )
    torch.testing.assert_close(second[0].view(6, 5), first[0].view(6, 5)[order])
    torch.testing.assert_close(second[1].view(3, 6), first[1].view(3, 6)[:, order])


@pytest.mark.parametrize("curvature", ["diag", "kfac"])
def test_relatives_of_opd_differ_by_the_prior_and_by_the_weight(curvature):
    network, split = classification()
    state = State(network, weight_units(network), split, MAP(3.0, "ggn", curvature))
    theta = torch.cat([p.detach().flatten() for p in network.parameters() if p.dim() > 1])
    opd, obd, only = (build_pruner(n).score(state) for n in ("opd", "obd", "precision-only"))
    torch.testing.assert_close(opd - obd, 0.5 * 3.0 * theta.square())
    torch.testing.assert_close(only * 0.5 * theta.square(), opd)


def test_a_prior_fitted_after_training_has_more_evidence_and_other_precisions():
    network, split = classification()
    with_layers = MAP(1.0, prior="layerwise").posterior(network, split)
    assert {len(p.unique()) for p in with_layers.prior.values()} == {1}
    assert len({p.unique().item() for p in with_layers.prior.values()}) == 4
    evidence = evidence_at(network, split, "diag", "ggn", torch.Generator())
    no_noise = torch.zeros((), dtype=F64)
    fitted = evidence.value(flat(with_layers.prior), no_noise)
    assert fitted > evidence.value(torch.ones_like(evidence.squares), no_noise)


def test_a_regression_with_several_outputs_learns_its_noise():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, dtype=F64, generator=generator)
    y = x @ torch.randn(3, 2, dtype=F64, generator=generator)
    y += 0.25 * torch.randn(300, 2, dtype=F64, generator=generator)
    for rule in ("adam", "mackay"):
        linear, spam = nn.Linear(3, 2, bias=False, dtype=F64), SpaM(frequency=1, steps=300, update_rule=rule)
        linear.weight.data = torch.linalg.lstsq(x, y).solution.T.clone()
        spam.attach(linear, weight_units(linear), Split(x, y))
        spam.update(linear, Split(x, y), 1)
        assert spam.hyper.log_noise.exp().item() == pytest.approx(0.25, rel=0.05)


def test_frozen_parameters_and_one_example_per_class_are_fine():
    network, split = classification()
    network[0].weight.requires_grad_(False)
    few = split[torch.stack([(split.y == c).nonzero()[0, 0] for c in range(3)])]
    spam = SpaM(frequency=1)
    spam.attach(network, weight_units(network), few)
    spam.update(network, few, 1)
    assert list(spam.learned(network)["precisions"]) == ["0.bias", "2.weight", "2.bias"]
    assert math.isfinite(spam.learned(network)["log_evidence"])


def test_what_cannot_be_is_refused_or_fails_with_a_reason():
    network, split = classification()
    spam = SpaM(frequency=1)
    spam.attach(network, weight_units(network), split)
    with pytest.raises(UsageError, match="at least one example"):
        spam.update(network, split[torch.zeros(0, dtype=torch.long)], 1)
    network[0].weight.data[0, 0] = math.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        spam.update(network, split, 1)
    with pytest.raises(UsageError, match="unit-wise"):
        build_pruner("spam-opd", update="mackay", prior="unitwise")
    with pytest.raises(UsageError, match=r"kfac.*use adam"):
        build_pruner("spam-opd", update="mackay", curvature="kfac")
    with pytest.raises(UsageError, match="unknown method 'opdd'; did you mean 'opd'"):
        build_pruner("spam-opdd")
    with pytest.raises(UsageError, match="inference of its own"):
        build_pruner("spam-spam-opd")


def test_removed_weights_leave_the_evidence_and_their_precisions_stand_still():
    network, split = classification()
    units = weight_units(network)
    mask = Mask(units, torch.arange(units.n) % 3 > 0)
    for curvature in ("diag", "kfac"):
        spam = SpaM(curvature=curvature, kind="ggn", frequency=1)
        spam.attach(network, units, split)
        spam.reduce(network, mask)
        mask.apply_(network)
        spam.update(network, split, 1)
        parts = named(spam.hyper.precision(), dict(network.named_parameters()))
        for name, kept in mask.tensors.items():
            assert (parts[name][~kept] == 1).all()
            assert (parts[name][kept] != 1).all()


def test_masked_and_compacted_networks_agree_without_training(digits):
    """Oracle O10: structured OPD on a SpaM network."""
    network = build("lenet5", digits.input_shape, digits.outputs, seed=0)
    spam = SpaM(frequency=1, steps=20)
    spam.attach(network, weight_units(network), digits.train)
    train(network, digits.train, spam, Training(), 1, torch.Generator().manual_seed(0))
    units = group_units(network)
    scores = build_pruner("spam-opd").score(State(network, units, digits.train, spam))
    precision = spam.posterior(network, digits.train).precision
    damage = {n: 0.5 * h * network.get_parameter(n).detach().double() ** 2 for n, h in precision.items()}
    by_hand = units.gather(damage)
    torch.testing.assert_close(scores, by_hand)  # structured: summed over everything that belongs to a unit
    mask = Mask(units, scores > scores.quantile(0.5))
    mask.apply_(network)
    network.eval()
    x = digits.train.x[:50]
    torch.testing.assert_close(compact(network, mask)(x), network(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_spam_networks_on_digits_survive_one_shot_pruning_where_map_does_not(tmp_path):
    """Dhahri et al., claims C1 and C2 on a small case: MLP 64-100-100-10, 90 % pruned, no fine-tuning."""
    from bayesprune.bench.harness.run_matrix import run
    from bayesprune.bench.results.frames import results
    from bayesprune.bench.spec.matrix import load_matrix

    wanted = ("spam-opd(kind=ggn)", "spam-magnitude(kind=ggn)", "opd", "magnitude")
    shipped = load_matrix("spam-digits").model_copy(update={"seeds": [0, 1], "sparsity": [0.9]})
    matrix = shipped.model_copy(update={"methods": [m for m in shipped.methods if m.label in wanted]})
    run(matrix, tmp_path / "r")
    accuracy = results(tmp_path / "r").groupby("method")["accuracy"].mean()
    assert accuracy[wanted[0]] > 0.93
    assert accuracy[wanted[0]] > accuracy["opd"] + 0.05
    assert accuracy[wanted[1]] > accuracy["magnitude"] + 0.03
