"""The command line on networks and checkpoints as users bring them: more classes than the data have, one logit, wrappers."""

import sys

import bayesprune as bp
import pytest
import torch
from bayesprune.bench.cli import main
from bayesprune.datasets.errors import UsageError
from click.testing import CliRunner
from torch import nn

SOURCE = """
import torch
from torch import nn
def ten(shape, outputs): return nn.Sequential(nn.Linear(shape[0], 16), nn.ReLU(), nn.Linear(16, 10))
def asked(shape, outputs): return nn.Sequential(nn.Linear(shape[0], 16), nn.ReLU(), nn.Linear(16, outputs))
def logit(shape, outputs): return nn.Sequential(nn.Linear(shape[0], 16), nn.ReLU(), nn.Linear(16, 1))
def normed(shape, outputs): return nn.Sequential(nn.Linear(shape[0], 8), nn.BatchNorm1d(8), nn.Linear(8, outputs))
def x(): return torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
def some(): return x(), torch.arange(60) % 4
def every(): return x(), torch.arange(60) % 10
def test_has_more(): return *some(), *every()
def yes(): return x(), torch.arange(60) % 2, x(), torch.arange(60) % 2
def tags(): return x(), (x()[:, :3] > 0).float(), x(), (x()[:, :3] > 0).float()
def real(): return x(), torch.randn(60, 4)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's, in the current folder."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def prune(mine, network, data, *options):
    arguments = ["prune", "--network", f"{mine}:{network}", "--data", f"{mine}:{data}", "--out", "o.safetensors"]
    return CliRunner().invoke(main, [*arguments, "--sparsity", "0.5", *options])


def checkpoint(outputs, wrap=lambda network: network):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, outputs))
    torch.save(wrap(network).state_dict(), "w.pt")
    return network


@pytest.mark.parametrize("network", ["ten", "asked"])
@pytest.mark.parametrize("data", ["every", "some", "test_has_more"])
def test_a_network_of_ten_classes_with_data_of_some(mine, network, data):
    dense = checkpoint(10)
    found = prune(mine, network, data, "--checkpoint", "w.pt")
    assert found.exit_code == 0, found.output
    pruned = bp.load("o.safetensors", dense)
    kept = pruned[2].weight != 0
    assert torch.equal(pruned[2].weight[kept], dense[2].weight[kept])
    assert len(pruned[2].weight) == 10


def test_a_network_says_itself_how_many_outputs_it_has(mine):
    assert prune(mine, "ten", "some").exit_code == 0


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, lambda network: nn.DataParallel(torch.compile(network))],
    ids=["replicated", "compiled", "both"],
)
def test_checkpoints_of_wrapped_networks_are_read(mine, wrap):
    checkpoint(4, wrap)
    found = prune(mine, "asked", "some", "--checkpoint", "w.pt")
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize("with_checkpoint", [False, True])
def test_one_logit_for_two_classes(mine, with_checkpoint):
    checkpoint(1)
    found = prune(mine, "logit", "yes", *(["--checkpoint", "w.pt"] if with_checkpoint else []))
    assert found.exit_code == 0, found.output
    assert "accuracy on 60 examples apart" in found.output


def test_several_labels_at_once(mine):
    found = prune(mine, "asked", "tags", "--method", "opd")
    assert found.exit_code == 0, found.output
    assert "accuracy on 60 examples apart" in found.output
    told = prune(mine, "asked", "tags", "--likelihood", "gaussian")
    assert told.exit_code == 0
    assert "accuracy" not in told.output


@pytest.mark.parametrize(
    ("network", "data", "message"),
    [
        ("ten", "real", "two inputs give (2, 10), expected shape (2, 4)"),
        ("asked", "every", "checkpoint w.pt is of another network: 2.bias is (7,) there and (10,)"),
    ],
)
def test_what_does_not_fit_is_still_refused(mine, network, data, message):
    checkpoint(7)
    found = prune(mine, network, data, "--checkpoint", "w.pt")
    assert (found.exit_code, message in found.output) == (2, True), found.output


def test_batches_of_one_under_a_norm_are_one_line(mine):
    found = prune(mine, "normed", "some", "--finetune", "1", "--batch-size", "1")
    assert found.exit_code == 2
    assert found.output.startswith(
        "bayesprune: error: a norm that learns from its batch cannot learn from a batch of 1"
    )
    assert len(found.output.strip().splitlines()) == 1


def test_python_takes_some_of_the_classes_too():
    x, y = torch.randn(60, 5), torch.arange(60) % 4
    bp.prune(nn.Linear(5, 10), (x, y), "opd", 0.5)
    with pytest.raises(UsageError, match="label 3 in y does not fit a network of 3 outputs"):
        bp.prune(nn.Linear(5, 3), (x, y), "opd", 0.5)


def test_options_of_a_data_set_can_be_told(mine):
    import numpy as np

    np.savez("cubes.npz", x=np.random.default_rng(0).normal(size=(60, 8, 8, 8)), y=np.arange(60) % 2)
    arguments = ["prune", "--network", "lenet5", "--data", "npz:cubes.npz", "--out", "o.safetensors"]
    refused = CliRunner().invoke(main, arguments)
    assert (refused.exit_code, "channels: first or channels: last" in refused.output) == (2, True)
    told = CliRunner().invoke(main, [*arguments, "--data-option", "channels=last"])
    assert told.exit_code == 0, told.output
