"""The whole curvature as a Laplace posterior: explicit Hessians, laplace-torch, exact evidences of linear regression."""

import itertools
import math
import warnings

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.architectures.units.slices import Group, Slice
from bayesprune.architectures.units.vector import Units
from bayesprune.bench.contract import check_on
from bayesprune.bench.spec.run import Choice
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.flat import flat
from bayesprune.methods.closed_forms.model_reduction import delta_f_multivariate
from bayesprune.methods.curvature.diagonals import diagonal
from bayesprune.methods.curvature.estimate import curvature_of
from bayesprune.methods.laplace.evidence import evidence_at
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.opd import opd
from bayesprune.methods.pruner import State
from bayesprune.methods.reduction.decision import reduction, spike
from bayesprune.methods.reduction.joint_spike import joint_spike
from bayesprune.methods.spam import SpaM
from torch import nn
from torch.distributions import MultivariateNormal
from torch.func import functional_call

F64 = torch.float64
NO_DRAWS = torch.Generator().manual_seed(0)


def classes(network, shape=(5,), n=20):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=generator).to(next(network.parameters()).dtype)
    return Split(x, torch.randint(0, 3, (n,), generator=generator))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def lenet():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4), nn.LayerNorm(4), nn.Linear(4, 3)
    )


# ------------------------------------------------------------------ the matrix


@pytest.mark.parametrize(("network", "shape"), [(mlp, (5,)), (lenet, (1, 6, 6))])
def test_the_matrix_is_the_gauss_newton_matrix_of_explicit_jacobians(network, shape):
    network = network().double()
    data = classes(network, shape)
    parameters = dict(network.named_parameters())

    def outputs(free):
        return functional_call(network, free, (data.x,))

    blocks = torch.func.jacrev(outputs)({name: p.detach() for name, p in parameters.items()})
    jacobian = torch.cat([blocks[name].flatten(2) for name in parameters], 2)  # (N, C, P)
    p = outputs(parameters).softmax(1).detach()
    inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    expected = torch.einsum("ncp,ncd,ndq->pq", jacobian, inner, jacobian)
    found = curvature_of(network, data, "full", "ggn", NO_DRAWS)
    torch.testing.assert_close(found.h, expected, rtol=1e-9, atol=1e-10)  # pyright: ignore
    torch.testing.assert_close(found.h.diagonal(), flat(diagonal(network, data.x, data.y)))  # pyright: ignore


def test_of_a_model_that_is_linear_it_is_the_hessian_of_the_loss():
    torch.manual_seed(0)
    network = nn.Linear(4, 3).double()
    data = classes(network, (4,))

    def loss(theta):
        weight, bias = theta.split([12, 3])
        return nn.functional.cross_entropy(data.x @ weight.view(3, 4).T + bias, data.y, reduction="sum")

    hessian = torch.autograd.functional.hessian(loss, flat(dict(network.named_parameters())))
    found = curvature_of(network, data, "full", "ggn", NO_DRAWS)
    torch.testing.assert_close(found.h, hessian, rtol=1e-9, atol=1e-10)  # pyright: ignore


