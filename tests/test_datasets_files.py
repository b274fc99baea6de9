"""Data from files, functions and published archives: found, read, or refused with what to do."""

import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from bayesprune.datasets import own, published
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.files import data_root
from bayesprune.datasets.load import load

FOUR = ("x_train", "y_train", "x_test", "y_test")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYESPRUNE_DATA", str(tmp_path))
    return tmp_path


def images(n, seed=0, shape=(28, 28)):
    return np.random.default_rng(seed).integers(0, 256, size=(n, *shape), dtype=np.uint8)


def four(n=60, m=20, seed=0, shape=(28, 28)):
    return images(n, seed, shape), np.arange(n) % 10, images(m, seed + 1, shape), np.arange(m) % 10


def save(path, arrays, keys=FOUR):
    np.savez(path, **dict(zip(keys, arrays, strict=True)))
    return f"npz:{path}"


# ---------------------------------------------------------------- where data lies


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("BAYESPRUNE_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.delenv("BAYESPRUNE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(data_root()) == "/cache/bayesprune/data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(data_root()) == "/home/someone/.cache/bayesprune/data"


# ---------------------------------------------------------------- npz files


def test_npz_with_fixed_test(tmp_path):
    arrays = four()
    data = load(save(tmp_path / "a.npz", arrays))
    assert data.input_shape == (1, 28, 28)
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 10, 20)
    assert data.validation.y.bincount().tolist() == [1] * 10
    np.testing.assert_array_equal(data.test.y, arrays[3])
    np.testing.assert_allclose(data.scaling.undo(data.test.x)[:, 0], arrays[2] / 255, atol=1e-6)


@pytest.mark.parametrize(("shape", "wanted"), [
    ((9, 7, 3), (3, 9, 7)), ((3, 9, 7), (3, 9, 7)), ((9, 7), (1, 9, 7)), ((5, 5, 1), (1, 5, 5)), ((5,), (5,)),
])  # fmt: skip
def test_npz_layouts(tmp_path, shape, wanted):
    name = save(tmp_path / "a.npz", (images(50, shape=shape), np.arange(50) % 2), ("x", "y"))
    data = load(name)
    assert data.input_shape == wanted
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 10)


def test_floats_are_taken_as_they_are(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 6, 6)).astype(np.float32) * 40
    data = load(save(tmp_path / "a.npz", (x, np.arange(50) % 2), ("x", "y")))
    everything = torch.cat([data.scaling.undo(p.x) for p in (data.train, data.validation, data.test)])
    np.testing.assert_allclose(everything.flatten().sort().values, np.sort(x.ravel()), atol=1e-3)
    low, high = data.limits
    train = data.scaling.undo(data.train.x)
    assert (low, high) == pytest.approx((train.min().item(), train.max().item()), rel=1e-4)
    shifted = data.scaling.undo(data.shifted("noise", 5).x)
    assert shifted.min() >= low - 1e-3
    assert shifted.max() <= high + 1e-3
    assert (shifted - data.scaling.undo(data.test.x)).std() > 1, "severity scales with the range of values"


def test_targets_decide_the_likelihood(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3))
    halves, whole = np.arange(50) / 2, (np.arange(50) % 4).astype(float)
    cases = {"a": (halves, "gaussian", 1), "b": (whole, "categorical", 4), "c": (whole[:, None], "gaussian", 1),
             "d": (np.array(["no", "yes"] * 25), "categorical", 2), "e": (np.arange(50)[:, None] % 2, "categorical", 2),
             "f": (np.stack([halves, whole], 1), "gaussian", 2)}  # fmt: skip
    for key, (y, likelihood, outputs) in cases.items():
        data = load(save(tmp_path / f"{key}.npz", (x, y), ("x", "y")))
        assert (data.likelihood, data.outputs) == (likelihood, outputs), key
    assert load(f"npz:{tmp_path}/d.npz").classes == ("no", "yes")


def test_labels_need_not_start_at_zero(tmp_path):
    x, y = images(40, shape=(4,)), np.array([7, -3] * 20)
    data = load(save(tmp_path / "a.npz", (x, y), ("x", "y")))
    assert data.classes == ("-3", "7")
    assert set(data.train.y.tolist()) == {0, 1}


