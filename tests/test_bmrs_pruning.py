"""Pruning while the noise is learned: when units leave, that they stay away, and norms of structures as the baseline."""

import dataclasses
import math

import pytest
import torch
from bayesprune.architectures.build import build as build_network
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.running.cost import Cost
from bayesprune.bench.harness.workbench import Workbench
from bayesprune.bench.pruning.engine import Engine, Scored
from bayesprune.bench.pruning.gradual import gradual_share, is_pruned_after, pruning_span
from bayesprune.bench.pruning.schedules import prune
from bayesprune.bench.results.store import Store
from bayesprune.bench.spec.run import Choice, Run
from bayesprune.bench.spec.settings import Finetune, Training
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.methods.build import build as build_pruner
from bayesprune.methods.l2_group import l2_group
from bayesprune.methods.laplace.map import MAP
from bayesprune.methods.pruner import State

PERCEPTRON = Choice(name="mlp", options={"widths": [16, 12], "activation": "tanh"})
EPOCHS = 6


@pytest.fixture(scope="module")
def data():
    return load("digits", 0, subset=120)


def run_of(sparsity="auto", epochs=EPOCHS, finetune=2, **method) -> Run:
    return Run(
        dataset=Choice(name="digits", options={"subset": 120}),
        architecture=PERCEPTRON,
        method=Choice(name="snr", options={"when": "during", "lr_factor": 50.0} | method),
        sparsity=sparsity,
        seed=0,
        units="groups",
        training=Training(epochs=epochs, lr=5e-3, batch_size=32),
        finetune=Finetune(epochs=finetune),
    )


class Watched(Engine):
    """Notes the epoch of every scoring, the inference, and what was kept after it."""

    def score(self, network, inference, part=0, present=None):
        self.__dict__.setdefault("epochs", []).append(part)
        self.inference = inference
        return super().score(network, inference, part, present)

    def mask(self, scored, sparsity, among=None):
        mask = super().mask(scored, sparsity, among)
        self.__dict__.setdefault("kept", []).append(mask.kept)
        return mask


def watched(run, data, tmp_path) -> Watched:
    engine = Workbench(run, data, Store(tmp_path), torch.device("cpu")).engine
    engine.__class__ = Watched
    return engine


# ---------------------------------------------------------------------- when


def test_its_own_decision_is_taken_after_every_epoch_of_training(data, tmp_path):
    bench = watched(run_of(), data, tmp_path)
    outcome = prune(bench, None)
    assert bench.epochs == [*range(1, EPOCHS + 1)]
    assert 0 < outcome.mask.count < bench.units.n
    assert torch.equal(outcome.mask.kept, bench.kept[-1])


@pytest.mark.parametrize(("every", "epochs"), [(2, [2, 4, 6]), (4, [2, 6]), (50, [6])])
def test_or_after_every_few(every, epochs, data, tmp_path):
    bench = watched(run_of(every=every), data, tmp_path)
    prune(bench, None)
    assert bench.epochs == epochs


def test_what_has_left_stays_away_and_is_not_penalised(data, tmp_path):
    bench = watched(run_of(), data, tmp_path)
    outcome = prune(bench, None)
    assert all(not bool((later & ~earlier).any()) for earlier, later in zip(bench.kept, bench.kept[1:], strict=False))
    assert torch.equal(bench.inference.weights > 0, outcome.mask.kept)
    for name, mask in outcome.mask.tensors.items():
        assert not outcome.network.get_parameter(name)[~mask].any()


def test_a_sparsity_is_reached_gradually(data, tmp_path):
    bench = watched(run_of(sparsity=0.5), data, tmp_path)
    outcome = prune(bench, 0.5)
    assert bench.epochs == [2, 3, 4, 5, 6]
    kept = [int(mask.sum()) for mask in bench.kept]
    assert kept == sorted(kept, reverse=True)
    assert outcome.mask.count == bench.units.n // 2


def test_spans_and_shares():
    assert pruning_span(EPOCHS, 0, True) == (1, EPOCHS)
    assert pruning_span(30, 10, False) == (10, 30)
    assert [e for e in range(1, 50) if is_pruned_after(e, (10, 30), 5)] == [10, 15, 20, 25, 30]
    shares = [gradual_share(e, (10, 30)) for e in range(10, 31)]
    assert shares[-1] == 1
    assert shares[0] == pytest.approx(1 - (20 / 21) ** 3)
    assert shares == sorted(shares)


