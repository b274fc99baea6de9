"""SS-GL and SS-GHS: divergences against quadrature and draws, the marginal prior, and moments of scaled nodes."""

import math

import numpy as np
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import group_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.training.loop import leave
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.pruner import State
from bayesprune.methods.spike_slab_nodes import SpikeSlabGroupHorseshoe, SpikeSlabGroupLasso
from bayesprune.methods.variational.scale_factors import by_factor
from scipy import stats
from scipy.integrate import quad

F64 = torch.float64
KINDS = [SpikeSlabGroupLasso, SpikeSlabGroupHorseshoe]


def attached(kind, **options):
    """Two hidden layers of five and three nodes that read four and five numbers; everything is somewhere else."""
    generator = torch.Generator().manual_seed(0)
    network = build("mlp", (4,), 2, seed=0, widths=[5, 3]).double()
    x = torch.randn(30, 4, dtype=F64, generator=generator)
    split = Split(x, (x[:, 0] > 0).long())
    inference = kind(inclusion=0.2, lr_factor=1.0, **options)
    inference.attach(network, group_units(network), split)
    with torch.no_grad():
        for parameter, width in zip(inference.parameters(), (0.3, 1.0, 0.4), strict=True):
            parameter.add_(width * torch.randn(parameter.shape, dtype=F64, generator=generator))
    return network, inference, split


def parts(inference):
    """Means and log deviations of the factors' logs, by name."""
    return [by_factor(inference.factors, part) for part in inference.logs.detach()]


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def of_gamma(mean, deviation, shape, rate):
    """KL of log-normal variables from Gamma(shape, rate), by Gauss's rule; in the shape of the rate."""
    x, rate = np.exp(mean + deviation * NODES), np.asarray(rate)[..., None]
    ratio = stats.lognorm.logpdf(x, deviation, scale=math.exp(mean)) - stats.gamma.logpdf(x, shape, scale=1 / rate)
    return ratio @ WEIGHTS


