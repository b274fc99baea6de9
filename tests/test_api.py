"""The Python face: pruning a network of one's own."""

import bayesprune as bp
import pytest
import torch
from bayesprune.bench.training import Training
from bayesprune.datasets.registry import UsageError
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Own(nn.Module):
    """Somebody's network: a branch, a residual, a norm."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second, self.head = (
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        hidden = self.norm(self.first(x)).relu()
        return self.head(hidden + self.second(hidden).tanh())


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


@pytest.mark.parametrize("method", ["magnitude", "opd", "snip", "grasp", "synflow", "lamp", "random"])
def test_any_method_prunes_a_copy_to_the_exact_count(data, method):
    torch.manual_seed(0)
    network = Own()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    pruned = bp.prune(network, data, method=method, sparsity=0.75, finetune=2)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    total = 6 * 8 + 8 * 8 + 8 * 3
    assert pruned.mask.count == total // 4
    weights = [pruned.network.get_parameter(f"{n}.weight") for n in ("first", "second", "head")]
    assert sum(int(w.count_nonzero()) for w in weights) <= pruned.mask.count
    assert "kept 34 of 136 units" in pruned.summary()


def test_all_forms_of_data_give_the_same_mask(data):
    torch.manual_seed(0)
    network, (x, y) = Own(), data
    loader = DataLoader(TensorDataset(x, y), batch_size=7)
    masks = [bp.prune(network, form, "snip", 0.5).mask.kept for form in (data, loader, list(loader))]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_structure_is_cut_out_and_the_small_network_agrees(data):
    from bayesprune.architectures.build import build

    network = build("mlp", (6,), 3, seed=0, widths=[16, 8])
    pruned = bp.prune(network, data, "opd", 0.5, structured=True, finetune=1)
    small = pruned.compact()
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    torch.testing.assert_close(small(data[0]), pruned.network(data[0]))


def test_regression_and_seeds(data):
    x, _ = data
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    first, second = (bp.prune(network, (x, x[:, 0]), "random", 0.5, seed=s).mask.kept for s in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, bp.prune(network, (x, x[:, 0]), "random", 0.5, seed=0).mask.kept)


def test_training_settings_reach_the_fine_tuning(data):
    from bayesprune.bench.training import DivergedError

    with pytest.raises(DivergedError):
        bp.prune(Own(), data, sparsity=0.5, finetune=3, training=Training(optimizer="sgd", lr=1e20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 1.0}, r"\[0, 1\) or 'auto', got 1.0"),
        ({"sparsity": "auto"}, "no threshold of its own"),
        ({"method": "magnitudes"}, "did you mean 'magnitude'"),
        ({"structured": True}, "groups of Own are not known"),
        ({"data": []}, "at least one batch"),
        ({"data": (torch.zeros(3, 6), torch.zeros(2))}, "3 inputs and 2 targets"),
        ({"sparsity": 0.999}, "remove every one"),
        ({"when": "during"}, "prunes during training"),
    ],
)
def test_mistakes_are_one_clear_sentence(data, change, message):
    with pytest.raises(UsageError, match=message):
        bp.prune(**{"network": Own(), "data": data} | change)


def test_the_public_face_is_complete():
    for name in bp.__all__:
        assert getattr(bp, name) is not None
    with pytest.raises(AttributeError, match="it offers"):
        _ = bp.nothing