def test_regression_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), rng.normal(5, 3, size=60)
    data = load(save(tmp_path / "a.npz", (x[:40], y[:40], x[40:], y[40:])))
    np.testing.assert_allclose((data.test.y * data.target_std + data.target_mean)[:, 0], y[40:], rtol=1e-4)


@pytest.mark.parametrize(("position", "value", "where"), [
    ((3, 1), np.nan, "NaN in x at training example 3, column 1"),
    ((45, 0), np.inf, "an infinite value in x at test example 5, column 0"),
])  # fmt: skip
def test_nan_is_refused_with_its_position(tmp_path, position, value, where):
    x, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    x[position] = value
    with pytest.raises(UsageError, match=where):
        load(save(tmp_path / "a.npz", (x[:40], y[:40], x[40:], y[40:])))


def test_nan_in_images_and_targets(tmp_path):
    x, y = np.ones((20, 4, 4, 3), np.float32), np.linspace(0, 1, 20)
    x[2, 1, 3, 0] = np.nan
    with pytest.raises(UsageError, match="NaN in x at example 2, channel 0, row 1, column 3"):
        load(save(tmp_path / "a.npz", (x, y), ("x", "y")))
    y[7] = np.nan
    with pytest.raises(UsageError, match="NaN in y at example 7, target 0"):
        load(save(tmp_path / "b.npz", (np.ones((20, 2)), y), ("x", "y")))


TABLE, HALVES = np.ones((9, 2)), np.arange(9) % 2

BAD = {
    "missing key": ({"x_train": np.ones(3), "y": np.ones(3)}, "must hold .* or x, y; it holds x_train, y"),
    "lengths": ({"x": TABLE, "y": np.arange(8)}, r"x is \(9, 2\), y is \(8,\)"),
    "object array": ({"x": np.array([{}, 1], dtype=object), "y": np.arange(2)}, "pickled objects"),
    "strings": ({"x": np.full((9, 2), "a"), "y": HALVES}, "x must hold real numbers"),
    "complex target": ({"x": TABLE, "y": HALVES + 0j}, "y must hold numbers"),
    "empty": ({"x": np.ones((0, 2)), "y": np.ones(0)}, "is empty"),
    "one class": ({"x": TABLE, "y": np.zeros(9, int)}, "one class only"),
    "constant target": ({"x": TABLE, "y": np.full(9, 0.5)}, "one value only"),
    "too many classes": ({"x": TABLE, "y": np.arange(9)}, r"9 classes among 9 .* \(N, 1\)"),
    "too few": ({"x": np.ones((4, 2)), "y": np.arange(4) % 2}, "too few"),
    "never in training": ({"x_train": TABLE, "y_train": HALVES, "x_test": TABLE, "y_test": HALVES * 2},
                          "class '2' occurs in the test split but never in training"),
    "rare class": ({"x": np.ones((40, 2)), "y": np.arange(40) // 20 + (np.arange(40) > 37)},
                   "class '2' has 2 examples, too few .* at least 3 of each class"),
    "single example": ({"x": np.ones((40, 2)), "y": np.arange(40) // 20 + (np.arange(40) > 38)}, "'2' has 1 example,"),
    "huge column": ({"x": np.stack([np.arange(40.0), np.where(np.arange(40) % 3, 1e308, -1e308)], 1), "y": np.arange(40) % 2},
                    "column 1 of x holds values too large"),
    "huge target": ({"x": np.ones((40, 2)), "y": np.where(np.arange(40) % 3, 1e308, -1e308)[:, None]},
                    "target 0 holds values too large"),
    "huge pixel": ({"x": np.where(np.arange(40) % 2, 1e39, 0.0)[:, None, None] * np.ones((4, 4)), "y": np.arange(40) % 2},
                   "channel 0 of x holds values too large"),
    "one-hot": ({"x": np.ones((40, 2)), "y": np.eye(4)[np.arange(40) % 4]}, r"\(40, 4\) is one-hot; give labels 0\.\.3"),
    "whole one-hot": ({"x": TABLE, "y": np.eye(3, dtype=int)[np.arange(9) % 3]}, r"one-hot; give labels 0\.\.2"),
    "five axes": ({"x": np.ones((4, 2, 2, 2, 2)), "y": np.arange(4) % 2}, "a table"),
    "one axis": ({"x": np.ones(9), "y": HALVES}, r"a table.*use \(N, 1\), here \(9, 1\)"),
    "integer matrix target": ({"x": TABLE, "y": np.arange(18).reshape(9, 2)}, "y must be"),
    "shapes": ({"x_train": TABLE, "y_train": HALVES, "x_test": np.ones((9, 3)), "y_test": HALVES},
               "x_train and x_test must agree"),
    "types": ({"x_train": TABLE.astype(np.uint8), "y_train": HALVES, "x_test": TABLE, "y_test": HALVES},
              "uint8.*float64"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD.keys())
def test_malformed_npz_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=message) as caught:
        load(f"npz:{tmp_path}/a.npz")
    assert f"npz:{tmp_path}/a.npz" in str(caught.value)


class Bomb:
    """Unpickling this is noticed."""

    exploded = False

    def __reduce__(self):
        return setattr, (Bomb, "exploded", True)


def test_nothing_is_ever_unpickled(tmp_path):
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Bomb()))
    np.savez(tmp_path / "inside.npz", x=np.array([Bomb()], dtype=object), y=np.arange(1))
    for file in ("raw", "inside"):
        with pytest.raises(UsageError, match=f"{file}.npz is not an npz file of plain arrays"):
            load(f"npz:{tmp_path}/{file}.npz")
    assert not Bomb.exploded


def test_files_that_are_no_npz_are_refused(tmp_path):
    np.save(tmp_path / "bare.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "nothing.npz").write_bytes(b"")
    whole = tmp_path / "whole.npz"
    save(whole, four())
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:5000])
    damaged = bytearray(whole.read_bytes())
    damaged[5000] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for file in ("bare.npy", "text.npz", "nothing.npz", "cut.npz", "damaged.npz"):
        with pytest.raises(UsageError, match=f"{file} is not an npz file"):
            load(f"npz:{tmp_path}/{file}")
    with pytest.raises(UsageError, match=r"there is no file .*absent\.npz"):
        load(f"npz:{tmp_path}/absent.npz")
    with pytest.raises(UsageError, match="is not an npz file"):
        load(f"npz:{tmp_path}")
    assert zipfile.is_zipfile(whole)


