"""Networks whose weights somebody else trained: read safely, matched by name or order, part of a cell's identity."""

import hashlib

import numpy as np
import pytest
import torch
import yaml
from bayesprune.architectures.build import build, options
from bayesprune.bench.harness.run_matrix import run
from bayesprune.bench.results.frames import results
from bayesprune.bench.results.store import Store
from bayesprune.bench.spec.matrix import load_matrix
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from safetensors.torch import save_file

SHAPE = (1, 8, 8)


@pytest.fixture
def trained():
    return build("resnet", SHAPE, 10, seed=7, width=4)


def saved(folder, state, kind):
    path = folder / f"weights.{kind}"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}}, path)
    return str(path)


def same(network, other):
    return all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt"])
def test_every_kind_of_file_gives_the_network_that_was_saved(kind, tmp_path, trained):
    path = saved(tmp_path, trained.state_dict(), kind)
    assert same(build("resnet", SHAPE, 10, seed=0, width=4, weights=path), trained)
    assert not same(build("resnet", SHAPE, 10, seed=0, width=4), trained)


def test_others_names_are_matched_by_order_and_shape(tmp_path, trained):
    theirs = {
        f"layer{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(trained.state_dict().items())
    }
    path = saved(tmp_path, theirs, "npz")
    assert same(build("resnet", SHAPE, 10, seed=0, width=4, weights=path), trained)
    swapped = dict(reversed(theirs.items()))
    with pytest.raises(UsageError, match="stands where this one has"):
        build("resnet", SHAPE, 10, seed=0, width=4, weights=saved(tmp_path, swapped, "npz"))


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    np.savez(tmp_path / "evil.npz", w=np.array([Evil()], dtype=object))
    for name in ("evil.pt", "evil.npz"):
        with pytest.raises(UsageError, match="damaged, or hold more than tensors"):
            build("mlp", SHAPE, 10, seed=0, weights=str(tmp_path / name))
    assert "executed" not in capsys.readouterr().out


def test_bad_files_are_refused_with_the_reason(tmp_path, trained):
    state = trained.state_dict()
    with pytest.raises(UsageError, match="there is no file of weights"):
        options("mlp", {"weights": "nowhere.npz"})
    with pytest.raises(UsageError, match="give the path of a file"):
        options("mlp", {"weights": 3})
    for digest in ("abc", 3):
        with pytest.raises(UsageError, match=r"sha256=.* is not valid: give what sha256sum prints"):
            options("mlp", {"weights": "nowhere.npz", "sha256": digest})
    with pytest.raises(UsageError, match="unknown option"):
        options("mlp", {"sha256": "0" * 64})
    (tmp_path / "weights.txt").write_text("1 2 3")
    with pytest.raises(UsageError, match=r"of the kind \.safetensors, \.npz"):
        build("mlp", SHAPE, 10, seed=0, weights=str(tmp_path / "weights.txt"))
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(UsageError, match="are damaged"):
        build("mlp", SHAPE, 10, seed=0, weights=str(tmp_path / "damaged.safetensors"))
    with pytest.raises(UsageError, match="of another network"):
        build("mlp", SHAPE, 10, seed=0, weights=saved(tmp_path, state, "safetensors"))
    state["head.bias"][0] = torch.nan
    with pytest.raises(UsageError, match=r"'head\.bias' holds values that are not finite"):
        build("resnet", SHAPE, 10, seed=0, width=4, weights=saved(tmp_path, state, "safetensors"))


def matrix(tmp_path, **architecture):
    file = tmp_path / "given.yaml"
    file.write_text(
        yaml.safe_dump({
            "datasets": [{"name": "digits", "subset": 100, "scaling": [0.3, 0.4]}],
            "architectures": [{"name": "mlp", "widths": [12], "bias": False} | architecture],
            "methods": ["magnitude", {"name": "obs", "rounds": 2}],
            "sparsity": [0.5],
            "seeds": [0],
            "training": {"epochs": 0},
            "finetune": {"epochs": 0},
        })
    )  # fmt: skip
    return file


