"""A method in a loop under DistributedDataParallel: two processes on one machine hold the same, and the right thing."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import bayesprune as bp
import pytest
import torch
from bayesprune.datasets.data import Split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

WORLD = 2
METHODS = {
    "bmrs-u": {},
    "mean-field": {},
    "spam-opd": {},
    "opd": {"when": "during", "sparsity": 0.5, "epochs": 6},
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).double()


def examples() -> Split:
    train = bp.load_dataset("digits", subset=160).train
    return Split(train.x.double(), train.y)


def on_rank(rank: int, method: str, options: dict, folder: Path) -> None:
    train = examples()
    mine = train[rank::WORLD]
    net = network()
    attached = bp.attach(net, method, example=train.x[:16], size=len(train), structured=True, **options)
    parallel = DistributedDataParallel(net)
    optimizer = torch.optim.Adam([*net.parameters(), *attached.parameters()], 1e-2)
    torch.manual_seed(rank)  # every rank draws noise of its own
    own = []
    for epoch in range(6):
        parallel.train()
        for x, y in mine.batches(16, torch.Generator().manual_seed(epoch)):
            attached.backward(cross_entropy(parallel(x), y))
            optimizer.step()
            optimizer.zero_grad()
            attached.after_step()
        own.append([p.detach().clone() for p in attached.parameters()])  # before anything is shared
        # As a stream, or in memory.
        attached.after_epoch(DataLoader(TensorDataset(mine.x, mine.y), 16) if options else mine)
    pruned = attached.finish(None if options else 0.5)
    found = {"own": own, "kept": pruned.mask.kept, "scores": pruned.scores, "learned": pruned.inference.tensors(),
             "network": net.state_dict()}  # fmt: skip
    torch.save(found, folder / f"{method}-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What both ranks hold in the end, by method, from two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(WORLD)}
    ranks = [
        subprocess.Popen([sys.executable, __file__, folder], env=env | {"RANK": str(rank)}) for rank in range(WORLD)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0] * WORLD
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_all_ranks_hold_the_same(method, folder):
    first, second = (torch.load(folder / f"{method}-{rank}.pt", weights_only=True) for rank in range(WORLD))
    for a, b in zip(first["own"], second["own"], strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    for key in ("kept", "scores"):
        assert torch.equal(first[key], second[key]), key
    for key in ("learned", "network"):
        for name, tensor in first[key].items():
            assert torch.equal(tensor, second[key][name]), name


def test_the_evidence_is_that_of_the_examples_of_all_ranks(folder):
    """Two ranks with half of the examples learn what one process with all of them and the same batches learns."""
    found = torch.load(folder / "spam-opd-0.pt", weights_only=True)
    train, net = examples(), network()
    shards = [train[r::WORLD] for r in range(WORLD)]
    joined = Split(torch.cat([s.x for s in shards]), torch.cat([s.y for s in shards]))  # curvature draws in this order
    attached = bp.attach(net, "spam-opd", example=train.x[:16], size=len(train), structured=True)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for epoch in range(6):
        parts = [list(shard.batches(16, torch.Generator().manual_seed(epoch))) for shard in shards]
        for batches in zip(*parts, strict=True):
            attached.backward(sum(cross_entropy(net(x), y) for x, y in batches) / WORLD)
            optimizer.step()
            optimizer.zero_grad()
            attached.after_step()
        attached.after_epoch(joined)
    pruned = attached.finish(0.5)
    torch.testing.assert_close(found["learned"]["trace"], pruned.inference.tensors()["trace"], rtol=1e-6, atol=1e-6)
    assert torch.equal(found["kept"], pruned.mask.kept)


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    for name, wishes in METHODS.items():
        on_rank(torch.distributed.get_rank(), name, wishes, Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