# ---------------------------------------------------------------- functions


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module to the current folder; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(body):
        name = f"their_data_{len(sys.modules)}"
        (tmp_path / f"{name}.py").write_text(body)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_function_of_tensors(module):
    name = module(
        "import torch\n"
        "def pair():\n    return torch.rand(50, 3, 6, 5, requires_grad=True), torch.arange(50) % 5\n"
        "def all_four():\n    x, y = pair()\n    return x[:40], y[:40], x[40:], y[40:]\n"
    )
    path = list(sys.path)
    assert load(f"{name}:pair").input_shape == (3, 6, 5)
    data = load(f"{name}:all_four")
    assert (len(data.test), data.outputs) == (10, 5)
    assert sys.path == path


@pytest.mark.parametrize(("body", "message"), [
    ("def make(): return 1, 2, 3", "3 values given"),
    ("def make(): return [1.0], [[1], [2]]", "as many targets as inputs"),
    ("def make(): return 5", "TypeError"),
    ("def make(): raise OSError('disk on fire')", "OSError: disk on fire"),
    ("make = 3", "unknown function of 'their_data.*' 'make'"),
    ("import no_such_module_anywhere", "cannot import .*no_such_module_anywhere"),
])  # fmt: skip
def test_bad_function_is_refused(module, body, message):
    name = module(body)
    with pytest.raises(UsageError, match=message):
        load(f"{name}:make")


def test_function_may_raise_or_exit_in_many_lines_and_gets_one(module):
    bodies = {"exits": "def make(): raise SystemExit(3)", "exits at once": "raise SystemExit('bye')",
              "long": "def make(): raise OSError('\\nfirst\\nsecond')"}  # fmt: skip
    wanted = {"exits": "SystemExit: 3", "exits at once": "SystemExit: bye", "long": "OSError: first"}
    for case, body in bodies.items():
        with pytest.raises(UsageError, match=wanted[case]) as caught:
            load(f"{module(body)}:make")
        assert "\n" not in str(caught.value), case


