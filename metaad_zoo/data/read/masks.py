"""Masks of defects: which file belongs to which image, and its pixels at the size of a sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.pixels import Aspect, decode_mask, placed

_SUFFIX = "_mask"


def masks_of(images: Iterable[Path], masks: Iterable[Path]) -> dict[Path, Path]:
    """Mask of each image that has one: the file of the same stem, with or without ``_mask`` behind it.

    Args:
        images: images of one folder.
        masks: masks of one folder, in any image format.

    Example:
        >>> masks_of([Path("a/1.jpg"), Path("a/2.jpg")], [Path("b/1_mask.png")])
        {PosixPath('a/1.jpg'): PosixPath('b/1_mask.png')}
    """
    by_stem = {mask.stem.removesuffix(_SUFFIX): mask for mask in masks}
    return {image: by_stem[image.stem] for image in images if image.stem in by_stem}


def note_missing(place: Path, defects: Sequence[str], account: Account) -> None:
    """Note images of defects that have no mask, in a set where others have one.

    Args:
        place: folder or file of the data set.
        defects: names of these images.
        account: account to add to.
    """
    if defects:
        account.add("left out", str(place), "no mask, so that pixel metrics can't judge these defects", defects)


def read_masks(masks: Sequence[Path | None], size: Sequence[int], aspect: Aspect = "squash") -> Tensor:
    """Masks at the size of samples: a pixel is defective where the nearest pixel of the mask's file is not 0.

    Args:
        masks: files of masks; None for images without one.
        size: height and width of a sample.
        aspect: how the images were brought to this size.

    Returns:
        ``(n, *size)`` bool; False throughout for images without a mask.

    Raises:
        ValueError: a file can't be read as an image; it is named.
    """
    at_size = torch.zeros(len(masks), *size, dtype=torch.bool)
    for i, mask in enumerate(masks):
        if mask is not None:
            at_size[i] = resize_masks(decode_mask(mask)[None], size, aspect)[0]
    return at_size


def resize_masks(masks: Tensor, size: Sequence[int], aspect: Aspect = "squash") -> Tensor:
    """Masks ``(n, H, W)`` bool at another size, by the nearest pixel; arguments as for :func:`read_masks`.

    Example:
        >>> resize_masks(torch.tensor([[[True, False]]]), (2, 4)).long()
        tensor([[[1, 1, 0, 0],
                 [1, 1, 0, 0]]])
        >>> resize_masks(torch.tensor([[[True, False]]]), (4, 4), "pad").long().sum(2)
        tensor([[0, 2, 2, 0]])
    """
    (h, w), (height, width) = masks.shape[1:], size
    at_size = torch.zeros(len(masks), height, width, dtype=torch.bool)
    places = placed(h, w, height, width, aspect)
    rows, columns = (_nearest(n, place.stop - place.start) for n, place in zip((h, w), places, strict=True))
    at_size[:, places[0], places[1]] = masks[:, rows][:, :, columns]
    return at_size


def _nearest(n: int, size: int) -> Tensor:
    """Positions among ``n`` pixels whose centres are nearest to those of ``size`` pixels."""
    return torch.from_numpy(((np.arange(size) + 0.5) * n / size).astype(np.int64).clip(0, n - 1))
