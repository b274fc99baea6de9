"""The callback for Hugging Face's Trainer, with the real one: trained, pruned, accumulated, resumed."""

import os

import bayesprune as bp
import pytest
import torch

os.environ.setdefault("WANDB_DISABLED", "true")
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _no_other_datasets(monkeypatch):
    """Where tests run in the checkout, its folder `datasets` may pass for the package of that name."""
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)


CONFIG = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 16, "num_labels": 2,
}  # fmt: skip


def network():
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(**CONFIG, attn_implementation="eager"))


def examples(n=48):
    """Sentences whose label is whether token 5 is among them; the second half is shorter."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(n):
        length = 10 if i % 2 else 7
        tokens = torch.randint(6, 40, (length,), generator=generator)
        label = int(torch.rand((), generator=generator) < 0.5)
        if label:
            tokens[2] = 5
        mask = torch.ones(10, dtype=torch.long)
        mask[length:] = 0
        found.append({"input_ids": torch.nn.functional.pad(tokens, (0, 10 - length)), "attention_mask": mask,
                      "labels": label})  # fmt: skip
    return found


def trainer(folder, callback, epochs, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=8, learning_rate=5e-3,
        report_to=[], disable_tqdm=True, use_cpu=True, seed=0, logging_strategy="no",
        **{"save_strategy": "no"} | options,
    )  # fmt: skip
    return transformers.Trainer(network(), arguments, train_dataset=examples(), callbacks=[callback])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["bmrs-u", "spam-opd", "mean-field"])
def test_a_model_is_trained_and_pruned(method, tmp_path):
    callback = bp.TrainerPruning(method, 0.5, structured=True)
    job = trainer(tmp_path, callback, 4, gradient_accumulation_steps=2)
    job.train()
    pruned = callback.pruned
    assert pruned.sparsity == pytest.approx(0.5, abs=0.05)
    assert callback.method.epoch == 4
    batch = torch.utils.data.default_collate(examples(8))
    small = pruned.compact().eval()
    torch.testing.assert_close(small(**batch).logits, job.model.eval()(**batch).logits, atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network().parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_training_prunes_the_same(tmp_path):
    options = {"save_strategy": "epoch"}
    whole = bp.TrainerPruning("spam-opd", 0.5)
    trainer(tmp_path / "whole", whole, 6, **options).train()
    saved = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    assert (saved[2] / "bayesprune.pt").is_file()
    resumed = bp.TrainerPruning("spam-opd", 0.5)
    trainer(tmp_path / "whole", resumed, 6, **options).train(resume_from_checkpoint=str(saved[2]))
    assert torch.equal(resumed.pruned.scores, whole.pruned.scores)
    assert torch.equal(resumed.pruned.mask.kept, whole.pruned.mask.kept)
