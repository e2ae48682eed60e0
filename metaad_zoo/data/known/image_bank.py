"""A bank of image domains of many kinds, all with terms that allow models trained on them to be published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.image_arrays import ImageArrays
from metaad_zoo.data.known.images import data_folder
from metaad_zoo.data.known.registry import register_dataset
from metaad_zoo.data.read.archive import read_archive
from metaad_zoo.data.read.pixels import resize, to_channels

SIZE = 128
"""Height and width of all images, in pixels."""
NORMAL, ANOMALOUS = 60, 30
"""Largest number of images of each kind in a domain."""


@dataclass(frozen=True)
class _Archive:
    """One archive of the bank: a set of defects, or of classes that are normal in turn.

    Args:
        file: path in the folder ``METAAD_DATA``.
        normal: names of the good images; None: each class is a domain, and images of the others are its anomalies.
        anomalous: names of the anomalies; None: all others.
        domains: name of the array of domains; None: all images are one domain.
    """

    file: str
    normal: Sequence[str] | None = None
    anomalous: Sequence[str] | None = None
    domains: str | None = None


ARCHIVES = {
    "pcb": _Archive("bank/pcb_deeppcb.npz", ["good"]),
    "coffee_leaf": _Archive("bank/coffee_leaf.npz", ["healthy"]),
    "malaria": _Archive("bank/malaria_fiocruz.npz", ["good"]),
    "tomato": _Archive("bank/tomato_fgrade.npz", ["fresh0"], ["grade7", "grade8", "grade9"]),
    "steel": _Archive("bank/steel_xsdd.npz"),
    "waste": _Archive("bank/trashnet.npz"),
    "paper": _Archive("piped128.npz", domains="t"),
}


@register_dataset("image_bank", modality="image")
def read_image_bank(root: str | Path | None = None) -> ImageArrays:
    """25 domains: printed circuits, leaves, blood smears, fruit, steel strip, waste and paper, 128 x 128 pixels, RGB.

    Sources and terms: ``metaad_zoo.zoo.terms``. Of each domain at most :data:`NORMAL` normal images and
    :data:`ANOMALOUS` anomalies are taken, the same ones each time.

    Raises:
        ValueError: an archive is missing or damaged.
    """
    folder = data_folder(root)
    parts = [part for name, archive in ARCHIVES.items() for part in _domains(folder, name, archive)]
    labels = np.repeat(np.arange(len(parts)), [len(flags) for _, _, flags in parts])
    images = torch.cat([x for _, x, _ in parts])
    return ImageArrays("image_bank", images, labels, [n for n, _, _ in parts], np.concatenate([f for *_, f in parts]))


def _domains(folder: Path, name: str, archive: _Archive) -> list[tuple[str, Tensor, np.ndarray]]:
    """Name, images ``(n, 3, 128, 128)`` and flags of the anomalies ``(n,)`` of each domain of an archive."""
    path = folder / archive.file
    if not path.is_file():
        raise ValueError(f"{path} does not exist: put it there, or set data.root or METAAD_DATA")
    arrays = read_archive(path)
    missing = {"x", "y", "names", archive.domains or "x"} - arrays.keys()
    if missing:
        raise ValueError(f"{path} lacks the arrays {sorted(missing)} of the image bank: is it another file?")
    names = [str(n) for n in arrays["names"]]
    if archive.domains is not None:
        kinds = arrays[archive.domains]
        masks = {f"{name}/{names[k]}": (kinds == k, arrays["y"] != 0) for k in np.unique(kinds)}
    elif archive.normal is None:
        masks = {f"{name}/{n}": (np.ones(len(arrays["y"]), bool), arrays["y"] != k) for k, n in enumerate(names)}
    else:
        normal = np.isin(arrays["y"], [names.index(n) for n in archive.normal])
        other = [names.index(n) for n in archive.anomalous or names if n not in archive.normal]
        masks = {name: (normal | np.isin(arrays["y"], other), ~normal)}
    rng = np.random.default_rng(0)
    domains = []
    for domain, (members, flags) in masks.items():
        good, bad = (rng.permutation(np.flatnonzero(members & (flags == kind))) for kind in (False, True))
        if len(good) and len(bad):
            chosen = np.sort(np.concatenate([good[:NORMAL], bad[:ANOMALOUS]]))
            domains.append((domain, _images(arrays["x"][chosen]), flags[chosen]))
    return domains


def _images(x: np.ndarray) -> Tensor:
    """Images ``(n, H, W[, 3])`` as ``(n, 3, 128, 128)`` bytes."""
    images = torch.from_numpy(np.ascontiguousarray(x))
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return resize(to_channels(images, 3), SIZE, SIZE)
