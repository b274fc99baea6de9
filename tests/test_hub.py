"""Pruned networks through huggingface_hub's mixin, in local folders; nothing leaves the machine."""

import bayesprune as bp
import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.datasets.errors import UsageError

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def pruned():
    data = bp.load_dataset("digits", subset=120)
    network = build("mlp", data.input_shape, 10, seed=0, widths=(16,))
    return bp.prune(network, data, "magnitude", 0.5, structured=True, progress=False)


def test_saved_with_its_architecture_it_loads_alone(pruned, tmp_path):
    reference = {"name": "mlp", "input_shape": (1, 8, 8), "outputs": 10, "options": {"widths": (16,)}}
    bp.HubNetwork(pruned, reference).save_pretrained(tmp_path)
    again = bp.HubNetwork.from_pretrained(str(tmp_path))
    assert torch.equal(again(pruned.inputs), pruned.compact().eval()(pruned.inputs))
    card = (tmp_path / "README.md").read_text()
    assert "kept 8 of 16 units" in card
    assert "library_name: bayesprune" in card
    assert not list(tmp_path.glob("*.bin")) + list(tmp_path.glob("*.pt"))


def test_without_it_a_network_of_the_class_is_needed(pruned, tmp_path):
    bp.HubNetwork(pruned).save_pretrained(tmp_path)
    assert "network=" in (tmp_path / "README.md").read_text()
    dense = build("mlp", (1, 8, 8), 10, seed=1, widths=(16,))
    again = bp.HubNetwork.from_pretrained(str(tmp_path), network=dense)
    assert torch.equal(again(pruned.inputs), pruned.compact().eval()(pruned.inputs))
    with pytest.raises(UsageError):
        bp.HubNetwork.from_pretrained(str(tmp_path))


def test_a_folder_without_one_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"holds no pruned\.safetensors"):
        bp.HubNetwork.from_pretrained(str(tmp_path))


def test_a_push_uploads_the_same_files(pruned, tmp_path, monkeypatch):
    """The hub's own upload is taken at its last step, where it would leave the machine."""
    sent = {}
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.create_repo", lambda self, repo_id, **_: repo_id_of(repo_id))

    def upload(self, *, repo_id, folder_path, **_):
        sent[repo_id] = sorted(p.name for p in folder_path.iterdir())
        return "done"

    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.upload_folder", upload)
    bp.HubNetwork(pruned).push_to_hub("somebody/small")
    assert sent == {"somebody/small": ["README.md", "pruned.safetensors"]}


def repo_id_of(repo_id):
    from huggingface_hub.hf_api import RepoUrl

    return RepoUrl(f"https://huggingface.co/{repo_id}")
