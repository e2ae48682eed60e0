"""A user's own images, in any of the forms they come in, as samples of a model's shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from metaad_zoo.data.sources import list_images, read_images
from metaad_zoo.data.sources.columns import COLUMN_SUFFIXES
from metaad_zoo.data.sources.files import folders_below, mvtec_categories
from metaad_zoo.data.sources.npz import read_samples_npz


def image_files(path: Path) -> list[Path]:
    """The image files that a path stands for: itself, or those directly inside a folder.

    Raises:
        ValueError: the path does not exist, or the folder holds none.
    """
    if path.is_file() and path.suffix.lower() in COLUMN_SUFFIXES:
        raise ValueError(
            f"{path} is a table, but this model reads images: give a folder of images, or take a model of tables or "
            "series (metaad list)"
        )
    if path.is_file():
        return [path]
    files = list_images(path) if path.is_dir() else []
    if not files:
        raise ValueError(
            f"{path} {_without_images(path)}: expected a folder of images, such as the normal samples, or an image file"
        )
    return files


def normal_images(path: Path) -> Path:
    """Where normal images lie: in ``train/good`` of a category in the MVTec layout, else in the path itself."""
    good = path / "train" / "good"
    return good if good.is_dir() and not list_images(path) else path


def tested_images(path: Path) -> list[Path]:
    """The image files to be scored: those of :func:`image_files`, else those in the folders below.

    Of a category in the MVTec layout they are those below ``test``; masks (``ground_truth``) are left out.

    Raises:
        ValueError: there are none, or these are several categories, which no one detector is for.
    """
    if not path.is_dir() or list_images(path):
        return image_files(path)
    categories = [child.name for child in mvtec_categories(path)]
    if categories:
        raise ValueError(f"{path} holds the categories {categories[:10]} of the MVTec layout: score one of them")
    root = path / "test" if (path / "train" / "good").is_dir() else path
    folders = [folder for folder in folders_below(root) if "ground_truth" not in folder.relative_to(path).parts]
    return [file for folder in folders for file in list_images(folder)] or image_files(path)


def _without_images(path: Path) -> str:
    if not path.is_dir():
        return "does not exist"
    inside = next((folder for folder in folders_below(path) if list_images(folder)), None)
    if inside is not None:
        return f"holds no images directly in it, but in folders such as {inside} (one of these at a time)"
    return "holds no images"


def as_images(data: Any, shape: Sequence[int]) -> Tensor:
    """Images ``(n, C, H, W)`` float32 in about [0, 1] from arrays, tensors, files or a folder.

    Raises:
        ValueError: the form, shape or range can't be used.
    """
    channels, height, width = shape
    if isinstance(data, (str, Path)):
        path = Path(data).expanduser()
        if path.suffix == ".npz":
            return fit_images(read_samples_npz(path).float() / 255, shape)
        data = image_files(path)
    if isinstance(data, (list, tuple)) and data and all(isinstance(p, (str, Path)) for p in data):
        files = [Path(p).expanduser() for p in data]
        if height != width:
            raise ValueError(f"image files are brought to squares, but this model reads {height} x {width} pixels")
        return read_images(files, image_size=height, channels=channels).float() / 255
    return fit_images(_array_of_images(data, channels), shape)


def _array_of_images(data: Any, channels: int) -> Tensor:
    """Floats ``(n, C, H, W)`` from an array in one of the usual layouts."""
    try:
        # A copy also straightens negative strides and read-only memory, which torch does not take.
        x = data.detach().cpu() if isinstance(data, Tensor) else torch.as_tensor(np.array(data))
    except (TypeError, ValueError) as error:
        seen = f"{type(data).__name__} ({error})"
        raise ValueError(f"expected images as an array, a tensor, files or a folder, saw {seen}") from error
    if x.ndim == 3 and (x.shape[2] in (1, 3) or x.shape[0] == channels == 3):
        raise ValueError(
            f"shape {tuple(x.shape)} looks like one colour image where several are expected: give it as images[None]"
        )
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.movedim(3, 1)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"expected images of shape (n, H, W), (n, H, W, C) or (n, C, H, W) with C 1 or 3, saw {tuple(x.shape)}"
        )
    if 0 in x.shape[1:]:
        raise ValueError(f"expected images with pixels, saw shape {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        return x.float() / 255
    if not x.is_floating_point():
        raise ValueError(
            f"expected images as uint8 (0 to 255) or as floats in about [0, 1], saw {x.dtype}: convert them"
        )
    finite = x[torch.isfinite(x)]
    if len(finite) and (finite.min() < -1 or finite.max() > 2):
        raise ValueError(
            f"expected floats in about [0, 1], saw them from {finite.min():.3g} to {finite.max():.3g}: divide by 255, "
            "or give uint8"
        )
    return x.float()


def fit_images(images: Tensor, shape: Sequence[int]) -> Tensor:
    """Images ``(n, C, H, W)`` of 1 or 3 channels brought to another size and number of channels."""
    channels, height, width = shape
    if images.shape[1] != channels:
        images = vision.rgb_to_grayscale(images) if channels == 1 else images.expand(-1, 3, -1, -1)
    if tuple(images.shape[2:]) != (height, width):
        images = vision.resize(images, [height, width], antialias=True)
    return images
