"""Factors on the structures of feed-forward networks: they fold, what leaves leaves for good, worth is the minimum."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.certificate import certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.running.modes import evaluating
from bayesprune.bench.contract import TINY
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import NotApplicable, UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.group_variational_dropout import GroupVariationalDropout
from bayesprune.methods.pruner import State
from bayesprune.methods.variational.weight_dropout import kl, log_alpha
from networks import half_mask
from oracles import Windows

family = pytest.mark.parametrize("choice", TINY[:-1], ids=lambda choice: choice.label)  # the last one is recurrent


@pytest.fixture(scope="module")
def data():
    return load("digits", 0, subset=60)


def attached(choice, data, **options):
    network = build(choice.name, data.input_shape, data.outputs, seed=0, **choice.options)
    inference = GroupVariationalDropout(**options)
    inference.attach(network, weight_units(network), data.train)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        inference.steps += 0.7 * torch.randn(inference.steps.shape, generator=generator)
        inference.log_sigma += torch.randn(inference.log_sigma.shape, generator=generator)
    return network, inference


@family
def test_masked_folded_and_compact_networks_agree(choice, data):
    network, inference = attached(choice, data)
    mask = half_mask(network)
    inference.reduce(network, mask)
    mask.apply_(network)
    assert torch.equal(inference.alive.bool(), mask.kept)
    with evaluating(network), torch.no_grad():
        masked = network(data.train.x)
        inference.detach(network)
        torch.testing.assert_close(network(data.train.x), masked, rtol=1e-4, atol=1e-5)
    certify(network, compact(network, mask, data.train.x), data.train.x, 1e-5)
    assert not [m for m in network.modules() if m._forward_pre_hooks or m._forward_hooks]


@pytest.mark.parametrize("form", ["exact", "molchanov"])
def test_the_penalty_is_the_sum_over_weights_and_factors_and_its_gradient_is_right(data, form):
    network, inference = attached(TINY[0], data, warm_up=(0, 0), form=form)
    weights = torch.cat([network.get_parameter(name).flatten() for name in inference.names])
    rates = torch.cat([log_alpha(weights, inference.log_sigma), log_alpha(*inference.factors)]).clamp(max=8)
    torch.testing.assert_close(inference.penalty(network), kl(rates, form).sum(), rtol=1e-5, atol=1e-5)
    assert inference.terms == len(rates)
    network.train()
    own = [*(network.get_parameter(name) for name in inference.names), *inference.parameters()]

    def gradients(add):
        for parameter in (*network.parameters(), *inference.parameters()):
            parameter.grad = None
        (0 * network(data.train.x).sum()).backward()
        add()
        return [parameter.grad for parameter in own]

    closed = gradients(inference.penalizer(network, 0.1))
    for mine, right in zip(closed, gradients(lambda: (0.1 * inference.penalty(network)).backward()), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5)


def test_worth_is_the_least_of_what_a_weight_depends_on(data):
    network, inference = attached(TINY[0], data)
    pruner = build_pruner("group-variational-dropout")
    weights = pruner.score(State(network, weight_units(network), data.train, inference))
    found = dict(zip(weight_units(network).layer_names, weight_units(network).split(weights), strict=True))
    sigma = inference.sigma()
    own = {
        name: -log_alpha(network.get_parameter(name), sigma[name].log()).detach().double() for name in inference.names
    }
    first, second = (-part.detach().double() for part in log_alpha(*inference.factors).split(inference.sizes))
    first = torch.minimum(first, own["layers.1.weight"].amax(0))  # nothing reads it: it leaves
    second = torch.minimum(second, own["layers.2.weight"].amax(0))
    expected = torch.minimum(own["layers.1.weight"], torch.minimum(first, second.unsqueeze(1)))
    torch.testing.assert_close(found["layers.1.weight"], expected.flatten(), rtol=1e-6, atol=1e-6)
    groups = pruner.score(State(network, group_units(network), data.train, inference))
    torch.testing.assert_close(groups, torch.cat([first, second]), rtol=1e-6, atol=1e-6)


def test_factors_are_drawn_for_each_example_or_for_all(data):
    x = data.train.x[:1].expand(6, *data.train.x.shape[1:])
    torch.manual_seed(0)
    for ties, equal in (("example", False), ("minibatch", True)):
        network, inference = attached(TINY[0], data, ties=ties, draws="minibatch")
        network.train()
        outputs = network(x)
        assert torch.equal(outputs[0], outputs[1]) == equal
        inference.detach(network)


def test_a_network_without_structures_is_said_to_have_none(data):
    linear = build("mlp", (4,), 2, seed=0, widths=())
    with pytest.raises(NotApplicable, match="use variational-dropout"):
        GroupVariationalDropout().attach(linear, weight_units(linear), Split(torch.zeros(4, 4), torch.zeros(4).long()))


def test_a_recurrent_network_is_skipped():
    network, x = build("lstm", (6, 11), 3, seed=0, hidden=5, embedding=4), torch.randint(1, 11, (4, 6))
    with pytest.raises(NotApplicable, match=r"'inputs dimensions'.*: use variational-dropout"):
        GroupVariationalDropout().attach(network, weight_units(network), Split(x, torch.zeros(4).long()))


def test_rows_that_are_no_examples_share_a_draw(data):
    network, inference = Windows(), build_pruner("group-variational-dropout").inference()
    inference.attach(network, weight_units(network), data.train)
    with pytest.raises(UsageError, match="ties: minibatch"):
        network(data.train.x[:4])
    network, inference = Windows(), build_pruner("group-variational-dropout", ties="minibatch").inference()
    inference.attach(network, weight_units(network), data.train)
    assert network(data.train.x[:4]).shape == (4, 10)


def test_a_store_gives_back_all_that_was_learned(data):
    network, inference = attached(TINY[0], data)
    inference.reduce(network, half_mask(network))
    other = GroupVariationalDropout()
    copy = build("mlp", data.input_shape, data.outputs, seed=0, **TINY[0].options)
    other.attach(copy, weight_units(copy), data.train)
    other.load_tensors(inference.tensors())
    assert torch.equal(other.factors, inference.factors)
    assert torch.equal(other.alive, inference.alive)
