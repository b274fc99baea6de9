"""The published image sets, from `NAME.npz` or torchvision's layout in the data root, or downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import register
from .errors import UsageError
from .files import FOUR, data_root, read_npz
from .own import channels_first, from_arrays
from .source import Source

BY_FLAG = ({"train": True}, {"train": False})
BY_NAME = ({"split": "train"}, {"split": "test"})
IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
TEN_DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Published:
    """How torchvision knows a set: its class, the files it looks for, how it tells training from test.

    `partners` are the sets that serve as out-of-distribution inputs, the first that is there.
    """

    loader: str
    files: tuple[str, ...]
    classes: tuple[str, ...]
    partners: tuple[str, ...]
    parts: tuple[Mapping[str, Any], Mapping[str, Any]] = BY_FLAG


SETS: Mapping[str, Published] = {
    "mnist": Published("MNIST", tuple(f"MNIST/raw/{f}" for f in IDX), TEN_DIGITS, ("fashion-mnist", "notmnist")),
    "fashion-mnist": Published(
        "FashionMNIST", tuple(f"FashionMNIST/raw/{f}" for f in IDX), CLOTHES, ("mnist", "notmnist")
    ),
    "cifar10": Published("CIFAR10", ("cifar-10-batches-py/data_batch_1",), THINGS, ("svhn",)),
    "cifar100": Published("CIFAR100", ("cifar-100-python/train",), tuple(map(str, range(100))), ("svhn",)),
    "svhn": Published("SVHN", ("train_32x32.mat", "test_32x32.mat"), TEN_DIGITS, ("cifar10", "cifar100"), BY_NAME),
}


@register("mnist")
def mnist(*, download: bool = False) -> Source:
    """MNIST, 70 000 grey images of 28 x 28, 10 classes (LeCun et al., 1998).

    Paper: lecun1998gradient
    """
    return _source("mnist", download)


@register("fashion-mnist")
def fashion_mnist(*, download: bool = False) -> Source:
    """Fashion-MNIST, 70 000 grey images of 28 x 28, 10 classes (Xiao et al., 2017).

    Paper: xiao2017fashion
    """
    return _source("fashion-mnist", download)


@register("cifar10")
def cifar10(*, download: bool = False) -> Source:
    """CIFAR-10, 60 000 colour images of 32 x 32, 10 classes (Krizhevsky, 2009).

    Paper: krizhevsky2009learning
    """
    return _source("cifar10", download)


@register("cifar100")
def cifar100(*, download: bool = False) -> Source:
    """CIFAR-100, 60 000 colour images of 32 x 32, 100 classes (Krizhevsky, 2009).

    Paper: krizhevsky2009learning
    """
    return _source("cifar100", download)


@register("svhn")
def svhn(*, download: bool = False) -> Source:
    """Street View House Numbers, 99 289 colour images of 32 x 32, 10 classes (Netzer et al., 2011).

    Paper: netzer2011reading
    """
    return _source("svhn", download)


def _source(name: str, download: bool) -> Source:
    path = data_root() / f"{name}.npz"
    arrays = read_npz(name, path, FOUR) if path.exists() else _from_torchvision(name, (0, 1), download)
    return from_arrays(name, arrays, classes=SETS[name].classes, partner=_partner(name))


def _from_torchvision(name: str, parts: Sequence[int], download: bool = False) -> list[np.ndarray]:
    """x and y of each of `parts`, 0 for training and 1 for test; raises UsageError with what to do."""
    if not (download or _laid_out(name)):
        raise _absent(name)
    import torchvision

    known = SETS[name]
    try:
        loader = getattr(torchvision.datasets, known.loader)
        sets = [loader(str(data_root()), **known.parts[part], download=download) for part in parts]
    except Exception as error:
        raise _absent(name, error) from error
    labels = "labels" if name == "svhn" else "targets"
    return [np.asarray(getattr(one, field)) for one in sets for field in ("data", labels)]


def _laid_out(name: str) -> bool:
    return all((data_root() / file).exists() for file in SETS[name].files)


def _absent(name: str, cause: Exception | None = None) -> UsageError:
    known, root = SETS[name], data_root()
    missing = next((file for file in known.files if not (root / file).exists()), known.files[0])
    found = (
        f"neither {name}.npz nor torchvision's {missing} is there"
        if cause is None
        else f"torchvision could not load it: {' '.join(str(cause).split())}"
    )
    calls = ["', split='train'", "', split='test'"] if known.parts is BY_NAME else ["'"]
    fetch = "; ".join(f"torchvision.datasets.{known.loader}('{root}{call}, download=True)" for call in calls)
    command = f'python -c "import torchvision; {fetch}"'
    return UsageError(
        f"data set {name!r} cannot be read from {root}: {found}; fetch it with `{command}` or the option "
        "`download: true`, or let BAYESPRUNE_DATA name the folder that holds it"
    )


def _partner(name: str) -> tuple[str, np.ndarray] | None:
    """The first partner of `name` whose test images are there, without downloading."""
    for partner in SETS[name].partners:
        images = _test_images(partner)
        if images is not None:
            return partner, channels_first(images)
    return None


def _test_images(name: str) -> np.ndarray | None:
    root = data_root()
    if (path := root / f"{name}.npz").exists():
        return read_npz(name, path, ("x_test",))[0]
    if name in SETS:
        return _from_torchvision(name, (1,))[0] if _laid_out(name) else None
    if (path := root / "notMNIST/raw/t10k-images-idx3-ubyte").exists():
        from torchvision.datasets.mnist import read_image_file

        return read_image_file(str(path)).numpy()
    return None