@pytest.mark.parametrize("delta", [0.5, 20.0])
def test_laplace_torch_agrees(delta):
    laplace = pytest.importorskip("laplace")
    from laplace.curvature import CurvlinopsGGN

    network = mlp()
    data = classes(network)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data.x, data.y), batch_size=20)
    reference = laplace.Laplace(network, "classification", "all", "full", backend=CurvlinopsGGN, prior_precision=delta)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference.fit(loader)
    posterior = State(network, weight_units(network), data, MAP(delta, curvature="full")).posterior
    variance = reference.posterior_covariance.diagonal()
    torch.testing.assert_close(1 / flat(posterior.marginal_precision), variance.double(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        flat(posterior.precision), reference.posterior_precision.diagonal().double(), rtol=1e-4, atol=1e-5
    )
    evidence = evidence_at(network, data, "full", "ggn", NO_DRAWS)
    value = evidence.value(torch.full_like(evidence.squares, delta), torch.zeros((), dtype=F64))
    assert float(value) == pytest.approx(float(reference.log_marginal_likelihood()), rel=1e-5)


def test_networks_too_large_are_refused_with_their_size_and_what_to_do():
    network = nn.Sequential(nn.Linear(100, 30), nn.Linear(30, 3))
    with pytest.raises(UsageError, match=r"3,123, more than 3,000: choose curvature: diag or curvature: kfac"):
        curvature_of(network, classes(network, (100,)), "full", "ggn", NO_DRAWS)


def test_a_network_that_has_diverged_is_refused():
    network = mlp()
    with torch.no_grad():
        network[0].weight.fill_(math.inf)
    with pytest.raises(ArithmeticError, match="diverged"):
        curvature_of(network, classes(network), "full", "ggn", NO_DRAWS)


# ------------------------------------------------------------------ exact Bayes factors


def regression(correlation, weights, n=60, delta=1.0, seed=3):
    """A network that is a Bayesian linear regression at its mode, and the log evidence of any subset of its inputs."""
    generator, p = torch.Generator().manual_seed(seed), len(weights)
    mixing = correlation ** (torch.arange(p)[:, None] - torch.arange(p)).abs().double()
    x = torch.randn(n, p, dtype=F64, generator=generator) @ torch.linalg.cholesky(mixing).T
    y = x @ torch.tensor(weights, dtype=F64)[:, None] + torch.randn(n, 1, dtype=F64, generator=generator)
    network = nn.Linear(p, 1, bias=False, dtype=F64)
    network.weight.data = torch.linalg.solve(x.T @ x + delta * torch.eye(p, dtype=F64), x.T @ y).T

    def log_evidence(kept):
        design = x[:, kept]
        covariance = torch.eye(n, dtype=F64) + design @ design.T / delta
        return MultivariateNormal(torch.zeros(n, dtype=F64), covariance).log_prob(y.squeeze(1))

    return network, Split(x, y), log_evidence


def bayes_factors(network, data, curvature, delta=1.0):
    state = State(network, weight_units(network), data, MAP(delta, curvature=curvature))
    return spike(state)["weight"].squeeze(0)


def exact_bayes_factors(log_evidence, p):
    full = torch.ones(p, dtype=torch.bool)
    return torch.stack([log_evidence(torch.arange(p) != i) - log_evidence(full) for i in range(p)])


@pytest.mark.parametrize("delta", [0.3, 1.0, 30.0])
def test_each_weight_of_a_correlated_regression_has_its_exact_bayes_factor(delta):
    network, data, log_evidence = regression(0.9, [1.0, 0.0, -0.5, 0.0, 0.1], delta=delta)
    exact = exact_bayes_factors(log_evidence, 5)
    torch.testing.assert_close(bayes_factors(network, data, "full", delta), exact, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(bayes_factors(network, data, "diag", delta), exact, rtol=0.1, atol=0.1)


def test_the_diagonal_keeps_a_copy_that_the_evidence_drops():
    """Two inputs of correlation .95 of which one is useless."""
    network, data, log_evidence = regression(0.95, [1.0, 0.0], seed=1)
    exact = exact_bayes_factors(log_evidence, 2)
    torch.testing.assert_close(bayes_factors(network, data, "full"), exact, rtol=1e-6, atol=1e-7)
    assert exact[1] > 0 > bayes_factors(network, data, "diag")[1]
    decision = reduction(State(network, weight_units(network), data, MAP(1.0, curvature="full")), "zero")
    assert decision.rejected.tolist() == [False, True]


@pytest.mark.parametrize("delta", [0.3, 1.0, 30.0])
def test_groups_of_a_correlated_regression_have_their_exact_bayes_factors(delta):
    network, data, log_evidence = regression(0.95, [1.0, 0.0, 0.0, 0.0, -0.5, 0.1], delta=delta)
    pairs = Slice("weight", 1, torch.arange(6).view(3, 2), network.weight.shape)
    state = State(network, Units((Group("pairs", "feature", (pairs,)),)), data, MAP(delta, curvature="full"))
    full, owner = torch.ones(6, dtype=torch.bool), torch.arange(6) // 2
    exact = torch.stack([log_evidence(owner != i) - log_evidence(full) for i in range(3)])
    torch.testing.assert_close(reduction(state).delta_f, exact, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(state.units.gather(spike(state)), exact, rtol=0.1, atol=0.1)


def test_a_neuron_is_judged_by_the_joint_density_of_its_rows_bias_and_column():
    network = build("mlp", (5,), 3, seed=0, widths=[4])
    data = classes(network)
    state = State(network, group_units(network), data, MAP(2.0, curvature="full"))
    place = torch.arange(20 + 4 + 12 + 3).split([20, 4, 12, 3])
    precision = curvature_of(network, data, "full", "ggn", NO_DRAWS).h + 2.0 * torch.eye(39, dtype=F64)
    covariance, mean = precision.inverse(), torch.cat([p.detach().flatten() for p in network.parameters()]).double()
    for i, found in enumerate(reduction(state).delta_f):
        at = torch.cat([place[0].view(4, 5)[i], place[1][i : i + 1], place[2].view(3, 4)[:, i]])
        prior, nothing = torch.eye(len(at), dtype=F64) / 2.0, torch.zeros(len(at), dtype=F64)
        exact = delta_f_multivariate(mean[at], covariance[at][:, at], nothing, prior, nothing, torch.zeros_like(prior))
        assert float(found) == pytest.approx(float(exact), rel=1e-9, abs=1e-9)


def test_only_a_posterior_with_a_covariance_is_reduced_jointly():
    network = build("mlp", (5,), 3, seed=0, widths=[4])
    posterior = State(network, group_units(network), classes(network), MAP(2.0)).posterior
    with pytest.raises(UsageError, match="choose curvature: full"):
        joint_spike(group_units(network), posterior, list(posterior.mean))


def test_the_evidence_is_exact_and_leaves_out_what_has_left():
    network, data, log_evidence = regression(0.9, [1.0, 0.0, -0.5])
    ones, zero = torch.ones(3, dtype=F64), torch.zeros((), dtype=F64)
    for kept in itertools.product([True, False], repeat=3):
        kept = torch.tensor(kept)
        if not kept.any():
            continue
        x = data.x[:, kept]
        network.weight.data.zero_()
        gram = x.T @ x + torch.eye(len(x.T), dtype=F64)
        network.weight.data[:, kept] = torch.linalg.solve(gram, x.T @ data.y).T
        masks = {"weight": kept.unsqueeze(0)}
        evidence = evidence_at(network, data, "full", "ggn", NO_DRAWS, masks=masks)
        torch.testing.assert_close(evidence.value(ones, zero), log_evidence(kept))
        assert not evidence.determined(ones, zero)[~kept].any()


# ------------------------------------------------------------------ methods


@pytest.mark.parametrize("prior", ["scalar", "layerwise", "unitwise"])
def test_the_fitted_prior_is_where_the_evidence_no_longer_rises(prior):
    network = mlp()
    data = classes(network)
    optimizer = torch.optim.Adam(network.parameters(), 0.02, weight_decay=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(data.x), data.y).backward()
        optimizer.step()
    posterior = State(network, weight_units(network), data, MAP(prior=prior, curvature="full")).posterior
    evidence = evidence_at(network, data, "full", "ggn", NO_DRAWS)
    zero, log = torch.zeros((), dtype=F64), flat(posterior.prior).log()
    here = evidence.value(log.exp(), zero)
    for shift in (-0.3, 0.3):
        assert evidence.value((log + shift).exp(), zero) < here + 1e-3


def test_a_requested_sparsity_ranks_by_the_diagonal_of_the_precision():
    network = mlp()
    state = State(network, weight_units(network), classes(network), MAP(2.0, curvature="full"))
    h = curvature_of(network, state.train, "full", "ggn", NO_DRAWS).h.diagonal()  # pyright: ignore
    theta = flat(dict(network.named_parameters()))
    damage = 0.5 * (h + 2.0) * theta.square()
    expected = torch.cat([damage[:30], damage[36:54]])  # without biases
    torch.testing.assert_close(opd(state), expected)
    assert torch.equal(build_pruner("bmr-laplace", curvature="full").score(state), opd(state))


def test_spam_trains_on_the_whole_curvature_and_forgets_what_has_left():
    network, inference = mlp(), SpaM("layerwise", "full", "ggn", frequency=1, steps=30)
    data, units = classes(network), weight_units(network)
    inference.attach(network, units, data)
    inference.update(network, data, 1)
    first = inference.trace[0][1]
    inference.update(network, data, 2)

    assert inference.trace[1][1] >= first
    mask = Mask(units, torch.arange(units.n) % 2 == 0)
    inference.reduce(network, mask)
    posterior = inference.posterior(network, data)
    gone = ~mask.tensors["0.weight"]
    torch.testing.assert_close(posterior.marginal_precision["0.weight"][gone], posterior.prior["0.weight"][gone])


@pytest.mark.parametrize("method", ["bmr-laplace", "opd"])
@pytest.mark.parametrize("granularity", ["weights", "groups"])
def test_the_contract(method, granularity):
    tiny = Choice(name="mlp", options={"widths": [3]})
    for verdict in check_on(method, tiny, granularity, curvature="full"):
        assert not verdict.problem, f"{verdict.promise}: {verdict.problem}\n{verdict.traceback}"
