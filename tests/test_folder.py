"""Folders of images: decoded when read, standardised by one pass, sealed like other data, and run in a matrix."""

import numpy as np
import pytest
import torch
from bayesprune.bench.harness.run_matrix import run
from bayesprune.bench.results.frames import results
from bayesprune.datasets.data import Data, TestSplitError, sealed
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load, options
from bayesprune.datasets.stream import Stream
from PIL import Image

COUNTS = {"train": 20, "test": 6}


def image(rng, label, shape=(12, 10)):
    pixels = rng.integers(0, 120, (*shape, 3), dtype=np.uint8)
    pixels[..., label] += 100
    return Image.fromarray(pixels)


@pytest.fixture
def place(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for label, name in enumerate(("blue", "green")):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                image(rng, label).save(folder / f"{i:02}.png")
    return tmp_path / "data"


def of(place, seed=0, **given):
    return load(f"folder:{place}", seed, **{"size": 8, "batch": 7, **given})


def test_splits_are_disjoint_streams_with_the_statistics_of_the_training_images(place):
    data = of(place)
    assert isinstance(data, Data)
    assert all(isinstance(part, Stream) for part in (data.train, data.validation, data.test, data.ood))
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 12)
    assert (data.outputs, data.classes, data.input_shape) == (2, ("blue", "green"), (3, 8, 8))
    files = [{path for path, _ in part.loader.samples} for part in (data.train, data.validation, data.test)]
    assert not files[0] & files[1]
    assert not (files[0] | files[1]) & files[2]
    x = torch.cat([x for x, _ in data.train.parts()]).double()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
    first = data.test.loader.samples[0][0]
    with Image.open(first) as opened:
        raw = torch.from_numpy(np.array(opened.resize((8, 9), Image.Resampling.BILINEAR))).permute(2, 0, 1)[:, :8]
    found = data.scaling.undo(data.test[:1].x[0]) * 255
    assert (found - raw).abs().max() <= 1.5  # to the rounding of the resampled pixels
    assert data.test[:12].y.tolist() == [0] * 6 + [1] * 6
    assert data.test.y.tolist() == [0] * 6 + [1] * 6


def test_a_validation_folder_is_used_and_seeds_choose_otherwise(place):
    held = [{p.name for p, _ in of(place, seed).validation.loader.samples} for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]
    assert len(of(place, validation=0.25).validation) == 10
    for name in ("blue", "green"):
        (place / "val" / name).mkdir(parents=True)
        image(np.random.default_rng(1), 0).save(place / "val" / name / "a.jpg")
    data = of(place)
    assert (len(data.train), len(data.validation)) == (40, 2)
    assert len(of(place, subset=10).train) == 10


def test_passes_are_the_same_unless_a_generator_draws_them(place):
    data = of(place, augment="flip-crop")

    def read(generator=None, size=7):
        return torch.cat([x for x, _ in data.train.batches(size, generator)])

    assert torch.equal(read(), read())
    one, two = (read(torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert not torch.equal(one, two)
    assert torch.equal(one, read(torch.Generator().manual_seed(1)))
    assert data.train.batch_sizes(8) == [8, 8, 8, 8, 4]
    assert [len(y) for _, y in data.train.batches(8)] == [8, 8, 8, 8, 4]
    workers = of(place, augment="flip-crop", workers=2)
    assert {len(y) for _, y in workers.test.parts()} == {7, 5}


def test_the_seal_holds(place):
    data = of(place)
    for read in (lambda: data.test, lambda: data.ood, lambda: data.shifted("noise", 1)):
        with pytest.raises(TestSplitError), sealed():
            read()
    clean, shifted = data.test[:12], data.shifted("noise", 3)[:12]
    assert torch.equal(clean.y, shifted.y)
    assert 0.3 < (clean.x - shifted.x).abs().mean() < 3
    assert data.ood[:12].x.shape == clean.x.shape
    assert not data.ood[:12].y.any()


def test_the_digest_is_that_of_the_content(place):
    before, names = of(place).digest, of(place, check="names").digest
    assert before == of(place).digest
    assert before != of(place, 1).digest  # another split
    assert before != of(place, size=6).digest
    file = place / "test" / "blue" / "00.png"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(bytes(content))
    assert of(place).digest != before
    assert of(place, check="names").digest == names
    file.write_bytes(bytes(content) + b"more")
    assert of(place, check="names").digest != names


def broken(place, what):
    train = place / "train"
    match what:
        case "no folder":
            return place / "elsewhere", "there is no folder"
        case "no test":
            (place / "test").rename(place / "held")
            return place, r"there is no folder .*test; it must hold a folder of images for each class"
        case "one class":
            (train / "green").rename(place / "green")
            return place, "has 1 folders of classes, not two or more"
        case "another class":
            (place / "test" / "green").rename(place / "test" / "gren")
            return place, "unknown class .*'gren'; did you mean 'green'"
        case "no image":
            for file in (train / "blue").iterdir():
                file.unlink()
            return place, r"no image \(.jpg, .* in .*blue"
        case "broken":
            (train / "blue" / "00.png").write_bytes(b"no image")
            return place, r"cannot read .*blue/00.png: .*; replace or remove the file"
        case "link":
            outside = place.parent / "secret.png"
            image(np.random.default_rng(2), 0).save(outside)
            (train / "blue" / "99.png").symlink_to(outside)
            return place, "99.png leads out of the folder; put the file there"


@pytest.mark.parametrize("what", ["no folder", "no test", "one class", "another class", "no image", "broken", "link"])
def test_what_cannot_be_read_is_named(place, what):
    path, message = broken(place, what)
    with pytest.raises(UsageError, match=message):
        of(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resize": 8}, "say size=8, not resize"),
        ({"size": 0}, "size=0 is too small"),
        ({"workers": -1}, "workers=-1 is too small"),
        ({"validation": 1.0}, "must be a share above 0 and below 1"),
        ({"augment": "mixup"}, "augment='mixup' is not valid"),
        ({"subset": 1}, "must lie between 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(place, given, message):
    with pytest.raises(UsageError, match=message):
        of(place, **given)
    assert options(f"folder:{place}", {"size": 224, "augment": "none"}) == {}


def test_a_matrix_runs_on_a_folder(place, tmp_path):
    (tmp_path / "m.yaml").write_text(
        f"datasets: [{{name: 'folder:{place}', size: 8}}]\n"
        "architectures: [{name: resnet, depth: 8, width: 4}]\n"
        "methods: [magnitude, opd]\nunits: [weights, groups]\nsparsity: [0.5]\nseeds: [0]\n"
        "training: {epochs: 2, batch_size: 8}\nfinetune: {epochs: 1}\n"
    )
    run(tmp_path / "m.yaml", tmp_path / "out", jobs=1)
    found = results(tmp_path / "out")
    assert list(found["status"]) == ["done"] * 4, list(found["reason"])
    assert found["accuracy"].between(0, 1).all()
    assert found["ood_auroc"].notna().all()
    assert found["shift_accuracy"].notna().all()
