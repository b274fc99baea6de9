"""The Lightning callback, with the real Trainer: trained, pruned, accumulated, interrupted and resumed."""

import warnings

import bayesprune as bp
import pytest
import torch
from bayesprune.datasets.errors import UsageError
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip("lightning.pytorch")
warnings.filterwarnings("ignore", module="lightning")


class Module(lightning.LightningModule):
    """A classifier as Lightning's users write one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        self.losses = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 5e-3)


@pytest.fixture(scope="module")
def data():
    return bp.load_dataset("digits", subset=200)


class InOrder(torch.utils.data.Sampler):
    """An order that follows from the number of the epoch, as a resumed training needs."""

    def __init__(self, count):
        self.count, self.epoch = count, 0

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter(torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    def set_epoch(self, epoch):
        self.epoch = epoch


def loader(data):
    return DataLoader(TensorDataset(data.train.x, data.train.y), 32, sampler=InOrder(len(data.train)))


def trainer(epochs, folder, *callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return lightning.Trainer(
        max_epochs=epochs, default_root_dir=folder, callbacks=list(callbacks), **quiet,
        **{"enable_checkpointing": False, "num_sanity_val_steps": 0} | options,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["bmrs-u", "spam-opd", "magnitude", "mean-field"])
def test_a_module_is_trained_and_pruned(method, data, tmp_path):
    module, pruning = Module(), bp.LightningPruning(method, 0.5, structured=True)
    trainer(20, tmp_path, pruning).fit(module, loader(data))
    assert pruning.pruned.sparsity == 0.5
    assert module.losses[-1] < module.losses[0]
    x, y = data.validation.x, data.validation.y
    torch.testing.assert_close(pruning.pruned.compact()(x), module(x), atol=1e-5, rtol=1e-5)
    assert not any(m._forward_hooks for m in module.modules())
    dense = (pruning.pruned.predictions(x).argmax(1) == y).float().mean()
    assert dense > 0.2


@pytest.mark.filterwarnings("ignore")
def test_only_the_network_inside_is_pruned_and_batches_accumulate(data, tmp_path):
    module, pruning = Module(), bp.integrations.LightningPruning("bmrs-u", 0.25, network="net", structured=True)
    trainer(3, tmp_path, pruning, accumulate_grad_batches=3, gradient_clip_val=1.0).fit(module, loader(data))
    assert pruning.pruned.network is module.net
    assert pruning.pruned.sparsity == 0.25
    assert pruning.method.epoch == 3


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_training_prunes_the_same(data, tmp_path):
    """Lightning does not restore torch's generator at the same place, so that noise goes on with other draws."""
    method = "spam-opd"
    whole = bp.LightningPruning(method, 0.5, structured=True)
    trainer(8, tmp_path, whole).fit(Module(), loader(data))

    first = bp.LightningPruning(method, 0.5, structured=True)
    half = trainer(4, tmp_path, Saving(tmp_path / "half.ckpt"), first, enable_checkpointing=True)
    half.fit(Module(), loader(data))
    torch.manual_seed(99)
    resumed = bp.LightningPruning(method, 0.5, structured=True)
    trainer(8, tmp_path, resumed).fit(Module(), loader(data), ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(resumed.pruned.scores, whole.pruned.scores)
    assert torch.equal(resumed.pruned.mask.kept, whole.pruned.mask.kept)


class Saving(lightning.callbacks.Checkpoint):
    """A checkpoint after the last epoch, before the callback above prunes; such callbacks run after all others."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


def test_a_callback_that_was_not_given_to_the_trainer_is_told():
    with pytest.raises(UsageError, match="before fit"):
        bp.LightningPruning("opd", 0.5).on_train_epoch_end(None, None)


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_training_goes_on_with_what_was_learned(data, tmp_path):
    first = bp.LightningPruning("bmrs-u", 0.5, structured=True)
    half = trainer(4, tmp_path, Saving(tmp_path / "half.ckpt"), first, enable_checkpointing=True)
    half.fit(Module(), loader(data))
    saved = torch.load(tmp_path / "half.ckpt", weights_only=False)["callbacks"]["LightningPruning"]
    resumed = bp.LightningPruning("bmrs-u", 0.5, structured=True)
    resumed.load_state_dict(saved)
    resumed.begin(Module(), loader(data))
    assert resumed.method.epoch == 4
    for name, tensor in resumed.method.inference.tensors().items():
        assert torch.equal(tensor, saved["method"]["inference"][name])
        assert tensor.abs().sum() > 0