def test_a_matrix_on_given_weights_trains_nothing(tmp_path):
    network = build("mlp", SHAPE, 10, seed=3, widths=(12,), bias=False)
    path = saved(tmp_path, network.state_dict(), "safetensors")
    run(load_matrix(matrix(tmp_path, weights=path)), tmp_path / "out", jobs=1)
    frame = results(tmp_path / "out")
    assert (frame.status == "done").all()
    data = load("digits", 0, subset=100, scaling=(0.3, 0.4))
    accuracy = float((network(data.test.x).argmax(1) == data.test.y).float().mean())
    assert frame.dense_accuracy.tolist() == pytest.approx([accuracy] * 2)
    records = Store(tmp_path / "out", create=False).records()
    adjustments = next(r["adjustments"] for r in records if r.get("adjustments"))
    assert len(adjustments) == 2
    assert all(a["cost"] <= a["zeroing"] for a in adjustments)


def test_the_key_knows_the_content_and_not_the_place(tmp_path):
    network = build("mlp", SHAPE, 10, seed=3, widths=(12,), bias=False)
    keys = {}
    for name, state in (("a", network.state_dict()), ("b", network.state_dict())):
        (tmp_path / name).mkdir()
        keys[name] = load_matrix(matrix(tmp_path, weights=saved(tmp_path / name, state, "npz"))).cells()[0]
    other = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    keys["c"] = load_matrix(matrix(tmp_path, weights=saved(tmp_path, other, "npz"))).cells()[0]
    assert keys["a"].key == keys["b"].key != keys["c"].key
    digest = hashlib.sha256((tmp_path / "weights.npz").read_bytes()).hexdigest()
    assert keys["c"].sources["weights"] == digest


def test_cells_of_a_named_digest_are_known_without_the_file_and_take_no_other(tmp_path):
    network = build("mlp", SHAPE, 10, seed=3, widths=(12,), bias=False)
    path = saved(tmp_path, network.state_dict(), "npz")
    there = load_matrix(matrix(tmp_path, weights=path)).cells()
    digest = hashlib.sha256((tmp_path / "weights.npz").read_bytes()).hexdigest()
    absent = load_matrix(matrix(tmp_path, weights="nowhere.npz", sha256=digest)).cells()
    assert [r.key for r in absent] == [r.key for r in there]
    assert "sha256" not in absent[0].architecture.label
    assert load_matrix(matrix(tmp_path, weights=path, sha256="0" * 64)).cells()[0].key != there[0].key
    for weights, sha256, reason in (
        ("nowhere.npz", digest, "no file of weights"),
        (path, "0" * 64, "not those that were asked for"),
    ):
        with pytest.raises(UsageError, match=reason):
            run(load_matrix(matrix(tmp_path, weights=weights, sha256=sha256)), tmp_path / "out", jobs=1)
    run(load_matrix(matrix(tmp_path, weights=path, sha256=digest)), tmp_path / "out", jobs=1)
    assert (results(tmp_path / "out").status == "done").all()


def test_no_epochs_need_weights(tmp_path):
    with pytest.raises(UsageError, match=r"training.epochs: 0 leaves 'mlp\(.*untrained"):
        load_matrix(matrix(tmp_path)).cells()


def test_a_file_that_changed_since_the_run_began_is_refused(tmp_path):
    network = build("mlp", SHAPE, 10, seed=3)
    path = saved(tmp_path, network.state_dict(), "safetensors")
    with pytest.raises(UsageError, match="have changed since the run began"):
        build("mlp", SHAPE, 10, seed=0, weights=path, sha256="0" * 64)


def test_a_fixed_scaling_is_that_of_the_inputs():
    given, own = load("digits", 0, scaling=(0.25, 0.5)), load("digits", 0)
    torch.testing.assert_close(given.train.x, (own.scaling.undo(own.train.x) - 0.25) / 0.5)
    with pytest.raises(UsageError, match="scaling"):
        load("digits", 0, scaling=(0.0, 0.0))
