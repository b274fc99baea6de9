"""A method attached to a network in a loop of one's own: the same object as the suite's loop, saved and resumed."""

import math
import os
import signal
import subprocess
import sys
import time
import warnings

import bayesprune as bp
import pytest
import torch
from bayesprune.bench.training.loop import DivergedError
from bayesprune.bench.training.seeding import seeded, stream
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import NotApplicable, UsageError
from bayesprune.methods import registry
from bayesprune.methods.build import build
from torch import nn
from torch.nn.functional import cross_entropy

METHODS = [name for name in registry.catalogue() if "<" not in name] + ["spam-opd"]


class Net(nn.Module):
    """Convolution, BatchNorm, two layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.hidden, self.out = nn.Linear(6 * 36, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.out(self.hidden(self.norm(self.conv(x)).relu().flatten(1)).relu())


@pytest.fixture(scope="module")
def train():
    return bp.load_dataset("digits", subset=192).train


def whole_units(name: str, **options) -> bool:
    """Whether a method prunes structures: those do not grow back, and have no rows of their own."""
    pruner = build(name, **options)
    return pruner.when != "dynamic" and pruner.allocation != "rowwise"


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def wishes(name: str, train: Split, **options) -> dict:
    """What attach must know beforehand, by when the method prunes."""
    when = build(name, **options).when
    if when == "before":
        return {"data": train, "sparsity": 0.5}
    known = {"example": train.x[:32], "size": len(train)}
    return known | ({"epochs": 10, "sparsity": 0.5} if when in ("during", "online", "dynamic") else {})


def late(name: str, **options) -> float | None:
    """The sparsity that finish is told: of methods that have pruned before the end, none."""
    return None if build(name, **options).when in ("before", "during", "dynamic") else 0.5


def loop(network, method, optimizer, train, epochs, first=0, mean=cross_entropy, checkpoint=None):
    """Epochs of the user's loop, in an order that follows from the number of the epoch."""
    for epoch in range(first, epochs):
        network.train()
        for x, y in train.batches(32, torch.Generator().manual_seed(epoch)):
            with method.perturbed():
                method.backward(mean(network(x), y))
            optimizer.step()
            optimizer.zero_grad()
            method.after_step()
            if checkpoint:
                checkpoint(epoch)
        method.after_epoch(train)


def attached(name, train, network=None, lr=1e-3, epochs=None, **options):
    network = network or net()
    structured = whole_units(name, **options)
    told = ({} if epochs is None else {"epochs": epochs}) | wishes(name, train, **options)
    method = bp.attach(network, name, structured=structured, **told, **options)
    return network, method, method.optimizer(lr, 10 * 6)


