"""The curvature diagonal against explicit Jacobians, an explicit Hessian of a linear model, and laplace-torch."""

import subprocess
import sys

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.architectures.running.cost import measured
from bayesprune.datasets.errors import UsageError
from bayesprune.methods.curvature import diagonals as curvature
from bayesprune.methods.curvature.diagonals import diagonal, predicted_bytes
from bayesprune.methods.curvature.output_vectors import output_vectors
from bayesprune.methods.curvature.squared_gradients import SquaredGradients
from networks import LastState
from oracles import FAMILIES, batch, flat, jacobians, tiny_conv_net
from torch import nn


def explicit(network, x, y, kind):
    network = network.eval()
    j, _ = jacobians(network, x)
    p = network(x).detach().softmax(1)
    if kind == "ef":
        v = nn.functional.one_hot(y, p.shape[1]) - p
        return torch.einsum("ncp,nc->np", j, v.to(j)).square().sum(0)
    hessian = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return torch.einsum("ncp,ncd,ndp->p", j, hessian, j)


@pytest.mark.parametrize("kind", ["ggn", "ef"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_equals_explicit_jacobians(kind, batch_norm):
    network = tiny_conv_net(batch_norm)
    x, y = batch()
    found = flat(diagonal(network, x, y, kind=kind).values())
    torch.testing.assert_close(found, explicit(network, x, y, kind), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_every_family_against_explicit_jacobians(family, options):
    network = build(family, (1, 8, 8), 3, seed=0, **options).double().eval()
    for p in network.parameters():  # no zeros of an initialisation may hide a mistake
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype)
    x, y = batch(2, (1, 8, 8), 3)
    found = diagonal(network, x, y)
    expected = explicit(network, x, y, "ggn").split([p.numel() for p in network.parameters()])
    for (name, value), oracle in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(value.flatten(), oracle, rtol=1e-8, atol=1e-12, msg=name)


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_every_family_in_single_precision(family, options):
    network = build(family, (1, 8, 8), 3, seed=0, **options).eval()
    for p in network.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    x, y = batch(20, (1, 8, 8), 3)
    found = flat(diagonal(network, x.float(), y).values())
    exact = flat(diagonal(network.double(), x.float().double(), y).values())
    assert (found - exact).norm() <= 1e-5 * exact.norm()


def test_gaussian_likelihood_of_a_linear_model_is_its_hessian():
    network = nn.Linear(3, 2, dtype=torch.float64)
    x = torch.randn(7, 3, dtype=torch.float64)
    found = diagonal(network, x, torch.zeros(7, 2, dtype=torch.float64), "gaussian")
    torch.testing.assert_close(found["weight"], x.square().sum(0).expand(2, 3))
    torch.testing.assert_close(found["bias"], torch.full((2,), 7.0, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["mc", "rademacher", "topk"])
def test_random_kinds_are_unbiased(kind):
    network = nn.Linear(3, 4, dtype=torch.float64)
    x, y = batch(4, (3,))
    exact = flat(diagonal(network, x, y).values())
    many_x, many_y = x.repeat(8000, 1), y.repeat(8000)
    draws = (
        flat(diagonal(network, many_x, many_y, kind=kind, generator=torch.Generator().manual_seed(0)).values()) / 8000
    )
    torch.testing.assert_close(draws, exact, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("top", [3, 7])
def test_top_k_with_all_roots_alone_is_exact(top):
    network, (x, y) = tiny_conv_net(), batch()
    found = diagonal(network, x, y, kind="topk", generator=torch.Generator(), top=top)
    torch.testing.assert_close(flat(found.values()), flat(diagonal(network, x, y).values()), rtol=1e-12, atol=0)


def test_top_k_is_more_accurate_than_rademacher_which_is_exact_for_two_classes():
    network, (x, y) = tiny_conv_net(), batch(64)
    exact = flat(diagonal(network, x, y).values())

    def error(**options):
        seeds = (torch.Generator().manual_seed(s) for s in range(10))
        return sum((flat(diagonal(network, x, y, generator=g, **options).values()) - exact).norm() for g in seeds)

    assert error(kind="topk", top=2) < error(kind="topk") < error(kind="rademacher") < error(kind="mc")
    two = nn.Sequential(network, nn.Linear(4, 2, dtype=torch.float64))
    drawn = diagonal(two, x, y % 2, kind="rademacher", generator=torch.Generator())
    torch.testing.assert_close(drawn, diagonal(two, x, y % 2), rtol=1e-10, atol=1e-18)


def test_roots_stay_accurate_when_the_network_is_sure():
    logits = torch.tensor([[0.0, -14.0, -30.0, -17.0], [60.0, 0.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    vectors = output_vectors(logits, torch.zeros(3).long(), "categorical", "ggn")
    p = logits.double().softmax(1)
    rest = torch.stack([p[:, [j for j in range(4) if j != i]].sum(1) for i in range(4)], 1)  # 1 - p without its error
    hessian = torch.diag_embed(p * rest) - (p.unsqueeze(2) * p.unsqueeze(1)) * (1 - torch.eye(4))
    assert vectors.shape == (3, 3, 4)
    torch.testing.assert_close((vectors.mT @ vectors).double(), hessian, rtol=1e-5, atol=1e-30)


def test_batches_and_order_do_not_matter(monkeypatch):
    network, (x, y) = tiny_conv_net(), batch(16)
    whole = flat(diagonal(network, x, y).values())
    order = torch.randperm(16)
    for size in (1, 5):
        monkeypatch.setattr(curvature, "BATCH", size)
        torch.testing.assert_close(flat(diagonal(network, x[order], y[order]).values()), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["ggn", "mc", "rademacher", "topk", "ef"])
@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_memory_changes_the_batches_and_nothing_else(kind, likelihood):
    network, (x, y) = tiny_conv_net(), batch(40)
    y = y if likelihood == "categorical" else torch.randn(40, 4, generator=torch.Generator().manual_seed(2)).double()
    batches = []
    network.register_forward_hook(lambda module, inputs, output: batches.append(len(output)))

    def run(memory):
        batches.clear()
        drawn = torch.Generator().manual_seed(5)
        return flat(diagonal(network, x, y, likelihood, kind, drawn, memory=memory).values()), list(batches)

    whole, one_batch = run(1 << 30)
    parts, few = run(predicted_bytes(network, x, likelihood, kind, batch=7))
    single, ones = run(1)
    assert (one_batch, set(few[:-1]), set(ones)) == ([40], {7}, {1})
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(single, whole, rtol=1e-12, atol=0)


PEAK = """
import ctypes, sys, torch
from pathlib import Path
from bayesprune.architectures.build import build
from bayesprune.methods.curvature.diagonals import diagonal, predicted_bytes

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

torch.set_num_threads(1)
family, side, examples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
network = build(family, (3, side, side), 10, seed=0)
x, y = torch.randn(examples, 3, side, side), torch.zeros(examples, dtype=torch.int64)
diagonal(network, x[:2], y[:2])
ctypes.CDLL(None).malloc_trim(0)  # what the allocator holds for later would hide what is taken
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
diagonal(network, x, y, kind="ef", memory=1 << 40)
print(predicted_bytes(network, x, kind="ef", batch=examples) / (status("VmHWM") - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark of memory is read from /proc")
@pytest.mark.parametrize(("family", "side", "examples"), [("lenet5", 32, 256), ("resnet", 32, 64)])
def test_predicted_memory_is_right_within_a_factor_of_two(family, side, examples):
    command = [sys.executable, "-c", PEAK, family, str(side), str(examples)]
    ratio = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.5 < ratio < 2


def test_passes_are_counted():
    network, (x, y) = tiny_conv_net(), batch(12)
    with measured(network, torch.device("cpu")) as cost:
        diagonal(network, x, y)
    assert cost.passes == 12 * (1 + 3)  # one root less than classes
    with measured(network, torch.device("cpu")) as cost:
        diagonal(network, x, y, kind="ef")
    assert cost.passes == 12 * 2


def test_laplace_torch_agrees():
    laplace = pytest.importorskip("laplace")
    from laplace.curvature import CurvlinopsGGN

    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(20, 5), torch.randint(0, 3, (20,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=20)
    reference = laplace.Laplace(network, "classification", "all", "diag", backend=CurvlinopsGGN)
    reference.fit(loader)
    torch.testing.assert_close(flat(diagonal(network, x, y).values()).float(), reference.H, rtol=1e-4, atol=1e-6)


def test_leaves_modes_and_gradients_alone():
    network, (x, y) = tiny_conv_net(True).train(), batch()
    network[2].eval()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    diagonal(network, x, y)
    assert network.training
    assert not network[2].training
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_frozen_parameters_are_left_out():
    network, (x, y) = tiny_conv_net(), batch()
    network[0].weight.requires_grad_(False)
    found = diagonal(network, x, y)
    assert "0.weight" not in found
    network[0].weight.requires_grad_(True)
    torch.testing.assert_close(found["7.weight"], diagonal(network, x, y)["7.weight"])


def test_bad_input_is_refused():
    network, (x, y) = tiny_conv_net(), batch()
    with pytest.raises(UsageError, match="at least one example"):
        diagonal(network, x[:0], y[:0])
    with pytest.raises(UsageError, match="generator"):
        diagonal(network, x, y, kind="mc")
    for value in ("inf", "nan"):
        with pytest.raises(ArithmeticError, match="not finite"):
            diagonal(network, x * float(value), y, kind="mc", generator=torch.Generator())
    overflowing = nn.Sequential(nn.Linear(1, 2), nn.Hardtanh())
    overflowing[0].weight.data *= 0
    with pytest.raises(ArithmeticError, match=r"curvature of '0\.weight'"):
        diagonal(overflowing, torch.full((3, 1), 1e30), y[:3] % 2)
    bad = [
        ("one target for each", {"y": y[:3]}),
        ("must be one of ggn, mc", {"kind": "hutchinson"}),
        ("must be 'categorical', 'gaussian', 'bernoulli'", {"likelihood": "hinge"}),
        ("whole numbers", {"y": y.double()}),
        ("0 to 3 for 4 outputs, got 4", {"y": y.clamp_min(4)}),
        ("0 to 3 for 4 outputs, got -1", {"y": y - 1 - y}),
        ("like the outputs", {"y": y.double(), "likelihood": "gaussian"}),
        ("like the outputs", {"y": torch.zeros(6, 3), "likelihood": "gaussian"}),
        ("top must be", {"kind": "topk", "generator": torch.Generator(), "top": -1}),
        *(("generator", {"kind": kind}) for kind in ("mc", "rademacher", "topk")),
    ]
    for match, options in bad:
        with pytest.raises(UsageError, match=match):
            diagonal(network, **{"x": x, "y": y} | options)
    with pytest.raises(UsageError, match="outputs of shape"):
        diagonal(nn.Conv2d(1, 3, 1, dtype=torch.float64), x, y)
    with pytest.raises(UsageError, match="frozen"):
        diagonal(network.requires_grad_(False), x, y)


class Odd(nn.Module):
    """Tied weights, a grouped and a strided convolution, an embedding, and operations that nobody foresaw."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 6)
        self.grouped = nn.Conv1d(6, 6, 1)
        self.convolution = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False)
        self.same = nn.Conv2d(4, 4, 3, padding="same")
        self.tied = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.rand(6))
        self.power = nn.Parameter(torch.rand(6))
        self.head = nn.Linear(6 + 4, 3)

    def forward(self, x):
        tokens = self.table((x.flatten(1)[:, :7] * 3).round().long().abs() % 5)
        tokens = self.tied(self.tied(tokens).tanh()) * self.scale + tokens.abs() ** self.power
        tokens = self.grouped(tokens.transpose(1, 2)).mean(2)
        return self.head(torch.cat([tokens, self.same(self.convolution(x)).mean((2, 3))], 1))


def test_unforeseen_operations_and_tied_weights_are_exact_too():
    torch.manual_seed(0)
    network = Odd().double()
    x, y = batch(5, (2, 5, 5), 3)
    found = diagonal(network, x, y)
    expected = explicit(network, x, y, "ggn").split([p.numel() for p in network.parameters()])
    for (name, value), oracle in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(value.flatten(), oracle, rtol=1e-8, atol=1e-13, msg=name)


@pytest.mark.parametrize("model", ["convnext_atto", "mobilenetv3_small_050"])
def test_networks_of_timm_against_explicit_jacobians(model):
    network = build(f"timm/{model}", (3, 32, 32), 2, seed=0).double().eval()
    x, y = batch(1, (3, 32, 32), 2)
    found = flat(diagonal(network, x, y).values())
    torch.testing.assert_close(found, explicit(network, x, y, "ggn"), rtol=1e-6, atol=1e-12)


def test_our_own_families_need_no_fallback():
    for family, options in FAMILIES:
        network = build(family, (1, 8, 8), 3, seed=0, **options).eval()
        collected = SquaredGradients(curvature.trainable(network))
        with collected:
            network(torch.randn(2, 1, 8, 8))
        assert not collected.fallback, family


class Unusual(nn.Module):
    """What must not be taken for one use per example: windows, constant tables, caches, transposes, dropped outputs."""

    def __init__(self):
        super().__init__()
        self.windows, self.table = nn.Linear(4, 4), nn.Linear(2, 4)
        self.twice, self.shift = nn.Linear(4, 4), nn.Parameter(torch.rand(1))
        self.head, self.bias = nn.Linear(4, 3), nn.Parameter(torch.rand(1, 3))
        self.register_buffer("places", torch.rand(3, 2))
        self.register_buffer("scales", torch.rand(5))
        self.kept = None

    def train(self, mode=True):
        self.kept = None if mode else self.kept
        return super().train(mode)

    def forward(self, x):
        tokens = self.windows(x.reshape(-1, 3, 4)).reshape(len(x), -1, 3, 4).relu_()
        if self.kept is None:
            self.kept = self.table(self.places)
        seen = self.twice(tokens + self.kept).relu_()
        self.twice(seen)
        scaled = seen * (self.scales * self.shift).sum()
        return scaled.mean((1, 2)) @ self.head.weight.T + self.head.bias + self.bias.expand(len(x), -1)


@pytest.mark.parametrize("n", [1, 3, 5])  # the lengths of the table and of the scales among them
def test_only_examples_are_taken_for_examples(n):
    torch.manual_seed(0)
    network = Unusual().double()
    x, y = batch(n, (2, 3, 4), 3)
    network.train()
    found = diagonal(network, x, y)
    expected = torch.zeros(1)
    for example, label in zip(x.split(1), y.split(1), strict=True):
        network.train()  # lets go of what the last example's graph kept
        expected = expected + explicit_once(network, example, label)
    for (name, value), oracle in zip(
        found.items(), expected.split([p.numel() for p in network.parameters()]), strict=True
    ):
        torch.testing.assert_close(value.flatten(), oracle, rtol=1e-8, atol=1e-14, msg=name)


def explicit_once(network, x, y):
    """Exact diagonal of one example from one graph."""
    output = network.eval()(x)[0]
    rows = [
        flat(torch.autograd.grad(o, list(network.parameters()), retain_graph=True, materialize_grads=True))
        for o in output
    ]
    p = output.detach().softmax(0)
    j = torch.stack(rows)
    return torch.einsum("cp,cd,dp->p", j, torch.diag(p) - torch.outer(p, p), j)


def test_several_outputs_of_a_regression():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    x, y = torch.randn(6, 3).double(), torch.randn(6, 4).double()
    j, _ = jacobians(network, x)
    found = flat(diagonal(network, x, y, "gaussian").values())
    torch.testing.assert_close(found, j.square().sum((0, 1)), rtol=1e-10, atol=0)
    residuals = torch.einsum("ncp,nc->np", j, network(x).detach() - y).square().sum(0)
    torch.testing.assert_close(flat(diagonal(network, x, y, "gaussian", "ef").values()), residuals)


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_every_parameter_may_be_frozen_or_alone(family, options):
    network = build(family, (1, 8, 8), 3, seed=0, **options)
    x, y = batch(3, (1, 8, 8), 3)
    x = x.float()
    whole = diagonal(network, x, y, kind="ef")
    for parity in (0, 1):
        for index, p in enumerate(network.parameters()):
            p.requires_grad_(index % 2 == parity)
        some = diagonal(network, x, y, kind="ef")
        assert list(some) == [n for n, p in network.named_parameters() if p.requires_grad]
        torch.testing.assert_close(some, {n: whole[n] for n in some}, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [{"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}, {"proj_size": 2}],
    ids=str,
)
def test_lstms_of_all_kinds_against_explicit_jacobians(options):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, **options)
            self.head = nn.LazyLinear(3)

        def forward(self, x):
            outputs, (h, c) = self.lstm(x if self.lstm.batch_first else x.transpose(0, 1))
            final = torch.cat([h.transpose(0, 1).flatten(1), c.transpose(0, 1).flatten(1)], 1)
            first = outputs[:, 0] if self.lstm.batch_first else outputs[0]
            return self.head(torch.cat([final, first], 1))

    torch.manual_seed(0)
    network = Reader()
    network(torch.randn(2, 5, 3))
    network = network.double()
    x, y = batch(4, (5, 3), 3)
    found = flat(diagonal(network, x, y).values())
    torch.testing.assert_close(found, explicit(network, x, y, "ggn"), rtol=1e-8, atol=1e-13)
    collected = SquaredGradients(curvature.trainable(network))
    with torch.no_grad():
        collected.try_out(network, x)
    assert bool(collected.fallback) == ("proj_size" in options)


def test_a_recurrent_network_against_explicit_jacobians():
    torch.manual_seed(0)
    network = LastState().double()
    x, y = batch(4, (5, 3), 3)
    found = flat(diagonal(network, x, y).values())
    torch.testing.assert_close(found, explicit(network, x, y, "ggn"), rtol=1e-8, atol=1e-13)
