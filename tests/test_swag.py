"""SWAG's moments against numpy's, and conditioning on a diagonal with a few directions against the dense formula."""

import numpy as np
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.discovery.units_of import weight_units
from bayesprune.architectures.units.mask import Mask
from bayesprune.architectures.units.prunable import trainable
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.closed_forms.conditioning import dense
from bayesprune.methods.closed_forms.flat import flat
from bayesprune.methods.closed_forms.scattered import Scattered
from bayesprune.methods.pruner import State
from bayesprune.methods.swag import Swag, scatter

F64 = torch.float64


def posterior(p=24, k=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean, v = torch.randn(p, generator=generator, dtype=F64), torch.rand(p, generator=generator, dtype=F64) + 0.1
    return Scattered.of({"a": mean[:10], "b": mean[10:]}, v, torch.randn(p, k, generator=generator, dtype=F64))


def test_conditioning_is_the_dense_formula():
    """In two rounds: what left in the first has no mean, no covariance, and no part in the second."""
    q = posterior()
    generator = torch.Generator().manual_seed(1)
    covariance = q.covariance
    assert covariance is not None
    kept, mean = torch.rand(24, generator=generator) < 0.6, flat(q.mean)
    found, expected = q.condition(mean, kept), dense(mean, kept, torch.linalg.inv(covariance))
    for part in ("mean", "zeroing", "cost"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part), rtol=1e-10, atol=1e-10)
    assert found.cost <= found.zeroing
    s = ~kept
    reduced = covariance - covariance[:, s] @ torch.linalg.inv(covariance[s][:, s]) @ covariance[s]
    second = q.given(kept)
    torch.testing.assert_close(second.covariance[kept][:, kept], reduced[kept][:, kept], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(flat(second.variance)[kept], reduced.diagonal()[kept], rtol=1e-10, atol=1e-10)
    fewer = kept & (torch.rand(24, generator=generator) < 0.5)
    again = second.condition(found.mean, fewer)
    at_once = dense(mean, fewer, torch.linalg.inv(covariance))
    torch.testing.assert_close(again.mean, at_once.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.cost + again.cost, at_once.cost, rtol=1e-9, atol=1e-9)


def test_everything_kept_is_nothing_moved():
    q = posterior()
    found = q.condition(flat(q.mean), torch.ones(24, dtype=torch.bool))
    assert torch.equal(found.mean, flat(q.mean))
    assert float(found.cost) == float(found.zeroing) == 0


def test_draws_scatter_as_they_say():
    q, generator = posterior(p=6, k=2), torch.Generator().manual_seed(2)
    q = Scattered.of({"a": torch.zeros(6, dtype=F64)}, q.spread, q.directions)
    draws = torch.stack([q.draw(generator)["a"] for _ in range(20_000)])
    torch.testing.assert_close(draws.T.cov(), q.covariance, rtol=0.1, atol=0.1)


@pytest.fixture(scope="module")
def data():
    return load("digits", 0, subset=100)


def walked(data, epochs=10, **options):
    """A network whose weights take a random walk, and where they were after each epoch."""
    network = build("mlp", data.input_shape, 10, seed=0, widths=[5])
    inference = Swag(1.0, **options)
    inference.attach(network, weight_units(network), data.train)
    inference.begin(epochs)
    inference.optimizer([], 1e-3, 1)
    generator, seen = torch.Generator().manual_seed(3), []
    for epoch in range(1, epochs + 1):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        seen.append(flat(trainable(network)).numpy())
        inference.update(network, data.train, epoch)
    return network, inference, np.stack(seen)


def test_moments_are_those_of_the_epochs(data):
    network, inference, seen = walked(data, rank=4, share=0.7)
    collected = seen[3:]
    mean, variance = collected.mean(0), collected.var(0)
    np.testing.assert_allclose(flat(trainable(network)).numpy(), mean, atol=1e-6)
    q = inference.posterior(network, data.train)
    latest = (collected[-4:] - mean) / np.sqrt(3)
    np.testing.assert_allclose(q.spread.numpy(), variance / 2, rtol=1e-10)
    expected = np.diag(variance) / 2 + latest.T @ latest / 2
    np.testing.assert_allclose((torch.diag(q.spread) + q.directions @ q.directions.T).numpy(), expected, atol=1e-6)
    state = State(network, weight_units(network), data.train, inference)
    names = list(q.mean)
    sizes = np.cumsum([0] + [q.mean[n].numel() for n in names])
    costs = 0.5 * flat(q.mean).numpy() ** 2 / expected.diagonal()
    weights = [costs[sizes[i] : sizes[i + 1]] for i, n in enumerate(names) if n.endswith("weight")]
    np.testing.assert_allclose(scatter(state).numpy(), np.concatenate(weights), rtol=1e-4)


def test_what_has_left_scatters_no_more_and_the_rest_less(data):
    network, inference, _ = walked(data)
    before = inference.posterior(network, data.train)
    mask = Mask(weight_units(network), torch.arange(weight_units(network).n) % 2 > 0)
    inference.reduce(network, mask)
    mask.apply_(network)
    after, generator = inference.posterior(network, data.train), torch.Generator().manual_seed(0)
    drawn = inference.sample(network, generator)
    for name, kept in mask.tensors.items():
        assert not drawn[name][~kept].any()
        assert bool((after.variance[name][kept] <= before.variance[name][kept] * (1 + 1e-9)).all())
    inference.update(network, data.train, 11)  # training goes on: another collection
    assert inference.count == 1
    assert "do not scatter" in (inference.unfinished() or "")


def test_bad_values_and_the_penalty_of_map():
    with pytest.raises(UsageError, match="share must be"):
        build_pruner("swag-obs", share=0.0)
    with pytest.raises(UsageError, match="rank"):
        build_pruner("swag-obs", rank=0)
    network = build("mlp", (1, 8, 8), 10, seed=0, widths=[5])
    expected = 0.5 * 3.0 * sum(float(p.detach().square().sum()) for p in network.parameters())
    assert float(Swag(3.0).penalty(network).detach()) == pytest.approx(expected, rel=1e-5)
