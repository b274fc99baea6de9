"""What `Data` promises: batches, the seal on test data, corruptions, the out-of-distribution twin."""

import contextlib
import itertools
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bayesprune.datasets import ood, shift
from bayesprune.datasets.data import Split
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.datasets.seal import TestSplitError, opened, sealed


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def wine():
    return load("wine")


def images(n=64, channels=3, height=12, width=9):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, channels, height, width, generator=generator)


# ---------------------------------------------------------------- splits


def test_batches_in_order_and_shuffled():
    part = Split(torch.arange(10.0)[:, None], torch.arange(10))
    assert [len(x) for x, _ in part.batches(4)] == [4, 4, 2]
    assert torch.cat([y for _, y in part.batches(4)]).tolist() == list(range(10))
    once, again = (list(part.batches(3, torch.Generator().manual_seed(1))) for _ in range(2))
    order = torch.cat([y for _, y in once])
    assert order.tolist() != list(range(10))
    assert sorted(order.tolist()) == list(range(10))
    for (x, y), (x2, y2) in zip(once, again, strict=True):
        assert torch.equal(x[:, 0].long(), y)
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


@pytest.mark.parametrize(("n", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (1, [1]), (3, [3]), (0, [])])
def test_no_batch_of_one_is_left_over(n, sizes):
    part = Split(torch.arange(float(n)), torch.arange(n))
    assert part.batch_sizes(4) == sizes
    assert [len(x) for x, _ in part.batches(4, torch.Generator())] == sizes


def test_each_pass_shuffles_anew():
    part, generator = Split(torch.arange(50.0), torch.arange(50)), torch.Generator().manual_seed(1)
    first, second = (torch.cat([y for _, y in part.batches(7, generator)]) for _ in range(2))
    assert not torch.equal(first, second)


def test_indexing_and_length():
    part = Split(torch.arange(10.0), torch.arange(10))
    assert len(part) == 10
    assert part[torch.tensor([3, 1])].y.tolist() == [3, 1]
    assert len(part[2:5]) == 3


def test_types_and_shapes(digits, wine):
    assert (digits.kind, digits.input_shape, digits.outputs) == ("image", (1, 8, 8), 10)
    assert (wine.kind, wine.input_shape, wine.outputs) == ("table", (13,), 3)
    assert digits.train.x.dtype == torch.float32
    assert digits.train.y.dtype == torch.int64
    assert digits.classes == tuple("0123456789")
    assert "digits" in repr(digits)


@pytest.mark.parametrize("name", ["digits", "wine"])
def test_what_is_done_to_one_set_stays_out_of_the_next(name):
    first, second = load(name, 0), load(name, 0)
    kept = second.train.x.clone(), second.train.y.clone()
    first.train.x.zero_()
    first.train.y.zero_()
    later = load(name, 0)
    for data in (second, later):
        assert torch.equal(data.train.x, kept[0])
        assert torch.equal(data.train.y, kept[1])


def test_pickle_and_move(digits):
    copy = pickle.loads(pickle.dumps(digits))
    assert torch.equal(copy.test.x, digits.test.x)
    moved = digits.to("cpu")
    assert torch.equal(moved.ood.x, digits.ood.x)
    assert digits.to("meta").train.x.device.type == "meta"
    assert digits.to("meta").test.x.device.type == "meta"


# ---------------------------------------------------------------- the seal


