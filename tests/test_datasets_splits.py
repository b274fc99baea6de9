"""Splits, subsets, standardisation and the content digest of `load`."""

import hashlib
import sys

import numpy as np
import pytest
import torch
from bayesprune.datasets.assemble import content_digest, statistics
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load, options
from bayesprune.datasets.splits import quotas, split, take
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = ("digits", "breast-cancer", "wine", "diabetes", "two-moons", "sparse-teacher")


def parts(data):
    return data.train, data.validation, data.test


def rows(part):
    return {hashlib.sha256(row.numpy().tobytes()).digest() for row in part.x}


def class_counts(part, outputs):
    return part.y.bincount(minlength=outputs)


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=12), seed=st.integers(0, 2**32))
def test_split_is_a_stratified_partition(counts, seed):
    strata = np.repeat(np.arange(len(counts)), counts)
    train, validation, test = split(strata, np.random.default_rng(seed))
    assert sorted(np.concatenate([train, validation, test])) == list(range(len(strata)))
    for c, count in enumerate(counts):
        assert (strata[train] == c).any(), "every class can be trained on"
        in_test, in_validation = (int((strata[part] == c).sum()) for part in (test, validation))
        assert in_test >= (count >= 2)
        assert in_validation >= (count >= 3)
        if min(counts) >= 10:
            assert abs(in_test - count / 5) <= 1
            assert abs(in_validation - count / 5) <= 1.25  # a fifth of all, drawn from what the test left


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=12), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_subset_is_exact_and_stratified(counts, share, seed):
    strata = np.repeat(np.arange(len(counts)), counts)
    pool = np.arange(len(strata))
    n = len(counts) + int(share * (len(strata) - len(counts)))
    chosen, others = take(pool, strata, n, np.random.default_rng(seed), leave=0)
    assert len(chosen) == n
    assert sorted(np.concatenate([chosen, others])) == list(pool)
    assert set(strata[chosen]) == set(range(len(counts)))


def test_quotas_by_hand():
    # 10 of (50, 30, 20) is exact; 7 of them is 3.5, 2.1, 1.4 and the largest remainder wins
    free = np.zeros(3, dtype=int), np.array([50, 30, 20])
    assert quotas(np.array([50, 30, 20]), 10, *free).tolist() == [5, 3, 2]
    assert quotas(np.array([50, 30, 20]), 7, *free).tolist() == [4, 2, 1]
    assert quotas(np.array([98, 1, 1]), 10, np.ones(3, dtype=int), np.array([98, 1, 1])).tolist() == [8, 1, 1]


def test_shuffling_leaves_no_class_first():
    strata = np.repeat(np.arange(2), 200)
    heads = [strata[part[:20]].mean() for s in range(30) for part in split(strata, np.random.default_rng(s))]
    assert 0.45 < np.mean(heads) < 0.55


@pytest.mark.parametrize("name", SMALL)
def test_splits_are_disjoint_and_sized(name):
    data = load(name)
    train, validation, test = parts(data)
    assert not rows(train) & rows(validation)
    assert not rows(train) & rows(test)
    assert not rows(validation) & rows(test)
    total = len(train) + len(validation) + len(test)
    assert abs(len(test) - total / 5) <= 1
    assert abs(len(validation) - total / 5) <= 1


@pytest.mark.parametrize("name", ["digits", "breast-cancer", "wine", "two-moons", "sparse-teacher"])
def test_class_shares_agree_within_two_percent(name):
    data = load(name, seed=3)
    counts = torch.stack([class_counts(part, data.outputs) for part in parts(data)]).double()
    overall = counts.sum(0) / counts.sum()
    assert ((counts / counts.sum(1, keepdim=True) - overall).abs() < 0.02).all()