def test_function_may_return_a_dict(module):
    name = module(
        "import numpy as np\n"
        "x, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 5\n"
        "def pair(): return {'y': y, 'x': x}\n"
        "def four(): return dict(y_test=y[40:], x_test=x[40:], y_train=y[:40], x_train=x[:40], note='hello')\n"
        "def other(): return {'X': x, 'y': y}\n"
    )
    assert load(f"{name}:pair").train.x.shape == (30, 3)
    assert len(load(f"{name}:four").test) == 10
    with pytest.raises(UsageError, match="must hold x, y or x_train, y_train, x_test, y_test; it holds X, y"):
        load(f"{name}:other")


def test_string_labels_as_objects(module):
    name = module(
        "import numpy as np, pandas as pd\n"
        "x, y = np.random.default_rng(0).normal(size=(50, 3)), ['no', 'yes'] * 25\n"
        "def objects(): return x, np.array(y, dtype=object)\n"
        "def series(): return x, pd.Series(y, dtype=object)\n"
        "def mixed(): return x, np.array([*y[:-1], None], dtype=object)\n"
    )
    for function in ("objects", "series"):
        data = load(f"{name}:{function}")
        assert (data.classes, data.train.y.bincount().tolist()) == (("no", "yes"), [15, 15])
    with pytest.raises(UsageError, match="y has nothing at example 49"):
        load(f"{name}:mixed")


def test_function_takes_no_options(module):
    name = module("def make(): return 1, 2")
    with pytest.raises(UsageError, match="unknown option"):
        load(f"{name}:make", noise=3)


# ---------------------------------------------------------------- published sets


@pytest.mark.parametrize("name", published.SETS)
def test_absent_set_says_folder_file_and_command(root, name):
    known = published.SETS[name]
    with pytest.raises(UsageError) as caught:
        load(name)
    for part in (str(root), f"{name}.npz", known.files[0], f"torchvision.datasets.{known.loader}('{root}'",
                 "download=True", "download: true", "BAYESPRUNE_DATA"):  # fmt: skip
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_failed_download_gives_the_cause(root, monkeypatch):
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    with pytest.raises(UsageError, match=r"Connection refused.*FashionMNIST.*download=True") as caught:
        load("fashion-mnist", download=True)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "shape"), [("mnist", (28, 28)), ("svhn", (32, 32, 3))])
def test_npz_in_the_data_root(root, name, shape):
    arrays = four(shape=shape)
    save(root / f"{name}.npz", arrays)
    data = load(name)
    assert data.classes == tuple("0123456789")
    assert data.ood_name == "strokes"
    channels = arrays[2] if len(shape) == 3 else arrays[2][..., None]
    raw = data.scaling.undo(data.test.x).permute(0, 2, 3, 1)
    np.testing.assert_allclose(raw, channels / 255, atol=1e-6)


def test_bad_labels_in_a_published_npz(root):
    x, y, x_test, y_test = four()
    save(root / "mnist.npz", (x, y + 1, x_test, y_test))
    with pytest.raises(UsageError, match="labels must be whole numbers from 0 to 9; 0 to 10"):
        load("mnist")


def test_real_partner_replaces_the_twin(root):
    save(root / "mnist.npz", four())
    alone = load("mnist")
    theirs = four(seed=50, m=30)
    save(root / "fashion-mnist.npz", theirs)
    data = load("mnist")
    assert (alone.ood_name, data.ood_name) == ("strokes", "fashion-mnist")
    assert alone.digest != data.digest
    assert len(data.ood) == len(data.test), "as many as there are test images"
    np.testing.assert_allclose(data.scaling.undo(data.ood.x)[:, 0], theirs[2][:20] / 255, atol=1e-6)
    assert not data.ood.y.any()
    assert load("fashion-mnist").ood_name == "mnist"
    assert load("mnist", resize=14).ood.x.shape == (20, 1, 14, 14)


