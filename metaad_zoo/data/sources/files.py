"""Image files of a user's own: one folder a class, the MVTec layout, or a plain folder of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from metaad_zoo.data.sources.arrays import ImageArrays

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})


def list_images(folder: Path) -> list[Path]:
    """Image files directly inside a folder, sorted by name; hidden files are passed over."""
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


def read_image(path: Path, channels: int | None = None) -> Tensor:
    """One image as uint8 ``(C, H, W)``, wholly decoded.

    Args:
        path: the file.
        channels: 1 or 3 to convert; None takes 1 for grey files and 3 for all others.

    Raises:
        ValueError: the file is no image or is damaged; the message names it.
    """
    try:
        with Image.open(path) as image:
            grey = image.mode in ("1", "L", "LA") or image.mode.startswith(("I", "F"))
            wanted = {None: "L" if grey else "RGB", 1: "L", 3: "RGB"}[channels]
            if image.mode.startswith(("I", "F")):
                return _from_deep_grey(path, image, wanted)
            return vision.pil_to_tensor(ImageOps.exif_transpose(image).convert(wanted))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} can't be read as an image ({type(error).__name__}: {error}): replace or remove it"
        ) from error


def _from_deep_grey(path: Path, image: Image.Image, mode: str) -> Tensor:
    """Grey images of 16 bits, integers or floats, brought to 8 bits by the range that their kind says."""
    pixels = np.asarray(image, dtype=np.float64)
    high = pixels.max(initial=0.0)
    if not np.isfinite(pixels).all() or pixels.min(initial=0.0) < 0 or high > 65535:
        raise ValueError(
            f"{path} holds grey values from {pixels.min()} to {high}: expected at most 16 bits; convert it"
        )
    if image.mode.startswith("I;16") or high > 255:
        pixels = pixels / 257
    elif image.mode == "F" and high <= 1:
        pixels = pixels * 255
    grey = torch.as_tensor(np.round(pixels).astype(np.uint8))[None]
    return grey if mode == "L" else grey.expand(3, -1, -1).contiguous()


def read_images(paths: Sequence[Path], image_size: int | None = None, channels: int | None = None) -> Tensor:
    """Images stacked as uint8 ``(n, C, H, W)``. Needs C x H x W bytes of memory for each.

    Args:
        paths: the files.
        image_size: resize to this height and width (bilinear, antialiased); None demands one size for all.
        channels: 1 or 3 to convert; None demands one kind for all.

    Raises:
        ValueError: a file is damaged, or sizes or channels are mixed where no common one was asked for; the message
            names the file.
    """
    if not paths:
        raise ValueError("expected at least one image, saw none")
    images: list[Tensor] = []
    for path in paths:
        image = read_image(path, channels)
        if image_size is not None:
            image = vision.resize(image, [image_size, image_size], antialias=True)
        if images and image.shape != images[0].shape:
            channels_differ = image.shape[0] != images[0].shape[0]
            what = "another number of channels" if channels_differ else "another size"
            mend = "channels=1 or channels=3" if channels_differ else "image_size, such as --data.image_size 64,"
            raise ValueError(
                f"{path} has {what} than {paths[0]}: (C, H, W) is {tuple(image.shape)} against "
                f"{tuple(images[0].shape)}; set {mend} to bring them together"
            )
        images.append(image)
    return torch.stack(images)


def read_folder(root: Path, image_size: int | None = None, channels: int | None = None) -> ImageArrays:
    """A folder in any of the three layouts, told apart by what is in it.

    - the MVTec layout (``train/good``, ``test/good``, ``test/<defect>``), of one category or with a folder for each of
      several: the categories are domains, the defects their anomalies (Bergmann et al., "MVTec AD", CVPR 2019);
    - folders of images at any depth: each folder is a class, named by its path below the root;
    - images directly inside: one class, named after the folder.

    Raises:
        ValueError: there are no images, or images lie both beside and inside folders; see also :func:`read_images`.
    """
    categories = [root] if (root / "train" / "good").is_dir() else mvtec_categories(root)
    inside = {c / part for c in categories for part in ("train", "test", "ground_truth")}
    deeper = [f for f in folders_below(root) if f.parts[-2:] == ("train", "good") and f.parent.parent not in categories]
    stray = [f for f in folders_below(root) if categories and list_images(f) and not inside & {f, *f.parents}]
    if deeper or stray:
        raise ValueError(
            f"{root} mixes the MVTec layout with other folders ({(deeper or stray)[0]}): give the folder that holds "
            "the categories (each with train/good and test/<defect>) and nothing else"
        )
    if categories:
        return _read_mvtec(root, categories, image_size, channels)
    classes = {
        str(f.relative_to(root)) if f != root else root.resolve().name: list_images(f) for f in folders_below(root)
    }
    classes = {name: paths for name, paths in classes.items() if paths}
    if not classes:
        raise ValueError(
            f"{root} holds no images: expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))} in it or in folders "
            "below it (one folder a class), or the MVTec layout (train/good, test/<defect>)"
        )
    if len(classes) > 1 and list_images(root):
        raise ValueError(
            f"{root} holds images both directly ({list_images(root)[0].name}, ...) and in folders "
            f"({next(n for n in classes if n != root.resolve().name)}, ...): put each class into a folder of its own"
        )
    paths = [p for files in classes.values() for p in files]
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
    return ImageArrays(root.resolve().name, read_images(paths, image_size, channels), labels, list(classes))


def folders_below(root: Path) -> Iterator[Path]:
    """The root and all folders below it, sorted; hidden ones are passed over."""
    yield root
    for child in sorted(root.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            yield from folders_below(child)


def mvtec_categories(root: Path) -> list[Path]:
    """Folders in the MVTec layout directly inside a folder, sorted."""
    return sorted(child for child in root.iterdir() if (child / "train" / "good").is_dir())


def _read_mvtec(root: Path, categories: list[Path], image_size: int | None, channels: int | None) -> ImageArrays:
    paths: list[Path] = []
    labels: list[int] = []
    anomalous: list[bool] = []
    for label, category in enumerate(categories):
        folders = [category / "train" / "good"]
        if (category / "test").is_dir():
            folders += sorted(f for f in (category / "test").iterdir() if f.is_dir())
        found = {folder: list_images(folder) for folder in folders}
        for folder, files in found.items():
            if not files:
                raise ValueError(f"{folder} holds no images: add some or remove the folder")
            paths += files
            labels += [label] * len(files)
            anomalous += [folder.name != "good"] * len(files)
    images = read_images(paths, image_size, channels)
    names = [c.resolve().name for c in categories]
    return ImageArrays(root.resolve().name, images, np.asarray(labels), names, np.asarray(anomalous))
