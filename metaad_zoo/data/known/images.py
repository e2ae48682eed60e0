"""Sets of images known by name, and the folder where known sets lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as vision

from metaad_zoo.data.image_arrays import ImageArrays
from metaad_zoo.data.known.registry import register_dataset
from metaad_zoo.data.read.archive import read_archive
from metaad_zoo.data.read.images import read_npz

DATA_VARIABLE = "METAAD_DATA"
"""Environment variable: the folder where data sets that can't be embedded lie or are downloaded to."""

CAN_BE_MADE = ("asd", "omniglot28", "smap", "smd")
"""Archives that :mod:`metaad_zoo.data.known.making` makes from public files."""


def data_folder(root: str | Path | None) -> Path:
    """``root``, or the folder named by the environment variable ``METAAD_DATA``.

    Raises:
        ValueError: neither is given, or the folder does not exist.
    """
    chosen = root or os.environ.get(DATA_VARIABLE)
    if not chosen:
        raise ValueError(f"this data set needs a folder: set data.root, or the environment variable {DATA_VARIABLE}")
    folder = Path(chosen).expanduser()
    if not folder.exists():
        raise ValueError(f"{folder} does not exist: set data.root, or {DATA_VARIABLE}, to where the data lies")
    return folder


def archive_file(name: str, root: str | Path | None) -> Path:
    """The archive of a known set: ``root`` itself, or ``<name>.npz`` in that folder or in ``METAAD_DATA``.

    Raises:
        ValueError: it is not there.
    """
    path = data_folder(root)
    path = path if path.is_file() else path / f"{name}.npz"
    if not path.is_file():
        make = f", or make it: metaad data {name} --out {path.parent}" if name in CAN_BE_MADE else ""
        raise ValueError(f"{path} does not exist: put it there, or set data.root or {DATA_VARIABLE}{make}")
    return path


def known_arrays(name: str, root: str | Path | None, needed: Sequence[str]) -> list[np.ndarray]:
    """Arrays of the archive of a known set, in the order of ``needed``.

    Raises:
        ValueError: the archive is missing or damaged, or lacks an array.
    """
    path = archive_file(name, root)
    arrays = read_archive(path, needed)
    missing = sorted(set(needed) - set(arrays))
    if missing:
        raise ValueError(f"{path} lacks the arrays {missing} of {name}: is it another file?")
    return [arrays[n] for n in needed]


@register_dataset("digits", modality="image")
def read_digits(root: str | Path | None = None) -> ImageArrays:
    """scikit-learn's digits: 1,797 real scans of 8x8 pixels in 10 classes, part of its installation (CC BY 4.0).

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
    """
    from sklearn.datasets import load_digits  # imports scipy: slow, and needed by this set alone

    if root is not None:
        raise ValueError(f"data.root is {root} but the digits read no files: for your own files set data.dataset=own")
    digits = load_digits()
    images = torch.as_tensor(np.round(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    return ImageArrays("digits", images, digits.target.astype(np.int64), [str(i) for i in range(10)])


def _read_archive(name: str, root: str | Path | None = None) -> ImageArrays:
    return read_npz(archive_file(name, root))


def _torchvision_reader(name: str) -> Callable[[str | Path | None], ImageArrays]:
    """One of torchvision's own classes, downloaded by it where a network is there and the files are not."""

    def read(root: str | Path | None) -> ImageArrays:
        folder = data_folder(root)
        try:
            parts = _open_torchvision(name, folder)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"torchvision's {name} is neither in {folder} nor could it be downloaded ({error}): put its files "
                "there as torchvision lays them out, or try again with a network"
            ) from error
        names = list(dict.fromkeys(prefix + c for prefix, dataset in parts for c in _class_names(dataset)))
        position = {name: i for i, name in enumerate(names)}
        images, labels = [], []
        for prefix, dataset in parts:
            classes = _class_names(dataset)
            for image, label in dataset:
                images.append(vision.pil_to_tensor(image.convert("L" if image.mode in ("1", "L") else "RGB")))
                labels.append(position[prefix + classes[int(label)]])
        stacked = torch.stack(images)
        if name == "Omniglot":
            stacked = 255 - stacked  # ink bright on black, as in the other handwriting sets
        return ImageArrays(name.lower(), stacked, np.asarray(labels), names)

    return read


def _open_torchvision(name: str, folder: Path) -> list[tuple[str, Any]]:
    """The parts of a set, each with the prefix of its class names; parts of one prefix share their classes."""
    from torchvision import datasets  # slow to import, and needed by these sets alone

    kind = getattr(datasets, name)
    if name == "Omniglot":
        return [
            (f"images_{part}/", kind(str(folder), background=part == "background", download=True))
            for part in ("background", "evaluation")
        ]
    return [("", kind(str(folder), train=train, download=True)) for train in (True, False)]


def _class_names(dataset: Any) -> list[str]:
    names = getattr(dataset, "classes", None) or getattr(dataset, "_characters", None)
    if names is None:
        raise ValueError(
            f"torchvision's {type(dataset).__name__} names no classes: it can't serve class-as-normal tasks"
        )
    return [str(n) for n in names]


for _name in ("omniglot28", "cifar100", "piped128"):
    register_dataset(_name, modality="image")(partial(_read_archive, _name))
for _name in ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "Omniglot"):
    register_dataset(f"torchvision/{_name}", modality="image")(_torchvision_reader(_name))
