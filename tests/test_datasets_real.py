"""The published files themselves, wherever BAYESPRUNE_DATA has them."""

import time

import numpy as np
import pytest
import torch
from bayesprune.datasets.files import data_root
from bayesprune.datasets.load import load
from bayesprune.datasets.published import SETS
from bayesprune.datasets.uci import LONG_NAMES

pytestmark = pytest.mark.real_data


def needs(*files):
    if not any((data_root() / file).exists() for file in files):
        pytest.skip(f"none of {', '.join(files)} in {data_root()}")


@pytest.mark.parametrize(
    ("name", "mean", "std"), [("mnist", [0.1307], [0.3081]), ("fashion-mnist", [0.2860], [0.3530]),
                              ("cifar10", [0.4914, 0.4821, 0.4464], [0.2470, 0.2435, 0.2616])],
)  # fmt: skip
def test_published_statistics(name, mean, std):
    """Channel means and deviations of the training images as the literature quotes them."""
    needs(f"{name}.npz", *SETS[name].files)
    begin = time.process_time()
    data = load(name)
    assert time.process_time() - begin < 30
    np.testing.assert_allclose(data.scaling.mean.flatten(), mean, atol=2e-3)
    np.testing.assert_allclose(data.scaling.std.flatten(), std, atol=2e-3)
    assert len(data.train) + len(data.validation) == pytest.approx(60000 if "mnist" in name else 50000, abs=100)
    assert len(data.test) == pytest.approx(10000, abs=30)
    assert data.train.y.bincount().min() > 0.88 * len(data.train) / 10


def test_partner_of_fashion_mnist():
    needs("mnist.npz", SETS["mnist"].files[0])
    needs("fashion-mnist.npz", SETS["fashion-mnist"].files[0])
    data = load("fashion-mnist", subset=500, resize=14)
    assert data.ood_name == "mnist"
    assert data.ood.x.shape == data.test.x.shape == (10000, 1, 14, 14)
    assert torch.isfinite(data.ood.x).all()


@pytest.mark.parametrize("short", LONG_NAMES)
def test_uci_sets(short):
    needs(f"uci_regression/{LONG_NAMES[short]}.npz", f"UCI_Datasets/{LONG_NAMES[short]}/data/data.txt")
    one, other = load(f"uci/{short}", seed=0), load(f"uci/{short}", seed=1)
    assert one.digest != other.digest
    total = len(one.train) + len(one.validation) + len(one.test)
    assert len(one.test) == pytest.approx(total / 10, abs=1)
    assert torch.isfinite(one.train.x).all()
    assert one.train.x.abs().max() < 1e3
    assert one.train.y.std().item() == pytest.approx(1, abs=1e-2)
