"""Gene expression sets: files written here, small classes, names, and whatever is refused."""

import numpy as np
import pytest
from bayesprune.datasets.data import Data
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.files import data_root
from bayesprune.datasets.gene_expression import SETS
from bayesprune.datasets.load import load


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYESPRUNE_DATA", str(tmp_path))
    (tmp_path / "gene_expression").mkdir()
    return tmp_path


def write(root, name, y, x=None, **more):
    """An npz file of intensities above zero, unless `x` is given, as the set called `name`."""
    x = np.exp(np.random.default_rng(0).standard_normal((len(y), 7))) if x is None else x
    np.savez(root / "gene_expression" / f"{SETS[name].file}.npz", X=x, y=y, **more)
    return x


def raw(data, part):
    return data.scaling.undo(getattr(data, part).x.double()).numpy()


def rows(data):
    return np.concatenate([raw(data, part) for part in ("train", "validation", "test")])


def in_order(x):
    return x[np.lexsort(x.T)]


def test_splits_are_seeded_and_stratified(root):
    y = np.array([0] * 20 + [1] * 40)
    x = write(root, "leukemia", y)
    data, again, other = (load("gene-expression/leukemia", seed) for seed in (0, 0, 1))
    assert (data.kind, data.likelihood, data.outputs, data.classes) == ("table", "categorical", 2, ("ALL", "AML"))
    counts = {part: getattr(data, part).y.bincount().tolist() for part in ("train", "validation", "test")}
    assert counts == {"train": [12, 24], "validation": [4, 8], "test": [4, 8]}
    np.testing.assert_allclose(in_order(rows(data)), in_order(x), atol=1e-4)
    assert data.digest == again.digest != other.digest


@pytest.mark.parametrize(("name", "logarithm"), [("colon", True), ("srbct", True), ("prostate", False)])
def test_intensities_enter_as_logarithms(root, name, logarithm):
    x = write(root, name, np.arange(40) % len(SETS[name].classes))
    data = load(f"gene-expression/{name}")
    np.testing.assert_allclose(in_order(rows(data)), in_order(np.log(x) if logarithm else x), atol=1e-4)


def test_a_yield_is_regression_with_named_genes(root):
    y = np.linspace(-9, -6, 30)
    write(root, "riboflavin", y, genes=np.array(["A", "B", "A", "C", "A", "D", "E"]))
    data = load("gene-expression/riboflavin")
    assert (data.likelihood, data.outputs, data.train.y.shape) == ("gaussian", 1, (18, 1))
    assert data.features == ("A", "B", "A (2)", "C", "A (3)", "D", "E")
    restored = [
        (getattr(data, p).y * data.target_std + data.target_mean)[:, 0] for p in ("train", "validation", "test")
    ]
    np.testing.assert_allclose(np.sort(np.concatenate(restored)), y, atol=1e-5)


def test_classes_too_small_for_three_splits_are_left_out(root):
    y = np.array(["RENAL"] * 9 + ["CNS"] * 3 + ["PROSTATE"] * 2 + ["UNKNOWN"] + ["BREAST"] * 7)
    x = write(root, "nci60", y)
    data = load("gene-expression/nci60")
    assert data.classes == ("BREAST", "CNS", "RENAL")
    assert all((getattr(data, part).y.bincount(minlength=3) > 0).all() for part in ("train", "validation", "test"))
    np.testing.assert_allclose(in_order(rows(data)), in_order(x[(y != "PROSTATE") & (y != "UNKNOWN")]), atol=1e-4)
    assert load("gene-expression/nci60", fewest=5).classes == ("BREAST", "RENAL")
    with pytest.raises(UsageError, match="class 'UNKNOWN' has 1 example, too few"):
        load("gene-expression/nci60", fewest=1)
    with pytest.raises(UsageError, match="no class of 10 examples; its largest has 9"):
        load("gene-expression/nci60", fewest=10)
    with pytest.raises(UsageError, match="one class only"):
        load("gene-expression/nci60", fewest=8)


def test_the_error_for_an_absent_file_names_folder_file_and_source(root):
    with pytest.raises(UsageError) as caught:
        load("gene-expression/prostate")
    for part in (str(root), "gene_expression/prostate_singh.npz", "R package spls", "numpy.savez", "BAYESPRUNE_DATA"):
        assert part in str(caught.value)
    with pytest.raises(UsageError, match="its yields as y"):
        load("gene-expression/riboflavin")


@pytest.mark.parametrize(("name", "message"), [("colom", "did you mean 'colon'"), ("xyz", "known: colon, leukemia")])
def test_wrong_names(root, name, message):
    with pytest.raises(UsageError, match=f"unknown gene expression set '{name}'; {message}"):
        load(f"gene-expression/{name}")


@pytest.mark.parametrize(("change", "message"), [
    ({"y": np.arange(40) % 3}, "labels must be whole numbers from 0 to 1"),
    ({"y": np.zeros(40, int)}, "one class only"),
    ({"y": np.arange(39) % 2}, "40 inputs but 39 targets"),
    ({"y": np.zeros((40, 2), int)}, r"y must be \(N,\) for classes"),
    ({"x": np.zeros((40, 7))}, "must hold positive intensities"),
    ({"x": np.ones((40, 7, 2))}, r"x must hold real numbers, a table \(N, F\)"),
    ({"x": np.full((40, 7), np.nan)}, "must hold positive intensities"),
    ({"genes": np.array(["A"])}, r"names genes \(1,\) for the columns of X \(40, 7\)"),
])  # fmt: skip
def test_unfit_content(root, change, message):
    content = {"y": np.arange(40) % 2, "x": np.ones((40, 7)) + np.arange(7), **change}
    write(root, "colon", **content)
    with pytest.raises(UsageError, match=message):
        load("gene-expression/colon")


def test_a_damaged_file_and_a_missing_key(root):
    path = root / "gene_expression" / "colon_alon.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"colon_alon\.npz is not an npz file of plain arrays"):
        load("gene-expression/colon")
    np.savez(path, x=np.ones((4, 2)), y=np.arange(4))
    with pytest.raises(UsageError, match="must hold the arrays X, y, genes or X, y; it holds x, y"):
        load("gene-expression/colon")


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "shape", "classes"), [
    ("colon", (62, 2000), [22, 40]), ("leukemia", (38, 3051), [27, 11]), ("lymphoma", (62, 4026), [42, 9, 11]),
    ("nci60", (57, 6830), [7, 5, 7, 6, 8, 9, 6, 9]), ("prostate", (102, 6033), [50, 52]),
    ("riboflavin", (71, 4088), None), ("srbct", (83, 2308), [29, 11, 18, 25]),
])  # fmt: skip
def test_published_sizes(name, shape, classes):
    """Numbers of samples, genes and members of classes as the literature quotes them (nci60: of classes of three)."""
    if not (data_root() / "gene_expression" / f"{SETS[name].file}.npz").exists():
        pytest.skip(f"gene_expression/{SETS[name].file}.npz is not in {data_root()}")
    data: Data = load(f"gene-expression/{name}")
    parts = [data.train, data.validation, data.test]
    assert (sum(map(len, parts)), *data.input_shape) == shape
    if classes:
        assert sum(part.y.bincount(minlength=len(classes)) for part in parts).tolist() == classes
    assert data.train.x.abs().max() < 10
