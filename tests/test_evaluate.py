"""Operations counted by hand, costs, and the separation of the test split."""

import time

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import group_units, weight_units
from bayesprune.architectures.running.cost import Cost, count_passes, measured
from bayesprune.architectures.units.mask import Mask
from bayesprune.bench.evaluation.evaluate import evaluate, outputs_and_targets
from bayesprune.bench.evaluation.flops import flops
from bayesprune.bench.training.seeding import derived, seeded, stream
from bayesprune.datasets.load import load
from bayesprune.datasets.split import Split
from torch import nn


@pytest.fixture(scope="module")
def digits():
    return load("digits", subset=100)


class Told(nn.Module):
    """Sums an example's inputs, and notes how many examples came at once."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x):
        x = x["pixels"] if isinstance(x, dict) else x
        self.sizes.append(len(x))
        return x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("shape", "size"), [((64,), 1024), ((1, 28, 28), 1024), ((3, 32, 32), 256), ((3, 64, 64), 64), ((3, 224, 224), 32)]
)
@pytest.mark.parametrize("in_a_dict", [False, True])
def test_large_examples_are_judged_few_at_a_time(shape, size, in_a_dict):
    images, y = torch.zeros(1, *shape).expand(size + 8, *shape), torch.arange(size + 8) % 2
    network = Told()
    outputs, targets = outputs_and_targets(network, Split({"pixels": images} if in_a_dict else images, y))
    assert network.sizes == [size, 8]
    assert outputs.shape == (size + 8, 1)
    torch.testing.assert_close(targets, y)


def test_flops_of_a_small_network_by_hand():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    convolution, linear = 2 * (2 * 1 * 9) * 16, 2 * 32 * 5  # multiply and add, 4 x 4 positions
    found = flops(network, torch.zeros(3, 1, 4, 4))
    assert found["flops_dense"] == convolution + linear
    assert found["flops_ratio"] == 1
    network[0].weight.data[0] = 0  # half of the convolution
    network[3].weight.data[:, :8] = 0  # a quarter of the linear layer
    assert flops(network, torch.zeros(3, 1, 4, 4))["flops_nonzero"] == convolution / 2 + linear * 3 / 4


@pytest.mark.parametrize("family", ["mlp", "lenet5", "resnet", "vit", "mixer"])
def test_non_zero_operations_of_a_masked_network_bound_those_of_the_compacted_one(family):
    network = build(family, (1, 8, 8), 10, seed=0)
    units = group_units(network)
    kept = torch.rand(units.n, generator=torch.Generator().manual_seed(0)) < 0.5
    for layer in units.split(kept):
        layer[0] = True
    mask = Mask(units, kept)
    mask.apply_(network)
    x = torch.zeros(1, 1, 8, 8)
    masked, small = flops(network, x), flops(compact(network, mask), x)
    assert small["flops_dense"] <= masked["flops_nonzero"] * (1 + 1e-9) <= masked["flops_dense"]
    if family in ("mlp", "lenet5", "resnet"):  # all their operations carry a weight
        assert small["flops_dense"] == pytest.approx(masked["flops_nonzero"])


def test_evaluation_reports_everything_and_leaves_the_network_alone(digits):
    network = build("resnet", digits.input_shape, 10, seed=0)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    values, outputs = evaluate(network, digits)
    assert outputs.dtype == torch.float16
    assert len(outputs) == len(digits.test)
    assert set(values["shift"]) == {f"{k}/{s}" for k in ("noise", "blur", "rotation") for s in range(1, 6)}
    assert values["shift_accuracy"] == pytest.approx(sum(v["accuracy"] for v in values["shift"].values()) / 15)
    assert values["nll_scaled"] <= values["nll"] + 0.05
    assert network.training
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_outputs_that_are_not_finite_are_an_error(digits):
    network = build("mlp", digits.input_shape, 10, seed=0)
    next(network.parameters()).data.fill_(float("nan"))
    with pytest.raises(ArithmeticError, match="not finite"):
        evaluate(network, digits)


def test_passes_seconds_and_memory_are_measured_also_inside_each_other():
    network = nn.Linear(3, 1)
    x = torch.randn(10, 3)
    device = torch.device("cpu")
    with measured(network, device) as outer:
        network(x)
        with measured(network, device) as inner:
            network(x).sum().backward()
            time.sleep(0.05)
            count_passes(5)
            torch.empty(30_000_000).fill_(1.0)
    assert inner.passes == 10 + 10 + 5
    assert outer.passes == 10 + inner.passes
    assert outer.seconds >= inner.seconds >= 0.05
    assert inner.peak_bytes > 100_000_000
    assert not network._forward_hooks
    assert (Cost(1, 2, 3) + Cost(10, 20, 1)) == Cost(11, 22, 3)
    assert Cost(11, 22, 3).without(Cost(1, 2, 9)) == Cost(10, 20, 9)


def test_seeds_are_separate_by_purpose_and_do_not_touch_the_global_state():
    assert derived(0, "a") != derived(0, "b") != derived(1, "b")
    assert torch.equal(torch.rand(3, generator=stream(4, "x")), torch.rand(3, generator=stream(4, "x")))
    before = torch.get_rng_state()
    with seeded(0, "x"):
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(0, "x"):
        assert torch.equal(torch.rand(2), first)
    with torch.random.fork_rng():
        torch.manual_seed(derived(0, "x"))
        assert torch.equal(torch.rand(2), first)


def test_a_weight_that_left_counts_as_zero_for_every_family(digits):
    for family in ("mlp", "vit"):
        network = build(family, digits.input_shape, 10, seed=0)
        units = weight_units(network)
        Mask(units, torch.arange(units.n) % 4 == 0).apply_(network)
        assert flops(network, digits.train.x)["flops_ratio"] < 0.45