@pytest.mark.parametrize("name", SMALL)
def test_seed_decides_the_split(name):
    one, again, other = load(name, seed=1), load(name, seed=1), load(name, seed=2)
    assert one.digest == again.digest != other.digest
    for a, b, c in zip(parts(one), parts(again), parts(other), strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
        assert not torch.equal(a.x, c.x)


def test_digits_split_is_the_same_everywhere():
    """A known answer: the first training labels of seed 0, whatever the platform and the numpy version."""
    assert load("digits").train.y[:12].tolist() == [0, 7, 9, 4, 3, 8, 9, 4, 0, 2, 2, 7]


def test_global_generators_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002  (the global state is the point)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    data = load("digits", subset=100)
    data.shifted("noise", 1), data.ood
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_digest_reads_content_type_shape_and_context():
    x = np.arange(6, dtype=np.int32)
    base = content_digest(("a",), [x])
    changed = [x + 1, x.astype(np.int64), x.reshape(2, 3), x[:5]]
    assert len({base, content_digest(("b",), [x]), *(content_digest(("a",), [v]) for v in changed)}) == 6
    assert base == content_digest(("a",), [x.astype(">i4")])


def test_subset_is_seeded_and_leaves_other_splits_alone():
    full, one, again, other = load("digits"), *(load("digits", s, subset=100) for s in (0, 0, 1))
    assert len(one.train) == 100
    assert class_counts(one.train, 10).tolist() == pytest.approx([10] * 10, abs=1)
    assert one.digest == again.digest not in (full.digest, other.digest)
    assert len(one.validation) == len(full.validation)
    assert torch.equal(one.test.y, full.test.y)


@pytest.mark.parametrize("subset", [9, 1080])
def test_impossible_subset_is_refused(subset):
    with pytest.raises(UsageError, match=f"subset={subset} must lie between 10.* and 1079"):
        load("digits", subset=subset)


def test_resize_changes_side_and_digest():
    data = load("digits", resize=12)
    assert data.input_shape == (1, 12, 12)
    assert data.digest != load("digits").digest
    with pytest.raises(UsageError, match="table; resize=4"):
        load("wine", resize=4)


def test_resize_of_a_constant_image_keeps_it(four):
    x = np.full((40, 6, 6), 128, np.uint8)
    x[::2] = 0
    data = load(four(x, np.arange(40) % 2, x[:4], np.arange(4) % 2), resize=3)
    raw = data.scaling.undo(data.train.x)
    assert torch.allclose(raw.std(dim=(1, 2, 3)), torch.zeros(len(raw)), atol=1e-6)


def test_tables_are_standardised_by_training_rows(four):
    rng = np.random.default_rng(0)
    x = rng.normal(1.6e9, [1, 10, 1e3], size=(200, 3))  # in float32 the first column would be constant
    y = np.arange(200) % 2
    data = load(four(x[:150], y[:150], x[150:], y[150:]))
    index = [int(np.abs(x[:, 2] - v).argmin()) for v in data.scaling.undo(data.train.x.double())[:, 2].tolist()]
    mean, std = x[index].mean(0), x[index].std(0)
    np.testing.assert_allclose(data.train.x, (x[index] - mean) / std, atol=1e-5)
    np.testing.assert_allclose(data.test.x, (x[150:] - mean) / std, atol=1e-5)
    np.testing.assert_allclose(data.scaling.std, std, rtol=1e-9)


def test_images_are_standardised_per_channel(four):
    x = np.random.default_rng(0).integers(0, 256, size=(60, 5, 4, 3), dtype=np.uint8)
    data = load(four(x[:50], np.arange(50) % 2, x[50:], np.arange(10) % 2))
    assert data.input_shape == (3, 5, 4)
    assert torch.allclose(data.train.x.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(data.train.x.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    mean, std = data.scaling.mean.numpy(), data.scaling.std.numpy()
    np.testing.assert_allclose(data.test.x, (x[50:].transpose(0, 3, 1, 2) / 255 - mean) / std, atol=1e-5)


def test_test_inputs_do_not_move_training_statistics(four):
    x = np.random.default_rng(0).normal(size=(100, 3))
    y = np.arange(100) % 2
    here, there = (load(four(x[:80], y[:80], x[80:] * scale, y[80:])) for scale in (1, 1000))
    assert torch.equal(here.train.x, there.train.x)
    assert torch.equal(here.validation.x, there.validation.x)
    assert not torch.equal(here.test.x, there.test.x)


def test_constant_feature_becomes_zero():
    x = torch.cat([torch.full((50, 1), 0.1), torch.linspace(-1, 1, 50)[:, None]], dim=1).double()
    scaling = statistics(x)
    assert scaling.std[0] == 1
    assert scaling.apply_(x.clone())[:, 0].abs().max() < 1e-12


def test_statistics_agree_with_numpy_across_chunks():
    x = torch.randn(9000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.1]) + 7
    scaling = statistics(x)
    np.testing.assert_allclose(scaling.mean, x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(scaling.std, x.double().numpy().std(0), rtol=1e-12)


def test_regression_targets_are_standardised_and_can_be_undone():
    from sklearn.datasets import load_diabetes

    data = load("diabetes")
    assert (data.likelihood, data.outputs, data.classes) == ("gaussian", 1, None)
    assert abs(data.train.y.mean()) < 1e-6
    raw = torch.cat([part.y for part in parts(data)]) * data.target_std + data.target_mean
    np.testing.assert_allclose(raw.flatten().sort().values, np.sort(load_diabetes().target), rtol=1e-5)


def test_sparse_teacher_reads_only_relevant_features():
    data = load("sparse-teacher", n=4000, features=10, relevant=3, noise=0)
    raw = data.scaling.undo(data.train.x)
    score = raw[:, :3] @ torch.tensor([1.0, -1.0, 1.0])
    assert ((score > 0).long() == data.train.y).all()


def test_sparse_teacher_best_accuracy():
    data = load("sparse-teacher", n=20000, noise=1.0)
    score = data.scaling.undo(data.train.x)[:, :5] @ torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    agreement = ((score > 0).long() == data.train.y).double().mean()
    assert agreement == pytest.approx(1 - np.arctan(1.0) / np.pi, abs=0.01)


def test_two_moons_options():
    clean = load("two-moons", n=200, noise=0)
    assert len(clean.train) == 120
    raw, upper = clean.scaling.undo(clean.train.x), clean.train.y == 0
    assert torch.allclose(raw[upper].norm(dim=1), torch.ones(int(upper.sum())), atol=1e-5)


def test_options_drop_defaults_and_check():
    assert options("digits", {"subset": None, "resize": None}) == {}
    assert options("two-moons", {"n": 1000, "noise": "0.3", "subset": 50}) == {"noise": 0.3, "subset": 50}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("digts", {}, "unknown data set 'digts'; did you mean 'digits'"),
        ("digits", {"subst": 5}, "unknown option of data set 'digits' 'subst'; did you mean 'subset'"),
        ("two-moons", {"nois": 1}, "did you mean 'noise'"),
        ("digits", {"subset": -1}, "subset=-1 is not valid"),
        ("digits", {"resize": "big"}, "resize='big' is not valid"),
        ("two-moons", {"noise": -0.1}, "noise=-0.1 is not valid"),
        ("sparse-teacher", {"relevant": 30}, "relevant=30 .* must not exceed features=20"),
        ("two-moons", {"n": 3}, "too few|one class|3 examples"),
    ],
)
def test_bad_names_and_options(name, given, message):
    with pytest.raises(UsageError, match=message):
        load(name, **given)


def test_negative_seed_is_refused():
    with pytest.raises(UsageError, match="seed -1"):
        load("digits", seed=-1)


def test_heavy_imports_wait_until_needed():
    import subprocess

    code = "import bayesprune.datasets.load, sys; print([m for m in ('torchvision', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def four(tmp_path):
    """Write x_train, y_train, x_test, y_test to a file of its own and return the data set's name."""

    def write(*arrays):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        np.savez(path, **dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays, strict=True)))
        return f"npz:{path}"

    return write