# ---------------------------------------------------------------------- every method


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_prunes_and_compacts_a_network_in_a_loop_of_ones_own(name, train, tmp_path):
    try:
        network, method, optimizer = attached(name, train)
    except NotApplicable:
        assert name.startswith("lstm")
        return
    loop(network, method, optimizer, train, 2)
    pruned = method.finish(late(name))
    assert pruned.sparsity == pytest.approx(0.5, abs=0.03)
    assert pruned.network is network
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    small = pruned.deployable().eval()
    torch.testing.assert_close(small(train.x), network.eval()(train.x), atol=1e-4, rtol=1e-4)
    again = bp.load(pruned.save(tmp_path / "small.safetensors"), net()).eval()
    assert torch.equal(again(train.x), small(train.x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["magnitude", "spam-opd", "bmr", "bmrs-u", "variational-dropout", "pip-gates"])
def test_the_loop_of_the_suite_is_that_of_a_user(name, train):
    """The steps of `bp.fit`, taken by hand with the same draws, give the same network bit for bit."""
    settings = bp.Training(batch_size=64, lr=2e-3)
    fitted = bp.fit(net(), train, name, 0.5, epochs=6, structured=True, training=settings, progress=False)
    network, method, _ = attached(name, train, epochs=6)
    optimizer = torch.optim.Adam([*network.parameters(), *method.parameters()], 2e-3, fused=True)
    order = stream(0, "data order")
    with seeded(0, "training"):
        network.train()
        for _ in range(6):
            for x, y in train.batches(64, order):
                optimizer.zero_grad()
                method.backward(cross_entropy(network(x), y))
                optimizer.step()
                method.after_step()
            method.after_epoch(train)
    pruned = method.finish(0.5)
    assert torch.equal(pruned.mask.kept, fitted.mask.kept)
    for name, tensor in fitted.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_units_leave_gradually_and_stay_away(train):
    network, method, optimizer = attached("magnitude", train, when="during")
    shares = []
    for epoch in range(10):
        loop(network, method, optimizer, train, epoch + 1, first=epoch)
        shares.append(method.mask.sparsity)
        for name, kept in method.mask.tensors.items():
            assert not network.get_parameter(name)[~kept].any()
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(0.5, abs=0.03)
    assert shares == sorted(shares)
    assert method.finish().sparsity == shares[-1]


def test_a_loop_that_ends_early_is_told_and_cut_to_the_sparsity(train):
    network, method, optimizer = attached("magnitude", train, when="during")
    loop(network, method, optimizer, train, 4)
    with pytest.warns(UserWarning, match="ended after 4 epochs, of 10"):
        pruned = method.finish()
    assert pruned.sparsity == pytest.approx(0.5, abs=0.03)


def test_online_training_finishes_at_any_sparsity(train):
    network, method, optimizer = attached("magnitude", train, when="online")
    loop(network, method, optimizer, train, 10)
    assert method.finish(0.75).sparsity == pytest.approx(0.75, abs=0.03)


def test_pruned_in_the_middle_and_fine_tuned_in_the_loop(train):
    network, method, optimizer = attached("opd", train)
    loop(network, method, optimizer, train, 2)
    method.prune(0.5)
    before = network.out.weight.detach().clone()
    loop(network, method, optimizer, train, 4, first=2)
    pruned = method.finish()
    assert pruned.sparsity == pytest.approx(0.5, abs=0.03)
    assert not torch.equal(before, network.out.weight)
    for name, kept in pruned.mask.tensors.items():
        assert not network.get_parameter(name)[~kept].any()


def test_attached_to_a_trained_network_it_learns_what_prune_learns(train):
    trained = bp.fit(net(), train, "magnitude", 0.0, epochs=5, progress=False).network
    there = bp.prune(trained, train, "spam-opd", 0.5, progress=False)
    here = bp.attach(trained, "spam-opd", data=train).finish(0.5)
    assert torch.equal(here.mask.kept, there.mask.kept)
    assert here.notes["learned"]["trace"] == there.notes["learned"]["trace"]


# ---------------------------------------------------------------------- what loops do


@pytest.mark.parametrize("name", ["bmrs-u", "spam-opd", "magnitude"])
def test_accumulated_batches_are_one_large_batch(name, train):
    """In double precision and without noise: the penalty is added once, whatever the number of parts."""
    results = []
    for parts in (1, 4):
        network = net().double().eval()  # no draws, no batch statistics
        split = Split(train.x.double(), train.y)
        method = bp.attach(network, name, example=split.x[:32], size=len(split), structured=True)
        optimizer = torch.optim.SGD([*network.parameters(), *method.parameters()], 0.1)
        for x, y in split.batches(32):
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                method.backward(cross_entropy(network(a), b) / parts)
            optimizer.step()
            optimizer.zero_grad()
            method.after_step()
        results.append(
            torch.cat([p.detach().flatten().double() for p in (*network.parameters(), *method.parameters())])
        )
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mean-field", "bmrs-u"])
def test_a_penalty_may_be_summed_by_the_user(name, train):
    grads = []
    for how in ("backward", "penalty"):
        network, method, _ = attached(name, train, net().double())
        x, y = train.x[:32].double(), train.y[:32]
        torch.manual_seed(3)
        if how == "backward":
            method.backward(cross_entropy(network(x), y))
        else:
            (cross_entropy(network(x), y) + method.penalty()).backward()
        grads.append([p.grad.double() for p in (*network.parameters(), *method.parameters()) if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


def test_a_scaler_scales_the_penalty_too(train):
    class Scaler:
        def scale(self, loss):
            return loss * 1024

        def get_scale(self):
            return 1024.0

    grads = []
    for scaler in (None, Scaler()):
        network, method, _ = attached("mean-field", train, net().double())
        torch.manual_seed(3)
        method.backward(cross_entropy(network(train.x[:32].double()), train.y[:32]), scaler)
        grads.append(torch.cat([p.grad.flatten().double() for p in (*network.parameters(), *method.parameters())]))
    torch.testing.assert_close(grads[0] * 1024, grads[1], rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in METHODS if not n.startswith("lstm")])
def test_every_method_trains_under_autocast(name, train):
    network, method, optimizer = attached(name, train)
    network.train()
    for x, y in train.batches(32):
        with method.perturbed():
            with torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(network(x), y)
            method.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step()
    method.after_epoch(train)
    assert all(p.dtype == torch.float32 or p.dtype == torch.float64 for p in method.parameters())
    pruned = method.finish(late(name))
    assert torch.isfinite(pruned.scores).all()


# ---------------------------------------------------------------------- checkpoints

RESUMABLE = ["bmrs-u", "spam-opd", "mean-field", "pip-gates", "variational-dropout", "horseshoe", "ivon-opd", "ss-gl"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "options"), [
    *[(name, {}) for name in RESUMABLE],
    ("bmrs-u", {"when": "during"}), ("spam-opd", {"when": "during"}), ("magnitude", {"when": "online"}),
    *[(name, {"share": 1.0, **more}) for name in ("swag-obs", "sghmc-obs") for more in ({}, {"when": "during"})],
])  # fmt: skip
def test_a_checkpoint_in_the_middle_continues_bit_for_bit(name, options, train, tmp_path):
    whole, method, optimizer = attached(name, train, **options)
    torch.manual_seed(1)
    saved = tmp_path / "checkpoint.pt"

    def save(epoch):
        if epoch == 6 and not saved.exists():
            state = {"network": whole.state_dict(), "optimizer": optimizer.state_dict(), "method": method.state_dict()}
            torch.save(state, saved)

    # The order of an epoch follows from its number, so that the checkpoint after the first batch of epoch 6 is whole.
    loop(whole, method, optimizer, train, 6)
    save(6)
    loop(whole, method, optimizer, train, 10, first=6)
    expected = method.finish(late(name, **options))

    network, method, optimizer = attached(name, train, **options)
    torch.manual_seed(77)
    state = torch.load(saved, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    method.load_state_dict(state["method"])
    loop(network, method, optimizer, train, 10, first=6)
    found = method.finish(late(name, **options))
    assert torch.equal(found.mask.kept, expected.mask.kept)
    assert torch.equal(found.scores, expected.scores)
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[key]), key


def test_a_checkpoint_of_another_method_is_refused(train):
    _, method, _ = attached("bmrs-u", train)
    state = method.state_dict()
    with pytest.raises(UsageError, match=r"state is of bmrs-u.*this method is opd"):
        attached("opd", train)[1].load_state_dict(state)
    with pytest.raises(UsageError, match="bmrs-u"):
        attached("bmrs-u", train, p1=4)[1].load_state_dict(state)
    with pytest.raises(UsageError, match="no state of an attached method"):
        method.load_state_dict({"epoch": 3})


SCRIPT = """
import os, pathlib, sys, torch, bayesprune as bp
torch.manual_seed(0)
train = bp.load_dataset("digits", subset=192).train
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
method = bp.attach(network, "bmrs-u", example=train.x[:32], size=len(train), structured=True)
optimizer = torch.optim.Adam([*network.parameters(), *method.parameters()], 1e-2)
file, first = pathlib.Path("checkpoint.pt"), 0
if file.exists():
    state = torch.load(file, weights_only=True)
    network.load_state_dict(state["network"]); optimizer.load_state_dict(state["optimizer"])
    method.load_state_dict(state["method"]); first = state["epoch"]
    print("resumed at", first, flush=True)
for epoch in range(first, 24):
    for x, y in train.batches(32, torch.Generator().manual_seed(epoch)):
        method.backward(torch.nn.functional.cross_entropy(network(x), y))
        optimizer.step(); optimizer.zero_grad(); method.after_step()
    method.after_epoch(train)
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(),
                "method": method.state_dict(), "epoch": epoch + 1}, "new.pt")
    os.replace("new.pt", file)
    print(epoch, flush=True)
pruned = method.finish(0.5)
torch.save({"kept": pruned.mask.kept, "scores": pruned.scores}, "result.pt")
"""


def test_killed_and_resumed_the_final_mask_is_the_same(tmp_path):
    (tmp_path / "loop.py").write_text(SCRIPT)

    def run(folder, kill_at=None):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "../loop.py"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if kill_at is not None and line.strip() == str(kill_at):
                os.kill(process.pid, signal.SIGKILL)
                break
        process.wait()
        return lines

    run(tmp_path / "whole")
    run(tmp_path / "killed", kill_at=9)
    assert not (tmp_path / "killed" / "result.pt").exists()
    assert any(line.startswith("resumed at") for line in run(tmp_path / "killed"))
    a, b = (torch.load(tmp_path / f / "result.pt", weights_only=True) for f in ("whole", "killed"))
    assert torch.equal(a["kept"], b["kept"])
    assert torch.equal(a["scores"], b["scores"])


# ---------------------------------------------------------------------- mistakes


def test_calls_out_of_order_are_told(train):
    network, method, optimizer = attached("opd", train)
    with pytest.raises(UsageError, match="after_step comes after"):
        method.after_step()
    with pytest.raises(UsageError, match="after_epoch comes after"):
        method.after_epoch(train)
    with pytest.raises(UsageError, match="has seen no training examples"):
        method.finish(0.5)
    loop(network, method, optimizer, train, 1)
    with pytest.raises(UsageError, match="how much is to be removed"):
        method.finish()
    method.finish(0.5)
    with pytest.raises(UsageError, match="has finished"):
        method.backward(cross_entropy(network(train.x[:8]), train.y[:8]))
    with pytest.raises(UsageError, match="has finished"):
        method.finish(0.5)


@pytest.mark.parametrize("name", ["bmrs-u", "mean-field"])
def test_an_optimizer_without_the_parameters_of_the_method_is_told(name, train):
    network, method, _ = attached(name, train)
    with pytest.raises(UsageError, match=r"does not train the method's own parameters.*method.parameters"):
        loop(network, method, torch.optim.Adam(network.parameters()), train, 1)


def test_a_warm_up_from_a_learning_rate_of_zero_is_no_mistake(train):
    network, method, optimizer = attached("bmrs-u", train, lr=0.0)
    loop(network, method, optimizer, train, 1)


def test_a_sum_for_a_mean_is_told_with_the_factor(train):
    network, method, optimizer = attached("opd", train, lr=1e-5)
    with pytest.warns(UserWarning, match=r"about (2|3|4)\d times the mean loss.*sum over a batch of 32"):
        loop(network, method, optimizer, train, 1, mean=lambda o, y: cross_entropy(o, y, reduction="sum"))
    network, method, optimizer = attached("opd", train)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loop(network, method, optimizer, train, 3)


def test_data_of_another_size_are_told_and_nothing_is_lost(train):
    network, method, optimizer = attached("bmrs-u", train)
    for x, y in train.batches(32):
        method.backward(cross_entropy(network(x), y))
        optimizer.step()
        method.after_step()
    with pytest.raises(UsageError, match=r"have 64 examples, and attach was told size=1,?\d*"):
        method.after_epoch(train[:64])
    method.after_epoch(train)
    assert method.epoch == 1


def test_a_loss_that_is_not_finite_changes_nothing(train):
    network, method, optimizer = attached("bmrs-u", train)
    before = [p.detach().clone() for p in (*network.parameters(), *method.parameters())]
    with pytest.raises(DivergedError, match="loss is nan in epoch 1"):
        method.backward(cross_entropy(network(train.x[:8] * math.nan), train.y[:8]))
    optimizer.step()
    for p, b in zip((*network.parameters(), *method.parameters()), before, strict=True):
        assert torch.equal(p, b)


def test_a_network_that_changes_under_it_is_told(train):
    network, method, optimizer = attached("opd", train)
    network.out = nn.Linear(16, 5)
    with pytest.raises(UsageError, match=r"'out\.(weight|bias)' was \(10"):
        loop(network, method, optimizer, Split(train.x, train.y % 5), 1)


def test_a_copy_that_is_trained_instead_is_told(train):
    _, method, optimizer = attached("opd", train)
    with pytest.raises(UsageError, match="not to a copy"):
        loop(net(), method, optimizer, train, 1)


@pytest.mark.parametrize(("how", "message"), [
    ({"method": "opd"}, "give example="),
    ({"method": "opd", "example": torch.zeros(4, 1, 8, 8), "size": 0}, "size must be the number"),
    ({"method": "opd", "example": [1], "size": 5}, "example must be a batch"),
    ({"method": "snip", "example": torch.zeros(4, 1, 8, 8), "size": 9, "sparsity": 0.5}, "give attach data="),
    ({"method": "magnitude", "when": "during", "example": torch.zeros(4, 1, 8, 8), "size": 9, "sparsity": 0.5},
     "epochs, which this method needs"),
    ({"method": "magnitude", "when": "during", "example": torch.zeros(4, 1, 8, 8), "size": 9, "epochs": 9},
     "give attach sparsity="),
    ({"method": "magnitude", "example": torch.zeros(4, 1, 8, 8), "size": 9, "sparsity": "auto"}, "no threshold"),
    ({"method": "opd", "precision": "tuned", "example": torch.zeros(4, 1, 8, 8), "size": 9}, "bayesprune.fit"),
])  # fmt: skip
def test_what_attach_needs_to_know_is_told(how, message):
    with pytest.raises(UsageError, match=message):
        bp.attach(net(), **how)


def test_networks_whose_weights_are_not_trained_in_place_are_told(train):
    parametrised = net()
    torch.nn.utils.parametrizations.weight_norm(parametrised.hidden)
    for network, message in ((parametrised, "computed from others"), (net().bfloat16(), "float32")):
        with pytest.raises(UsageError, match=message):
            bp.attach(network, "opd", example=train.x[:4], size=len(train))


def test_attaching_takes_no_time_worth_telling(train):
    start = time.perf_counter()
    attached("bmrs-u", train)
    assert time.perf_counter() - start < 30  # a hang, not a benchmark