def test_what_was_learned_is_told_for_the_pruned_network(data, tmp_path):
    outcome = prune(watched(run_of(), data, tmp_path), None)
    assert len(outcome.learned["log_sigma"]) == 2
    assert all(math.isfinite(value) for value in outcome.learned["log_sigma"])


def test_a_layer_keeps_the_best_of_what_is_left_in_it(data, tmp_path):
    """Not the best of all, which may have left long ago."""
    bench = watched(run_of(), data, tmp_path)
    state = State(build_network("mlp", data.input_shape, data.outputs, seed=0, **PERCEPTRON.options), bench.units,
                  data.train, MAP(1.0))  # fmt: skip
    scores = -torch.arange(1.0, bench.units.n + 1).double()  # all below the threshold
    among = torch.ones(bench.units.n, dtype=torch.bool)
    among[:3] = False
    kept = bench.mask(Scored(scores, state, Cost()), None, among).kept
    assert kept.nonzero().flatten().tolist() == [3, 16]


@pytest.mark.parametrize("value", [0, 1.5, True, "often"])
def test_every_is_a_whole_number_of_epochs(value):
    with pytest.raises(UsageError, match=r"every=.* whole number >= 1"):
        build_pruner("bmrs-n", every=value)
    with pytest.raises(UsageError, match="every"):
        dataclasses.replace(build_pruner("bmrs-n"), every=0)


# ---------------------------------------------------------------------- norms of structures


def scored(choice: Choice, data, normalise="none"):
    network = build_network(choice.name, data.input_shape, data.outputs, seed=0, **choice.options)
    units = group_units(network)
    state = State(network, units, data.train, MAP(1.0))
    return network, units, units.split(l2_group(state, normalise))


def test_norms_are_those_of_rows_and_filters(data):
    network, _, (conv1, conv2, fc1, fc2) = scored(Choice(name="lenet5"), data)
    for norms, name in ((conv1, "conv1"), (conv2, "conv2"), (fc1, "fc1"), (fc2, "fc2")):
        torch.testing.assert_close(
            norms, network.get_parameter(f"{name}.weight").detach().double().flatten(1).norm(dim=1)
        )


def test_norms_by_fan_in_compare_layers(data):
    network, _, plain = scored(Choice(name="lenet5"), data)
    _, _, normalised = scored(Choice(name="lenet5"), data, "fan-in")
    for name, one, two in zip(("conv1", "conv2", "fc1", "fc2"), plain, normalised, strict=True):
        fan_in = network.get_parameter(f"{name}.weight")[0].numel()
        torch.testing.assert_close(one / math.sqrt(fan_in), two)


def test_all_that_write_a_channel_of_a_residual_stream_count(data):
    network, units, norms = scored(Choice(name="resnet", options={"width": 8}), data)
    by_name = dict(zip(units.layer_names, norms, strict=True))
    for group in units.groups:
        rows = [p for p in group.slices if p.axis == 0 and network.get_parameter(p.name).dim() == 4]
        squares = sum(network.get_parameter(p.name).detach().double().square().flatten(1).sum(1) for p in rows)
        torch.testing.assert_close(by_name[group.name], squares.sqrt())


def test_norms_of_heads_are_those_of_their_queries_keys_and_values(data):
    network, _, norms = scored(Choice(name="vit", options={"dim": 16, "depth": 1}), data)
    weight = network.get_parameter("blocks.0.attn.qkv.weight").detach().double()
    expected = weight.view(3, norms[0].numel(), -1, 16).square().sum((0, 2, 3)).sqrt()
    torch.testing.assert_close(norms[0], expected)


def test_the_norm_of_a_single_weight_is_its_magnitude(data):
    network = build_network("mlp", data.input_shape, data.outputs, seed=0)
    state = State(network, weight_units(network), data.train, MAP(1.0))
    expected = torch.cat([w.abs().flatten() for w in state.weights().values()]).double()
    for normalise in ("none", "fan-in"):
        torch.testing.assert_close(l2_group(state, normalise), expected)


def test_structures_that_no_prunable_weight_computes_have_no_norm(data):
    network = build_network("mlp", data.input_shape, data.outputs, seed=0)
    network.layers[0].weight.requires_grad_(False)
    with pytest.raises(UsageError, match=r"layers\.0 neurons"):
        l2_group(State(network, group_units(network), data.train, MAP(1.0)))