READS = {
    "test": lambda data: data.test,
    "ood": lambda data: data.ood,
    "shifted": lambda data: data.shifted("noise", 1),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_seal_stops_a_read(read, digits):
    with pytest.raises(TestSplitError, match="digits"), sealed():
        read(digits)
    read(digits)


@sealed()
def swallow(read, data):
    with contextlib.suppress(Exception):
        read(data)


@sealed()
def disguise(data):
    try:
        return data.test
    except TestSplitError:
        raise ValueError("something else") from None


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_swallowed_violation_comes_back(read, digits):
    with pytest.raises(TestSplitError, match="digits"):
        swallow(read, digits)


def test_a_disguised_violation_comes_back(digits):
    with pytest.raises(TestSplitError):
        disguise(digits)


def test_other_errors_pass_through_an_innocent_block():
    with pytest.raises(KeyError), sealed():
        raise KeyError("x")


def test_training_data_may_be_read_and_data_loaded_under_seal(digits):
    with sealed():
        assert len(digits.train) == 1079
        assert len(digits.validation) == 359
        load("wine").to("cpu")


def test_seal_is_reentrant(digits):
    @sealed()
    def read_after_an_inner_block():
        with sealed():
            pass
        return digits.test

    @sealed()
    def swallow_what_the_inner_block_raised():
        with contextlib.suppress(TestSplitError):
            swallow(READS["test"], digits)

    for misbehaviour in (read_after_an_inner_block, swallow_what_the_inner_block_raised):
        with pytest.raises(TestSplitError):
            misbehaviour()
    assert len(digits.test) == 359


def test_seal_holds_in_the_threads_that_are_started_inside(digits):
    def read(seen):
        try:
            seen.append(len(digits.test))
        except TestSplitError as error:
            seen.append(error)

    def started(seen):
        thread = threading.Thread(target=read, args=(seen,))
        thread.start()
        thread.join()

    def under_seal(start):
        with sealed():
            start(seen)

    for start in (started, lambda seen: ThreadPoolExecutor(1).submit(read, seen).result()):
        seen = []
        with pytest.raises(TestSplitError):
            under_seal(start)
        assert isinstance(seen[0], TestSplitError)
        start(seen)
        assert seen[1] == 359


def test_whoever_judges_opens_the_seal_and_a_method_inside_closes_it_again(digits):
    @sealed()
    def judge():
        with opened():
            return len(digits.test)

    @sealed()
    def judge_through_a_method():
        with opened():
            return disguise(digits)

    assert judge() == 359
    with pytest.raises(TestSplitError):
        judge_through_a_method()


# ---------------------------------------------------------------- corruptions


def distances(data, kind):
    clean = data.test.x
    return [(data.shifted(kind, s).x - clean).flatten(1).norm(dim=1).mean().item() for s in range(1, 6)]


@pytest.mark.parametrize("kind", ["noise", "blur", "rotation"])
def test_image_corruptions_grow_with_severity(kind, digits):
    measured = distances(digits, kind)
    assert measured[0] > 0.1
    assert all(a < 0.97 * b for a, b in itertools.pairwise(measured))


@pytest.mark.parametrize("name", ["wine", "diabetes", "two-moons"])
def test_table_noise_grows_with_severity(name):
    data = load(name)
    assert data.shifts == ("noise",)
    measured = distances(data, "noise")
    assert measured[0] > 0
    assert measured == sorted(measured)


def test_shift_is_deterministic_seeded_and_keeps_labels(digits):
    one, again = digits.shifted("noise", 2), digits.shifted("noise", 2)
    assert torch.equal(one.x, again.x)
    assert torch.equal(one.y, digits.test.y)
    assert digits.shifts == ("noise", "blur", "rotation")
    clean = images(8)
    assert not torch.equal(shift.noise(clean, 0.1, 0), shift.noise(clean, 0.1, 1))


@pytest.mark.parametrize("kind", ["noise", "blur", "rotation"])
def test_shift_stays_on_the_device_of_the_data(kind, digits):
    """The meta device refuses to meet tensors of another one, as an accelerator does."""
    assert digits.to("meta").shifted(kind, 1).x.device.type == "meta"


def test_shift_corrupts_raw_values_and_clips(digits):
    raw = digits.scaling.undo(digits.shifted("noise", 5).x)
    assert raw.min() > -1e-5
    assert raw.max() < 1 + 1e-5


@pytest.mark.parametrize(("kind", "severity", "message"), [
    ("blurr", 1, "did you mean 'blur'"), ("blur", 0, "must be one of 1 to 5"), ("blur", 6, "severity 6"),
])  # fmt: skip
def test_unknown_shift_is_refused(kind, severity, message, digits):
    with pytest.raises(UsageError, match=message):
        digits.shifted(kind, severity)


def test_tables_cannot_be_rotated(wine):
    with pytest.raises(UsageError, match="rotation"):
        wine.shifted("rotation", 1)


def test_blur_is_a_depthwise_gaussian_convolution():
    clean, sigma = images(4), 1.3
    radius = 8
    edges = (torch.arange(-radius, radius + 2, dtype=torch.float64) - 0.5) / sigma
    line = torch.special.ndtr(edges).diff().float()
    kernel = torch.outer(line, line).expand(3, 1, -1, -1)
    wanted = F.conv2d(F.pad(clean, [radius] * 4, mode="replicate"), kernel, groups=3)
    got = shift.blur(clean, sigma / 9)
    assert torch.allclose(got, wanted, atol=1e-5)


def test_quarter_turn_is_exact_on_squares():
    clean = images(64, 2, 7, 7)
    turned = shift.rotation(clean, 90, seed=0)
    left, right = clean.rot90(1, (2, 3)), clean.rot90(-1, (2, 3))
    matches = [(turned - way).abs().amax(dim=(1, 2, 3)) < 1e-5 for way in (left, right)]
    assert (matches[0] ^ matches[1]).all()
    assert matches[0].any()
    assert matches[1].any()


def test_rotation_keeps_angles_on_rectangles():
    """Half a turn is a flip of both axes; a quarter turn moves a point by its pixel distance."""
    clean = images(8, 1, 12, 6)
    assert torch.allclose(shift.rotation(clean, 180, 0), clean.flip(2, 3), atol=1e-4)
    dot = torch.zeros(1, 1, 13, 7)
    dot[0, 0, 6, 5] = 1  # two right of the centre
    row, column = divmod(int(shift.rotation(dot, 90, 0).argmax()), 7)
    assert column == 3
    assert abs(row - 6) == 2


def test_noise_has_the_stated_deviation():
    grey = torch.full((200, 1, 20, 20), 0.5)
    assert (shift.noise(grey, 0.06, 0) - grey).std().item() == pytest.approx(0.06, rel=0.02)


def test_table_noise_leaves_constant_features_constant():
    x = torch.stack([torch.zeros(50), torch.linspace(-3, 3, 50)], dim=1)
    noisy = shift.table_noise(x, 1.0, 0)
    assert (noisy[:, 0] == 0).all()
    assert (noisy[:, 1] != x[:, 1]).all()


# ---------------------------------------------------------------- the twin


@pytest.mark.parametrize("name", ["digits", "wine", "diabetes", "two-moons"])
def test_twin_looks_alike_and_differs(name):
    data = load(name)
    assert data.ood.x.shape == data.test.x.shape
    assert data.ood.y.shape == data.test.y.shape
    assert not data.ood.y.any()
    assert not torch.equal(data.ood.x, data.test.x)
    assert torch.isfinite(data.ood.x).all()
    assert data.ood_name == {"image": "strokes", "table": "permuted"}[data.kind]
    assert torch.equal(data.ood.x, load(name).ood.x)


def test_image_twin_has_mean_and_contrast_of_the_data(digits):
    assert digits.ood.x.mean().item() == pytest.approx(digits.test.x.mean().item(), abs=0.05)
    assert digits.ood.x.std().item() == pytest.approx(digits.test.x.std().item(), rel=0.05)
    colour = images(200) ** torch.tensor([0.5, 1.0, 3.0]).view(3, 1, 1)
    twin = ood.strokes(colour, seed=0)
    assert twin.shape == colour.shape
    assert torch.allclose(twin.mean(dim=(0, 2, 3)), colour.mean(dim=(0, 2, 3)), atol=0.02)
    assert torch.allclose(twin.std(dim=(0, 2, 3)), colour.std(dim=(0, 2, 3)), rtol=0.05)
    assert not torch.equal(twin, ood.strokes(colour, seed=1))


def test_image_twin_is_smooth_and_no_digit(digits):
    """Strokes have neighbours alike, as images do and noise does not, yet lie far from every digit."""
    x = digits.ood.x.squeeze(1)
    across = np.corrcoef(x[:, :, 1:].flatten(), x[:, :, :-1].flatten())[0, 1]
    assert across > 0.3
    train = digits.train.x.flatten(1)
    nearest_ood = torch.cdist(digits.ood.x.flatten(1), train).min(dim=1).values.median()
    nearest_test = torch.cdist(digits.test.x.flatten(1), train).min(dim=1).values.median()
    assert nearest_ood > 1.5 * nearest_test


def test_table_twin_keeps_marginals_and_breaks_the_joint():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 1, generator=generator).repeat(1, 3)
    twin = ood.permuted(x, seed=0)
    assert torch.equal(twin.sort(dim=0).values, x.sort(dim=0).values)
    correlation = np.corrcoef(twin.T.numpy()) - np.eye(3)
    assert np.abs(correlation).max() < 4 / math.sqrt(500)
