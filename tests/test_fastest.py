"""The fastest form: every form computes the same; nothing is called faster that is not."""

import importlib.util
from collections import Counter

import bayesprune as bp
import numpy as np
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.bench.evaluation import fastest as module
from bayesprune.bench.evaluation import latency
from bayesprune.bench.evaluation.fastest import fastest
from bayesprune.bench.evaluation.latency import FEWEST, ROUNDS
from bayesprune.datasets.errors import UsageError
from torch import nn


class Clock:
    """Stands still but for what takes time on it, so that a busy machine changes nothing."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1e-6
        return self.now


class Slow(nn.Module):
    """Takes a while on a clock, so that the other is faster by a known factor."""

    clock = Clock()

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.layer = seconds, nn.Linear(4, 3)

    def forward(self, x):
        self.clock.now += self.seconds
        return self.layer(x)


@pytest.fixture
def without_compiling(monkeypatch):
    monkeypatch.setattr(module, "_FORMS", {n: f for n, f in module._FORMS.items() if n != "compiled"})


def measured(monkeypatch, ratio, rounds, count=400):
    """Verdicts where the pruned network takes 1 / `ratio` of the time, on a machine whose times scatter by a fifth."""
    generator = np.random.default_rng(0)

    def times(contenders, x, seconds):
        own = {name: 1 / ratio if "pruned" in name else 1.0 for name in contenders}
        return {name: list(own[name] * generator.lognormal(sigma=0.2, size=rounds)) for name in contenders}

    monkeypatch.setattr(module, "_FORMS", {})
    monkeypatch.setattr(module, "times", times)
    network, x = nn.Linear(2, 2), torch.zeros(1, 2)
    return Counter(fastest(network, network, x, (1,))[0].verdict for _ in range(count))


@pytest.mark.parametrize("rounds", [FEWEST, ROUNDS])
def test_a_network_is_not_faster_than_itself(rounds, monkeypatch):
    assert measured(monkeypatch, 1.0, rounds)["no faster"] >= 390


@pytest.mark.parametrize(("ratio", "verdict"), [(2, "faster"), (0.5, "slower")])
def test_what_differs_by_more_than_the_machine_is_told_apart(ratio, verdict, monkeypatch):
    assert measured(monkeypatch, ratio, ROUNDS)[verdict] >= 390


@pytest.mark.parametrize(("seconds", "verdict"), [((4e-3, 1e-3), "faster"), ((1e-3, 4e-3), "slower")])
def test_what_is_faster_or_slower_is_called_so(seconds, verdict, monkeypatch):
    monkeypatch.setattr(module, "_FORMS", {})
    monkeypatch.setattr(latency, "time", Slow.clock)
    (found,) = fastest(Slow(seconds[0]), Slow(seconds[1]), torch.randn(8, 4), (8,), seconds=0.2)
    assert found.verdict == verdict
    assert found.form == "eager"
    assert verdict in str(found)


def test_all_forms_are_tried_and_compute_the_same(without_compiling):
    network = build("resnet", (1, 8, 8), 10, seed=0, depth=8, width=8).eval()
    (found,) = fastest(network, network, torch.randn(8, 1, 8, 8), (8,), seconds=0.2)
    names = {"eager", "channels last"} | ({"onnx"} if importlib.util.find_spec("onnxruntime") else set())
    assert set(found.seconds["dense"]) == set(found.seconds["pruned"]) == names
    x = torch.randn(8, 1, 8, 8)
    torch.testing.assert_close(found.run(x), network(x), atol=1e-4, rtol=1e-4)


def test_a_form_that_computes_something_else_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "_FORMS", {"wrong": lambda network, x: nn.Sequential(network, nn.Tanh())})
    network = nn.Linear(4, 3)
    (found,) = fastest(network, network, torch.randn(8, 4) * 9, (8,), seconds=0.1)
    assert set(found.seconds["dense"]) == {"eager"}
    assert "outputs differ" in found.left_out["wrong"]


def test_batches_that_are_no_numbers_are_told():
    with pytest.raises(UsageError, match="whole numbers >= 1, got 0"):
        fastest(nn.Linear(2, 2), nn.Linear(2, 2), torch.zeros(3, 2), (0,))


@pytest.mark.slow
def test_a_pruned_network_compiled_and_by_onnx():
    data = bp.load_dataset("digits", subset=120)
    network = build("resnet", data.input_shape, 10, seed=0, depth=8, width=8)
    pruned = bp.prune(network, data, "random", 0.5, structured=True, progress=False)
    (found,) = pruned.fastest((16,))
    assert "compiled" in {*found.seconds["pruned"], *found.left_out}
    x = data.validation.x[:16]
    torch.testing.assert_close(found.run(x), pruned.compact().eval()(x), atol=1e-4, rtol=1e-4)
