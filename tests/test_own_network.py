"""`bayesprune prune`: a network of one's own, from checkpoint to a smaller file, through the real command."""

import os
import re
import subprocess
import sys

import bayesprune as bp
import pytest
import torch
from bayesprune.bench.cli import main
from click.testing import CliRunner
from safetensors.torch import save_file

MINE = """
import torch
from torch import nn

class Net(nn.Module):
    \"\"\"Branches, a residual, a grouped convolution, BatchNorm, a head.\"\"\"
    def __init__(self, channels, outputs):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.left, self.right = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(16, outputs)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.grouped(x).relu()
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        return self.head(x.mean((2, 3)))

def build(shape, outputs):
    torch.manual_seed(0)
    return Net(shape[0], outputs)

def examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 1, 8, 8, generator=generator)
    y = (x[:, 0, :4].mean((1, 2)) > 0).long() + 2 * (x[:, 0, 4:].mean((1, 2)) > 0).long()
    return x[:80], y[:80], x[80:], y[80:]

def loader():
    x, y, *_ = examples()
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)

def broken():
    raise RuntimeError("no disk")

def text():
    import numpy as np
    from bayesprune.datasets.source import Source
    from bayesprune.datasets.tokens import RESERVED
    stream = np.arange(600) % 5 + 3
    return Source(x=stream[:-1].reshape(-1, 599)[:, :590].reshape(59, 10), y=stream[1:591].reshape(59, 10),
                  vocabulary=(*RESERVED, *"abcde"))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def prune_in_a_process(*arguments):
    command = [sys.executable, "-m", "bayesprune.bench.cli", "prune", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def prune(*arguments):
    done = CliRunner().invoke(main, ["prune", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def loaded_elsewhere(place, path, x, trust=False):
    torch.save(x, place / "x.pt")
    script = (
        "import torch, bayesprune as bp\n"
        f"network = bp.load({str(path)!r}, trust={trust})\n"
        f"torch.save([network(torch.load('x.pt')), sum(p.numel() for p in network.parameters())], 'y.pt')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=place, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return torch.load(place / "y.pt")


def test_a_network_of_ones_own_becomes_smaller_and_loads_in_a_fresh_process(place):
    import mine

    network = mine.build((1, 8, 8), 4)
    for buffer in (network.norm.running_mean, network.norm.running_var):
        buffer.uniform_(0.5, 1.5)
    save_file(network.state_dict(), place / "w.safetensors")
    out = place / "small.safetensors"
    said = prune_in_a_process("--network", "mine:build", "--checkpoint", "w.safetensors", "--data", "mine:examples",
                 "--method", "opd", "--method-option", "kind=ef", "--sparsity", "0.5", "--structured",
                 "--finetune", "1", "--reestimate-batch-norm", "--out", out)  # fmt: skip
    for part in ("compact: ", "certified: ", "accuracy on 40 examples apart", "latency at batch 64", "written: "):
        assert part in said
    outputs, parameters = loaded_elsewhere(place, out, torch.randn(3, 1, 8, 8), trust=True)  # code of mine
    assert outputs.shape == (3, 4)
    assert parameters < 0.65 * sum(p.numel() for p in network.parameters())


def test_what_is_added_to_a_residual_stream_leaves_it(place):
    said = prune("--network", "vit", "--data", "digits", "--sparsity", "0.5", "--structured", "residual_out",
                 "--out", "small.safetensors", "--onnx", "small.onnx")  # fmt: skip
    assert "certified: " in said
    assert "attn.proj outputs" in said
    outputs = bp.load("small.safetensors")(torch.randn(3, 1, 8, 8))
    assert outputs.shape == (3, 10)
    assert (place / "small.onnx").is_file()


def test_single_weights_of_a_registered_network_and_batches(place):
    said = prune("--network", "lenet5", "--data", "mine:loader", "--sparsity", "0.9", "--out", "sparse.safetensors")
    assert "sparsity 0.9" in said
    outputs = bp.load("sparse.safetensors")(torch.randn(3, 1, 8, 8))
    assert outputs.shape == (3, 4)


@pytest.mark.parametrize("data", ["text:words.txt", "mine:text"])
def test_a_language_model_becomes_smaller(place, data):
    (place / "words.txt").write_text("abcde" * 1200)
    out = place / "small.safetensors"
    said = prune("--network", "lstm", "--option", "hidden=6", "--option", "embedding=0", "--data", data,
                 "--sparsity", "0.5", "--structured", "--finetune", "2", "--lr", "0.05", "--out", out)  # fmt: skip
    for part in ("kept 3 of 6 units", "certified: ", "examples apart", "bits per character there: ", "written: "):
        assert part in said
    bits, dense = re.search(r"there: ([\d.]+) \(dense: ([\d.]+)\)", said).groups()
    assert float(bits) < float(dense) < 3.2  # of 8 tokens an untrained network gives 3 bits
    outputs = bp.load(out)(torch.randint(3, 8, (4, 10)))
    assert outputs.shape == (4, 10, 8)


def test_mistakes_end_with_one_line_and_write_nothing(place):
    network = ("--network", "lenet5", "--data", "mine:examples", "--out", place / "out.safetensors")
    torch.save({"conv1.weight": torch.zeros(3)}, place / "other.pt")
    (place / "junk.safetensors").write_bytes(b"junk")
    for more, message in {
        ("--checkpoint", "other.pt"): "checkpoint other.pt is of another network: conv1.",
        ("--checkpoint", "junk.safetensors"): "cannot read checkpoint junk.safetensors",
        ("--checkpoint", "absent.pt"): "cannot read checkpoint absent.pt",
        ("--data", "mine:broken"): "data 'mine:broken' failed: RuntimeError: no disk",
        ("--data", "mine:example"): "did you mean 'examples'",
        ("--network", "lenet6"): "did you mean 'lenet5'",
        ("--sparsity", "half"): "--sparsity 'half' is not valid",
        ("--sparsity", "1"): "in [0, 1)",
        ("--method", "opdd"): "did you mean 'opd'",
        ("--of", "flops"): "flops are only saved by removing structures",
        ("--out", "mine.py/out.safetensors"): "cannot save",
    }.items():
        found = CliRunner().invoke(main, ["prune", *map(str, (*network, *more))])
        error = found.stderr
        assert found.exit_code == 2, found.output
        assert message in error
        assert len(error.strip().splitlines()) == 1, error
    assert not list(place.glob("*out.safetensors*"))