def write_idx(path, array):
    """The idx format by its description: magic number with type 8 and the number of axes, sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = [np.array([0x0800 + array.ndim], ">i4"), np.array(array.shape, ">i4")]
    path.write_bytes(b"".join(part.tobytes() for part in (*header, array.astype(np.uint8))))


def write_mnist_like(folder, arrays):
    for file, array in zip(published.IDX, arrays, strict=True):
        write_idx(folder / "raw" / file, array)


def test_torchvision_layout_of_mnist(root):
    arrays = four()
    write_mnist_like(root / "MNIST", arrays)
    data = load("mnist")
    save(root / "mnist.npz", arrays)
    assert load("mnist").digest == data.digest, "the same content from either layout"
    write_idx(root / "notMNIST/raw/t10k-images-idx3-ubyte", images(25, 9))
    assert load("mnist").ood_name == "notmnist"
    write_mnist_like(root / "FashionMNIST", four(seed=7))
    assert load("mnist").ood_name == "fashion-mnist"


def test_damaged_idx_file_is_refused(root):
    write_mnist_like(root / "MNIST", four())
    file = root / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UsageError, match="'mnist' cannot be read"):
        load("mnist")


def test_torchvision_layout_of_cifar(root, monkeypatch):
    from torchvision.datasets import CIFAR10

    x, y, x_test, y_test = four(shape=(32, 32, 3))
    folder = root / CIFAR10.base_folder
    folder.mkdir()
    for file, images_, labels in (("data_batch_1", x, y), ("test_batch", x_test, y_test)):
        flat = images_.transpose(0, 3, 1, 2).reshape(len(images_), -1)
        (folder / file).write_bytes(pickle.dumps({"data": flat, "labels": labels.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    with pytest.raises(UsageError, match="not found or corrupted"):  # the checksums are not theirs
        load("cifar10")
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    data = load("cifar10")
    assert data.classes == published.THINGS
    save(root / "cifar10.npz", (x, y, x_test, y_test))
    assert load("cifar10").digest == data.digest


def test_torchvision_layout_of_svhn(root, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    x, y, x_test, y_test = four(shape=(32, 32, 3))
    for part, images_, labels in (("train", x, y), ("test", x_test, y_test)):
        their_labels = np.where(labels == 0, 10, labels)[:, None]  # the files call the digit 0 "10"
        savemat(root / f"{part}_32x32.mat", {"X": images_.transpose(1, 2, 3, 0), "y": their_labels})
        monkeypatch.setitem(SVHN.split_list, part, ["", f"{part}_32x32.mat", None])
    data = load("svhn")
    save(root / "svhn.npz", (x, y, x_test, y_test))
    assert load("svhn").digest == data.digest
    save(root / "cifar10.npz", four(shape=(32, 32, 3), seed=4))
    assert load("svhn").ood_name == "cifar10"
    assert load("cifar10").ood_name == "svhn"


def test_layout_rule():
    assert own.channels_first(np.ones((2, 5, 6))).shape == (2, 1, 5, 6)
    assert own.channels_first(np.ones((2, 5, 6, 3))).shape == (2, 3, 5, 6)
    assert own.channels_first(np.ones((2, 3, 5, 6))).shape == (2, 3, 5, 6)


# ---------------------------------------------------------------- UCI regression


def uci_arrays(n=50):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 4)), rng.normal(size=n)
    orders = [np.random.default_rng(i).permutation(n) for i in range(3)]
    return x, y, np.stack([o[:45] for o in orders]), np.stack([o[45:] for o in orders])


def write_uci_npz(root, arrays, stem="concrete"):
    (root / "uci_regression").mkdir(exist_ok=True)
    np.savez(
        root / "uci_regression" / f"{stem}.npz", **dict(zip(("X", "y", "train_idx", "test_idx"), arrays, strict=True))
    )


def write_uci_texts(root, arrays, stem="concrete"):
    folder = root / "UCI_Datasets" / stem / "data"
    folder.mkdir(parents=True)
    x, y, train, test = arrays
    np.savetxt(folder / "data.txt", np.column_stack([x[:, :2], y, x[:, 2:]]), fmt="%.17g")
    np.savetxt(folder / "index_features.txt", [0, 1, 3, 4])  # as 3.000000e+00
    np.savetxt(folder / "index_target.txt", [2], fmt="%d")
    for i in range(len(train)):
        np.savetxt(folder / f"index_train_{i}.txt", train[i], fmt="%d")
        np.savetxt(folder / f"index_test_{i}.txt", test[i], fmt="%d")
    return folder


@pytest.mark.parametrize("write", [write_uci_npz, write_uci_texts])
def test_uci_layouts(root, write):
    x, y, _, test = arrays = uci_arrays()
    write(root, arrays)
    for seed in range(4):
        data = load("uci/concrete", seed=seed)
        index = test[seed % 3]
        np.testing.assert_allclose((data.test.y * data.target_std + data.target_mean)[:, 0], y[index], atol=1e-5)
        np.testing.assert_allclose(data.scaling.undo(data.test.x.double()), x[index], atol=1e-5)
        assert len(data.train) + len(data.validation) == 45
    assert (data.likelihood, data.kind, data.outputs) == ("gaussian", "table", 1)
    fixed = load("uci/concrete", seed=0, split=2)
    np.testing.assert_allclose((fixed.test.y * fixed.target_std + fixed.target_mean)[:, 0], y[test[2]], atol=1e-5)
    assert fixed.digest != load("uci/concrete", seed=0).digest


def test_both_uci_layouts_have_one_digest(root):
    write_uci_texts(root, uci_arrays())
    texts = load("uci/concrete").digest
    write_uci_npz(root, uci_arrays())
    assert load("uci/concrete").digest == texts


def test_uci_short_and_long_names(root):
    write_uci_npz(root, uci_arrays(), "wine-quality-red")
    assert load("uci/wine-red").digest == load("uci/wine-quality-red").digest


def test_uci_absent_and_unknown(root):
    with pytest.raises(UsageError) as caught:
        load("uci/naval")
    long = "naval-propulsion-plant"
    files = f"uci_regression/{long}.npz", f"UCI_Datasets/{long}/data/data.txt"
    for part in (str(root), *files, "git clone", "BAYESPRUNE_DATA"):
        assert part in str(caught.value)
    with pytest.raises(UsageError, match="unknown UCI regression set 'concret'; did you mean 'concrete'"):
        load("uci/concret")


def test_uci_split_out_of_range(root):
    write_uci_npz(root, uci_arrays())
    with pytest.raises(UsageError, match="split 3 does not exist; there are 3"):
        load("uci/concrete", split=3)


@pytest.mark.parametrize(("change", "message"), [
    (lambda t, s: (t, t[:, :5]), "overlap"),
    (lambda t, s: (t, s + 48), "beyond its 50 rows"),
    (lambda t, s: (t.astype(float), s), "must be whole numbers"),
])  # fmt: skip
def test_uci_bad_splits(root, change, message):
    x, y, train, test = uci_arrays()
    write_uci_npz(root, (x, y, *change(train, test)))
    with pytest.raises(UsageError, match=message):
        load("uci/concrete")


@pytest.mark.parametrize(("file", "text", "message"), [
    ("data.txt", "1 2\n3 x\n", "data.txt cannot be read"),
    ("index_features.txt", "0 9", "index_features.txt must hold whole numbers from 0 to 4"),
    ("index_train_1.txt", "0.5", "index_train_1.txt must hold whole numbers from 0 to 49"),
])  # fmt: skip
def test_uci_bad_texts(root, file, text, message):
    folder = write_uci_texts(root, uci_arrays())
    (folder / file).write_text(text)
    with pytest.raises(UsageError, match=message):
        load("uci/concrete")


def test_uci_missing_texts(root):
    folder = write_uci_texts(root, uci_arrays())
    (folder / "index_test_2.txt").unlink()
    with pytest.raises(UsageError, match=r"index_test_2\.txt cannot be read"):
        load("uci/concrete")
    for file in folder.glob("index_train_*"):
        file.unlink()
    with pytest.raises(UsageError, match=r"index_train_0\.txt is missing"):
        load("uci/concrete")
