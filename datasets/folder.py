"""Folders of images, as torchvision's ImageFolder has them, decoded when they are read: of any number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from . import register, splits
from .data import Data, Scaling
from .errors import UsageError, one_line, unknown
from .seeds import numpy_stream
from .split import Split
from .stream import Stream

Augment = Literal["none", "flip-crop"]
Check = Literal["content", "names"]
Sample = tuple[Path, int]

VALIDATION = ("val", "validation", "valid")
MARGIN = 1 / 8  # of the side, by which flip-crop pads before it crops
BATCH = 256  # images read at once where nobody trains on them


@register("folder:<path>")
def folder(
    *, path: str, size: int = 224, augment: Augment = "none", validation: float = 0.1, batch: int = 256,
    workers: int = 0, check: Check = "content",
) -> Folder:  # fmt: skip
    """Your folder of images: train/, test/ and perhaps val/, a folder of each class in them; read batch by batch.

    Images are made RGB, their shorter side `size`, and cut square in the centre; "flip-crop" augments those of
    training, which are mirrored and cut out at random. Without val/ a share `validation` of train/ is held out by the
    seed. `workers` processes decode. Results are of the files' content; check="names" looks at names and sizes only,
    which takes no time.
    """
    name = f"folder:{path}"
    for option, value in (("size", size), ("batch", batch), ("workers", workers + 1)):
        if value < 1:
            raise UsageError(f"data set {name!r}: {option}={value - (option == 'workers')!r} is too small")
    if not 0 < validation < 1:
        raise UsageError(f"data set {name!r}: validation={validation!r} must be a share above 0 and below 1")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UsageError(f"data set {name!r}: there is no folder {root}")
    return Folder(name, root, size, augment, validation, batch, workers, check)


@dataclass(frozen=True)
class Folder:
    """What `folder` was asked for."""

    name: str
    root: Path
    size: int
    augment: Augment
    validation: float
    batch: int
    workers: int
    check: Check

    def load(self, seed: int, subset: int | None = None) -> Data:
        """The data set; one pass over the training images gives the statistics by which all are standardised.

        Raises UsageError that names the folder or file, and what to do.
        """
        classes, parts = self._parts(seed, subset)
        raw = Images(self.name, parts["train"], self.size, workers=self.workers)
        scaling = _statistics(raw.of(self.batch))
        about = (self.size, self.augment, classes)
        return Data(
            name=self.name, likelihood="categorical", kind="image", outputs=len(classes), classes=classes,
            digest=_digest(self.root, about, parts, self.check == "content"), seed=seed, ood_name="strokes",
            train=self._stream(parts["train"], scaling, seed, True),
            validation=self._stream(parts["validation"], scaling, seed),
            scaling=scaling, _test=self._stream(parts["test"], scaling, seed),
        )  # fmt: skip

    def _stream(self, samples: Sequence[Sample], scaling: Scaling, seed: int, train: bool = False) -> Stream:
        augment: Augment = self.augment if train else "none"
        images = Images(self.name, samples, self.size, augment, scaling, train, self.workers, self.batch)
        return Stream(images, len(samples), likelihood="categorical", seed=seed)

    def _parts(self, seed: int, subset: int | None) -> tuple[tuple[str, ...], dict[str, Sequence[Sample]]]:
        classes = self._classes(self.root / "train")
        train, test = (self._samples(self.root / part, classes) for part in ("train", "test"))
        given = next((self.root / part for part in VALIDATION if (self.root / part).is_dir()), None)
        labels, rng = np.array([label for _, label in train]), numpy_stream(seed, "splits")
        positions = np.arange(len(train))
        if given is not None:
            validation = self._samples(given, classes)
        else:
            count = max(1, round(self.validation * len(train)))
            held, positions = splits.take(positions, labels, count, rng, leave=1)
            validation = [train[i] for i in held]
        if subset is not None:
            if not len(classes) <= subset <= len(positions):
                raise UsageError(
                    f"data set {self.name!r}: subset={subset} must lie between {len(classes)}, its number of classes, "
                    f"and {len(positions)}, its number of training images"
                )
            positions, _ = splits.take(positions, labels, subset, rng, leave=0)
        return classes, {"train": [train[i] for i in positions], "validation": validation, "test": test}

    def _classes(self, part: Path) -> tuple[str, ...]:
        if not part.is_dir():
            raise UsageError(
                f"data set {self.name!r}: there is no folder {part}; it must hold a folder of images for each class"
            )
        found = tuple(sorted(entry.name for entry in part.iterdir() if entry.is_dir()))
        if len(found) < 2:
            raise UsageError(f"data set {self.name!r}: {part} has {len(found)} folders of classes, not two or more")
        return found

    def _samples(self, part: Path, classes: Sequence[str]) -> list[Sample]:
        """Files and labels of one part, sorted; no file outside of the folder, wherever links lead."""
        from torchvision.datasets.folder import IMG_EXTENSIONS

        here, found = self.root.resolve(), list[Sample]()
        for name in self._classes(part):
            if name not in classes:
                raise unknown(f"class of data set {self.name!r} in {part}", name, classes)
            files = sorted(path for path in (part / name).rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
            for path in files:
                if not path.resolve().is_relative_to(here):
                    raise UsageError(f"data set {self.name!r}: {path} leads out of the folder; put the file there")
            if not files and part.name == "train":
                raise UsageError(f"data set {self.name!r}: no image ({', '.join(IMG_EXTENSIONS)}) in {part / name}")
            found += [(path, classes.index(name)) for path in files]
        if not found:
            raise UsageError(f"data set {self.name!r}: no image ({', '.join(IMG_EXTENSIONS)}) in {part}")
        return found


# ---------------------------------------------------------------------- reading


class Images(Dataset):
    """A loader of batches (x, y) of any size, `shuffled` in every pass anew or in order; x float32 (n, 3, size, size).

    Without a `scaling` they are raw, from 0 to 1.
    """

    def __init__(
        self, name: str, samples: Sequence[Sample], size: int, augment: Augment = "none",
        scaling: Scaling | None = None, shuffled: bool = False, workers: int = 0, batch: int = BATCH,
    ):  # fmt: skip
        from torchvision.transforms import v2

        self.name, self.samples, self.scaling, self.shuffled = name, samples, scaling, shuffled
        self.workers, self.batch = workers, batch
        steps: list[Any] = [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
        if augment == "flip-crop":
            steps += [v2.RandomHorizontalFlip(), v2.RandomCrop(size, padding=round(MARGIN * size))]
        self.change = v2.Compose([*steps, v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from PIL import Image

        path, label = self.samples[i]
        try:
            with Image.open(path) as image:
                x = self.change(image.convert("RGB")).float().div_(255)
        except Exception as error:
            raise UsageError(
                f"data set {self.name!r}: cannot read {path}: {one_line(error)}; replace or remove the file"
            ) from error
        return (x if self.scaling is None else self.scaling.apply_(x)), label

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.of(self.batch))

    def of(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in batches of `sizes(size)`."""
        order = torch.randperm(len(self)) if self.shuffled else torch.arange(len(self))
        batches = [part.tolist() for part in order.split(self.sizes(size))]
        return iter(DataLoader(self, batch_sampler=batches, num_workers=self.workers))

    def sizes(self, size: int) -> list[int]:
        """As those of examples in memory: never a last batch of one."""
        return Split(torch.empty(len(self)), torch.empty(len(self))).batch_sizes(size)


def _statistics(batches: Iterator[tuple[Tensor, Tensor]]) -> Scaling:
    """Mean and deviation of every channel, float64 (3, 1, 1), from one pass."""
    count, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for x, _ in batches:
        values = x.double()
        count += values[:, 0].numel()
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    return Scaling(mean.view(3, 1, 1), torch.where(deviation <= 1e-6, 1.0, deviation).view(3, 1, 1))


def _digest(root: Path, about: tuple, parts: Mapping[str, Sequence[Sample]], content: bool) -> str:
    """SHA-256 of names, sizes and labels of all files by part, and of what is in them if asked for."""
    digest = hashlib.sha256(repr(about).encode())
    for part, samples in parts.items():
        for path, label in samples:
            place = path.relative_to(root).as_posix()
            digest.update(repr((part, place, label, path.stat().st_size)).encode())
            if content:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