def test_divergences_of_scales_are_quadratures():
    """Of a lasso's τ over both its own and the penalty's distribution; of the rest one by one."""
    _, inference, _ = attached(SpikeSlabGroupLasso)
    means, logs = parts(inference)
    each = by_factor(inference.factors, inference.of_factors(*inference.logs.detach()))
    for group, k in zip(inference.groups, (5, 6), strict=True):
        m, t = float(means[f"{group.name} λ²"]), float(logs[f"{group.name} λ²"].exp())
        assert float(each[f"{group.name} λ²"]) == pytest.approx(of_gamma(m, t, 4.0, 2.0), rel=1e-6)
        for j, kl in enumerate(each[group.name].tolist()):
            own = float(means[group.name][j]), float(logs[group.name][j].exp())
            over = of_gamma(*own, (k + 1) / 2, np.exp(m + t * NODES) / 2) @ WEIGHTS
            assert kl == pytest.approx(over, rel=1e-6)
    _, inference, _ = attached(SpikeSlabGroupHorseshoe)
    means, logs = parts(inference)
    own, shared = (kl.detach() for kl in inference.divergence_of_scales())
    expected = {
        n: [of_gamma(float(a), float(b.exp()), *((2.0, 6.0) if n.endswith(" c") else (0.5, 1.0)))
            for a, b in zip(means[n].flatten(), logs[n].flatten(), strict=True)]
        for n in inference.factors
    }  # fmt: skip
    nodes = [np.add(expected[f"{g.name} v"], expected[f"{g.name} u"]) for g in inference.groups]
    np.testing.assert_allclose(own.numpy(), np.concatenate(nodes), rtol=1e-6)
    assert float(shared) == pytest.approx(sum(v[0] for v in expected.values() if len(v) == 1), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_divergence_is_that_of_draws(kind):
    """The mean of log q - log p over draws of gates, weights and factors, where closed gates have p's own."""
    network, inference, _ = attached(kind)
    rng, draws = np.random.default_rng(0), 4000
    means, logs = ({n: v.numpy() for n, v in part.items()} for part in parts(inference))
    phi, owner = inference.gate_log_odds.detach().sigmoid().numpy(), inference.owner.numpy()
    theta, sigma = inference.flat_mean(network).detach().numpy(), inference.log_sigma.detach().exp().numpy()
    z = rng.random((draws, len(phi))) < phi
    total = np.where(z, np.log(phi / 0.2), np.log((1 - phi) / 0.8)).sum(1)
    w = theta + sigma * rng.normal(size=(draws, len(theta)))
    ratio = stats.norm.logpdf(w, theta, sigma) - stats.norm.logpdf(w)
    total += (ratio * np.concatenate([z, np.ones((draws, 1))], 1)[:, owner]).sum(1)
    values, ratios = {}, {}
    for name, mean in means.items():
        deviation, factor = np.exp(logs[name]), inference.factors[name]
        values[name] = np.exp(mean + deviation * rng.normal(size=(draws, *mean.shape)))
        rate = values[f"{name} λ²"][:, None] / 2 if math.isnan(factor.b) else factor.b  # which comes first
        prior = stats.gamma.logpdf(values[name], factor.a, scale=1 / rate)
        ratios[name] = stats.lognorm.logpdf(values[name], deviation, scale=np.exp(mean)) - prior
    at = 0
    for group in inference.groups:
        here = z[:, at : at + group.size]
        at += group.size
        for name in (n for n in ratios if n == group.name or n.startswith(f"{group.name} ")):
            total += ratios[name] if ratios[name].ndim == 1 else (ratios[name] * here).sum(1)
    found = float(inference.divergence(network).detach())
    assert abs(found - total.mean()) < 4 * total.std() / math.sqrt(draws)
    assert total.std() / math.sqrt(draws) < 0.02 * found


def test_a_group_lasso_is_laplace_in_all_its_weights_at_once():
    """∫ N(w; 0, τ) Γ(τ; a, λ²/2) dτ falls by exp(-λ |w|), with the shape that the network's nodes have."""
    _, inference, _ = attached(SpikeSlabGroupLasso)
    for group, k in zip(inference.groups, (5, 6), strict=True):
        shape, penalty = inference.factors[group.name].a, 1.7

        def density(length, shape=shape, penalty=penalty, k=k):
            def integrand(t):
                normal = math.exp(-(length**2) / (2 * t)) * (2 * math.pi * t) ** (-k / 2)
                return normal * stats.gamma.pdf(t, shape, scale=2 / penalty**2)

            return quad(integrand, 0, 60, points=[1.0, 10.0])[0]

        assert math.log(density(0.8) / density(2.3)) == pytest.approx(penalty * 1.5, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_have_the_moments_of_their_draws(kind):
    network, inference, split = attached(kind)
    q = inference.posterior(network, split)
    layer, n = "layers.0.weight", 3000
    theta, sigma = network.get_parameter(layer).detach(), inference.sigma()[layer]
    torch.manual_seed(0)
    with torch.no_grad():
        scales = torch.stack([inference._draw()[:20].view(5, 4) for _ in range(n)])
        drawn = scales * (theta + sigma * torch.randn(scales.shape, dtype=F64))
        assert bool((scales[:, :, 0] == scales[:, :, 3]).all())  # of a node's weights
    torch.testing.assert_close(drawn.mean(0), q.mean[layer], rtol=0.05, atol=0.03)
    torch.testing.assert_close(drawn.var(0), q.variance[layer], rtol=0.25, atol=0.01)
    network.eval()
    before = network(split.x)
    twin = build("mlp", (4,), 2, seed=0, widths=[5, 3]).double()
    twin.load_state_dict(network.state_dict())
    other = kind(inclusion=0.2, lr_factor=1.0)
    other.attach(twin, group_units(twin), split)
    other.load_tensors(inference.tensors())
    other.detach(twin)
    torch.testing.assert_close(twin.eval()(split.x), before)
    mean = twin.get_parameter(layer).detach()
    torch.testing.assert_close(mean, inference.gate_log_odds.detach().sigmoid()[:5, None] * q.mean[layer])
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([other.sample(twin, generator)[layer] for _ in range(2000)])
    torch.testing.assert_close(draws.mean(0), mean, rtol=0.1, atol=0.06)
    shut = (draws[:, :, 0] == 0).double().mean(0)
    torch.testing.assert_close(1 - shut, inference.gate_log_odds.detach().sigmoid()[:5], rtol=0, atol=0.04)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stays_is_certain_and_keeps_its_scale(kind):
    network, inference, split = attached(kind)
    pruner = build_pruner("ss-gl" if kind is SpikeSlabGroupLasso else "ss-ghs")
    nodes = group_units(network)
    scores = pruner.score(State(network, nodes, split, inference))
    torch.testing.assert_close(scores, inference.gate_log_odds.detach(), rtol=0, atol=1.1e-3)
    expected = inference.moments().mean.detach()
    kept = torch.arange(nodes.n) % 2 == 0
    leave(network, inference, Mask(nodes, kept))
    own, shared = inference.divergence_of_scales()
    slab = inference._of_present(torch.distributions.kl_divergence(
        torch.distributions.Normal(inference.flat_mean(network), inference.log_sigma.exp()),
        torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0),
    )).sum()  # fmt: skip
    torch.testing.assert_close(inference.divergence(network), slab + own[kept].sum() + shared)
    theta = network.layers[0].weight.detach().clone()
    torch.manual_seed(0)
    outputs = torch.stack([network.train()(split.x).detach() for _ in range(2)])
    assert not torch.equal(outputs[0], outputs[1])  # weights and scales are still drawn
    inference.detach(network)
    torch.testing.assert_close(network.layers[0].weight.detach(), theta * expected[:5, None])
    assert not network.layers[0].weight[~kept[:5]].any()
    drawn = inference.sample(network, torch.Generator().manual_seed(0))["layers.0.weight"]
    assert torch.equal(drawn[:, 0] != 0, kept[:5])


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_penalised_loss_and_learns_scales(kind):
    network, inference, split = attached(kind)
    inference.kl, inference.epoch = 1.0, 10
    parameters = [*network.parameters(), *inference.parameters()]
    optimizer, losses = torch.optim.Adam(parameters, 0.02), []
    torch.manual_seed(0)
    add = inference.penalizer(network, 1 / len(split))
    for _ in range(120):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network.train()(split.x), split.y)
        losses.append(float(loss.detach()) + float(inference.penalty(network).detach()) / len(split))
        loss.backward()
        add()
        optimizer.step()
    assert np.mean(losses[-30:]) < 0.7 * np.mean(losses[:30])
    assert float(inference.scale_steps.grad.abs().sum()) > 0
    assert float(inference.gate_log_odds.detach().min()) < 0  # few examples do not pay for eight nodes


def test_presets_and_bad_values():
    inference = build_pruner("ss-gl", preset="authors").inference()
    assert (inference.kl, inference.inclusion, inference.log_sigma_start) == (1.0, 1e-4, -6.0)
    assert 1 / (1 + math.exp(-inference.log_odds_start)) == pytest.approx(0.99)
    with pytest.raises(UsageError, match="scale"):
        build_pruner("ss-ghs", scale=0.0)
    with pytest.raises(UsageError, match="inclusion"):
        build_pruner("ss-gl", inclusion=1.0)
