"""Reader of images: files, folders in three layouts, numpy archives and arrays, for training as for scoring."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.chunks import Chunk
from metaad_zoo.data.image_arrays import ImageArrays
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.arrays import array_of
from metaad_zoo.data.read.image_archive import ImageArchive
from metaad_zoo.data.read.image_folders import ImageSelection, select_classes, select_for_scoring, select_support
from metaad_zoo.data.read.listing import common_folder, list_files
from metaad_zoo.data.read.masks import note_missing, read_masks, resize_masks
from metaad_zoo.data.read.pixels import (
    SAME_RATIO,
    Aspect,
    array_in_bytes,
    channels_first,
    decode,
    image_endings,
    kept_size,
    resize,
    to_channels,
)
from metaad_zoo.data.read.rows import SampleSource

BLOCK = 256
"""Images that are decoded at once where the caller names no number."""


class ImageReader:
    """Images of one form, decoded once, block by block or all together.

    Args:
        source: an image file, a folder, an ``.npz`` (see :func:`read_npz`), a list of files, or an array or tensor of
            images ``(n, H, W)``, ``(n, H, W, C)`` or ``(n, C, H, W)``: uint8, uint16, bool or floats from 0 to 1.
        channels: 1 or 3; None keeps the images' own, which must then agree.
        height: pixels of a sample; None keeps the images' own size, which must then be one.
        width: pixels of a sample; None as for the height.
        aspect: see :data:`~metaad_zoo.data.read.pixels.Aspect`; ``"keep"`` takes ``usual_ratio``, else the median ratio
            of these images, which are then held in memory.
        below: whether a folder without images stands for the folders below it, and a category in the MVTec layout for
            its ``test``: for scoring. False takes normal samples: the images directly in a folder, or ``train/good``.
        damaged: ``"refuse"`` files that can't be read, all of them by name, or give an ``"empty"`` sample (NaN).
        usual_ratio: width by height of a support set's images; images of another ratio are named in the account. None
            takes the median of these images.

    Attributes:
        account: of what was left out and converted; complete when all has been read.
        files: in order; empty for arrays.
        class_names: the folder of each image, the domain or class of an archive.
        labels: ``(n,)`` indices into ``class_names``; None for arrays.
        anomalous: ``(n,)`` bool where the source says it, else None.
        masks: ``(n, H, W)`` bool of an archive with masks, at the size that they have there; else None.

    Raises:
        ValueError: there are no images, or files, shapes or values can't be used; files are named.

    Example:
        >>> reader = ImageReader(np.zeros((3, 8, 6), np.uint8), channels=1, height=4, width=4)
        >>> reader.all()["image"].shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(
        self,
        source: Any,
        *,
        channels: int | None,
        height: int | None,
        width: int | None,
        aspect: Aspect = "squash",
        below: bool = False,
        damaged: Literal["refuse", "empty"] = "refuse",
        usual_ratio: float | None = None,
    ) -> None:
        self.channels, self.height, self.width, self.aspect = channels, height, width, aspect
        self.account, self.usual_ratio = Account(), usual_ratio
        self.files: list[Path] = []
        self.class_names: list[str] = []
        self.labels: np.ndarray | None = None
        self.anomalous: np.ndarray | None = None
        self.masks: Tensor | None = None
        self._damaged, self._ratios = damaged, dict[int, float]()
        self._kept_ratio: float | None = None
        self._archive: ImageArchive | None = None
        self._array: np.ndarray | None = None
        self._first: tuple[Path, tuple[int, ...]] | None = None
        if isinstance(source, (str, Path)):
            path = Path(source).expanduser()
            if path.suffix.lower() == ".npz" and path.is_file():
                self._archive, self.files = ImageArchive(path), [path]
                if (classes := self._archive.classes) is not None:
                    self.class_names, self.labels, self.anomalous = classes
                if self.anomalous is not None:
                    self.masks = self._archive.masks
                    self._note_empty_masks(self.anomalous)
            else:
                self._take((select_for_scoring if below else select_support)(path, self.account))
        elif isinstance(source, (list, tuple)) and source and all(isinstance(p, (str, Path)) for p in source):
            files = [Path(p).expanduser() for p in source]
            self._take(ImageSelection(common_folder(files), files, np.zeros(len(files), np.int64), ["images"]))
        else:
            self._array = channels_first(_as_array(source), "images", channels)

    def _take(self, selection: ImageSelection) -> None:
        self.root, self.files, self.labels = selection.root, selection.files, selection.labels
        self.class_names, self.anomalous = selection.class_names, selection.anomalous

    def _note_empty_masks(self, anomalous: np.ndarray) -> None:
        if self.masks is not None:
            empty = np.flatnonzero(anomalous & ~self.masks.flatten(1).any(1).numpy())
            note_missing(self.files[0], [str(i + 1) for i in empty], self.account)

    def __len__(self) -> int:
        if self._array is not None:
            return len(self._array)
        return len(self._archive.images) if self._archive is not None else len(self.files)

    @property
    def is_archive(self) -> bool:
        """Whether the images come from an ``.npz``."""
        return self._archive is not None

    @property
    def _are_files(self) -> bool:
        return self._array is None and self._archive is None

    def all(self) -> dict[str, Tensor]:
        """All images as ``{"image": (n, C, H, W)}`` float32 in [0, 1]."""
        if not len(self):
            raise ValueError("expected at least one sample, saw no images")
        return {"image": torch.cat([chunk.samples["image"] for chunk in self.blocks(BLOCK)])}

    def blocks(self, size: int) -> Iterator[Chunk]:
        """The images, ``size`` at a time, float32 in [0, 1]; files go by their path, others by their number from 1."""
        n = len(self)
        for start, images in self._images(size):
            stop = start + len(images)
            names = [str(self.files[i]) if self._are_files else str(i + 1) for i in range(start, stop)]
            yield Chunk(names, {"image": _in_floats(images)}, stop / n)

    def original(self, position: int) -> Tensor:
        """One image as uint8 ``(C, H, W)`` at its own size and with its own channels; a file is opened again.

        Raises:
            ValueError: the file can't be read, or the values have no known range.
        """
        if self._are_files:
            return decode(self.files[position])[0]
        part = np.asarray(self._pixels[position])
        return torch.from_numpy(array_in_bytes(part.clip(0, 1) if part.dtype.kind == "f" else part, "images").copy())

    def in_bytes(self) -> Tensor:
        """All images of files or an archive as uint8 ``(n, C, H, W)``."""
        return torch.cat([images for _, images in self._images(BLOCK)])

    @property
    def ratio(self) -> float | None:
        """Median width by height of the images that were read; None where none was read."""
        return median_low(self._ratios.values()) if self._ratios else self._kept_ratio

    def _images(self, size: int) -> Iterator[tuple[int, Tensor]]:
        self._ratios = {}
        if self._keeps and not self._are_files:
            height, width = self._pixels.shape[-2:]
            self._keep(self.usual_ratio or width / height)
        elif self._keeps and self.usual_ratio:
            self._keep(self.usual_ratio)
        if self._keeps:
            yield from self._blocks_of_median_ratio(size)
        elif self._are_files:
            yield from ((start, torch.stack(images)) for start, images in self._file_blocks(size))
        else:
            yield from self._array_blocks(size)
        self._note_ratios()

    @property
    def _keeps(self) -> bool:
        """Whether the size is still to be chosen by the images' ratio."""
        return self.aspect == "keep" and self.height is not None and self.width is not None

    def _keep(self, ratio: float) -> None:
        """Choose the size for a ratio; images of another one are squashed to it."""
        assert self.height is not None
        assert self.width is not None
        size = kept_size(self.height, self.width, ratio)
        if size != (self.height, self.width):
            of = "by the aspect ratio of most images"
            reason = f"read at {size[0]} x {size[1]} pixels, {of}, {ratio:.2f} (width by height)"
            self.account.add("changed", self._place, reason)
        (self.height, self.width), self.aspect, self._kept_ratio = size, "squash", ratio

    def _blocks_of_median_ratio(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Files in the size of their median ratio. Each is opened once, and held in the size of its own ratio first."""
        images = [image for _, block in self._file_blocks(size) for image in block]
        if self.ratio is not None:  # it is None where no file can be read
            self._keep(self.ratio)
        assert self.height is not None
        assert self.width is not None
        images = [resize(image[None], self.height, self.width)[0] for image in images]
        for file, image in zip(self.files, images, strict=True):
            self._require_one_shape(file, [image])
        yield from ((start, torch.stack(images[start : start + size])) for start in range(0, len(images), size))

    @property
    def _place(self) -> str:
        return str(self.root) if self._are_files else str(self.files[0]) if self.files else "images"

    @property
    def _pixels(self) -> np.ndarray:
        """Arrays in memory or in an archive, ``(n, C, H, W)``."""
        pixels = self._array if self._archive is None else self._archive.images
        assert pixels is not None
        return pixels

    def _file_blocks(self, size: int) -> Iterator[tuple[int, list[Tensor]]]:
        damage: dict[str, str] = {}
        for start in range(0, len(self.files), size):
            images: list[Tensor] = []
            notes: dict[str, list[str]] = {}
            for i, file in enumerate(self.files[start : start + size], start):
                try:
                    image, reasons = decode(file, self.channels)
                except ValueError as error:
                    damage[self._name(file)] = str(error)
                    images.append(torch.full((self.channels or 1, self.height or 1, self.width or 1), torch.nan))
                    continue
                for reason in reasons:
                    notes.setdefault(reason, []).append(self._name(file))
                images.append(self._fitted(image[None], i)[0])
                if not self._keeps:
                    self._require_one_shape(file, images)
            for reason, names in notes.items():
                self.account.add("changed", str(self.root), reason, names)
            if damage and self._damaged == "empty":
                self.account.add("damaged", str(self.root), "can't be read as images", list(damage))
                yield start, [_in_floats(x) for x in images]
            elif not damage:
                yield start, images
        if damage and self._damaged == "refuse":
            messages = list(damage.values())
            raise ValueError(messages[0] if len(damage) == 1 else f"{len(damage)} files: {'; '.join(messages)}")

    def _name(self, file: Path) -> str:
        return os.path.relpath(file, self.root)

    def _require_one_shape(self, file: Path, images: Sequence[Tensor]) -> None:
        first = self._first = self._first or (file, tuple(images[-1].shape))
        shape = tuple(images[-1].shape)
        if shape != first[1]:
            channels_differ = shape[0] != first[1][0]
            what = "another number of channels" if channels_differ else "another size"
            mend = "channels=1 or channels=3" if channels_differ else "image_size, such as --data.image_size 64,"
            raise ValueError(
                f"{file} has {what} than {first[0]}: (C, H, W) is {shape} against {first[1]}; set {mend} to bring them "
                "together"
            )

    def _array_blocks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Arrays in memory or in an archive; floats that need no other size or channels are taken as they are."""
        x, where = self._pixels, self._place
        asked = (self.channels, self.height, self.width)
        wanted = tuple(a if b is None else b for a, b in zip(x.shape[1:], asked, strict=True))
        for start in range(0, len(x), size):
            part = np.asarray(x[start : start + size])
            if self._archive is None and part.dtype.kind == "f":
                yield start, self._floats(part, start, wanted)
            else:
                yield start, self._fitted(torch.from_numpy(array_in_bytes(part, where).copy()), start)

    def _floats(self, part: np.ndarray, start: int, wanted: tuple[int, ...]) -> Tensor:
        finite = np.isfinite(part)
        low, high = (float(f(part, where=finite, initial=0.0)) for f in (np.min, np.max))
        if low < -1 or high > 2:
            raise ValueError(
                f"expected floats in about [0, 1], saw them from {low:.3g} to {high:.3g}: divide by 255, or give uint8"
            )
        if part.shape[1:] == wanted:
            return torch.from_numpy(part.astype(np.float32))
        if low < -1 / 510 or high > 1 + 1 / 510:
            self.account.add("changed", "images", "floats below 0 or above 1 are cut before the images are resized")
        in_bytes = array_in_bytes(np.clip(np.where(finite, part, 0), 0, 1), "images")
        images = _in_floats(self._fitted(torch.from_numpy(in_bytes), start))
        images[torch.from_numpy(~finite.reshape(len(part), -1).all(1))] = torch.nan
        return images

    def _fitted(self, images: Tensor, start: int) -> Tensor:
        """Images uint8 ``(n, C, H, W)`` in the size and channels of the reader; notes their aspect ratio."""
        h, w = images.shape[-2:]
        if self._are_files or (h, w) != (self.height, self.width):  # arrays may have been resized before
            self._ratios |= dict.fromkeys(range(start, start + len(images)), w / h)
        images = to_channels(images, self.channels)
        if self.height is None or self.width is None:
            return images
        return resize(images, self.height, self.width, self.aspect)

    def _note_ratios(self) -> None:
        usual = self.usual_ratio or self.ratio
        if usual is None or self.aspect == "pad" or self.height is None or self.width is None:
            return
        distorted = [i for i, ratio in self._ratios.items() if abs(math.log(ratio / usual)) > math.log(SAME_RATIO)]
        if not distorted:
            return
        names = [self._name(self.files[i]) if self._are_files else str(i + 1) for i in distorted]
        of = "most images" if self.usual_ratio is None else "the support"
        reason = (
            f"stretched to {self.height} x {self.width} pixels from another aspect ratio than that of {of}, "
            f"{usual:.2f} (width by height); crop all images in the same way, or train with data.aspect=pad"
        )
        self.account.add("changed", self._place, reason, names)


def _in_floats(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def _as_array(data: Any) -> np.ndarray:
    try:
        array = array_of(data)
    except (TypeError, ValueError) as error:
        seen = f"{type(data).__name__} ({error})"
        raise ValueError(f"expected images as an array, a tensor, files or a folder, saw {seen}") from error
    if array.dtype.kind not in "biuf":
        seen = f"{type(data).__name__} of {array.dtype}"
        raise ValueError(f"expected images as an array, a tensor, files or a folder, saw {seen}")
    return array


class ImageSource(SampleSource):
    """Images of any form that :class:`ImageReader` takes; ``reading`` are its further arguments."""

    def find(self, source: Any) -> list[Any]:
        channels, height, width = self.shape
        self._reader = ImageReader(
            source, channels=channels, height=height, width=width, below=self.below, **self.reading
        )
        self.account.join(self._reader.account)
        self._reader.account = self.account
        self.classes = self._reader.class_names if self._reader.is_archive else ()
        return list(self._reader.files)

    def blocks(self) -> Iterator[Chunk]:
        anomalous, start = self._reader.anomalous, 0
        for chunk in self._reader.blocks(BLOCK):
            stop = start + len(chunk.names)
            labels = None if anomalous is None else anomalous[start:stop].astype(np.int64)
            yield Chunk(chunk.names, {self.name: chunk.samples["image"]}, chunk.done, labels)
            start = stop
        self.ratio = self._reader.ratio

    def original(self, position: int) -> Tensor:
        return self._reader.original(position)


def as_images(data: Any, shape: Sequence[int]) -> Tensor:
    """Images ``(n, C, H, W)`` float32 of a model's shape; forms and errors as for :class:`ImageReader`."""
    channels, height, width = shape
    return ImageReader(data, channels=channels, height=height, width=width).all()["image"]


def fit_images(images: Tensor, shape: Sequence[int]) -> Tensor:
    """Images float32 ``(n, C, H, W)`` in [0, 1] in another model's shape; errors as for :class:`ImageReader`."""
    return as_images(images, shape)


def holds_images(folder: Path) -> bool:
    """Whether a folder or one below it holds image files."""
    return any(list_files(folder, image_endings(), Account()).values())


def read_path(
    path: Path, image_size: int | None = None, channels: int | None = None, aspect: Aspect = "squash"
) -> ImageArrays:
    """Images for training from a path of the user's own: an ``.npz`` file or a folder, see :func:`read_folder`.

    Raises:
        ValueError: the path does not exist or is neither; see also the readers.
    """
    if path.suffix.lower() == ".npz" and path.is_file():
        return read_npz(path, image_size, channels, aspect)
    if path.is_dir():
        return read_folder(path, image_size, channels, aspect)
    what = "is neither a folder nor an .npz file" if path.exists() else "does not exist"
    raise ValueError(f"{path} {what}: expected a folder of images or an .npz file")


def read_folder(
    root: Path, image_size: int | None = None, channels: int | None = None, aspect: Aspect = "squash"
) -> ImageArrays:
    """A folder in any of three layouts, recognised by its content.

    - the MVTec layout, of one category or with a folder for each of several: the categories are domains, the defects
      their anomalies;
    - folders of images at any depth: each folder is a class, named by its path below the root;
    - images directly inside: one class, named after the folder.

    Args:
        root: the folder.
        image_size: height and width in pixels; None demands one size for all.
        channels: 1 or 3 to convert; None demands one kind for all.
        aspect: see :data:`~metaad_zoo.data.read.pixels.Aspect`.

    Raises:
        ValueError: there are no images, images lie both in the folder and in folders of it, or files can't be read.
    """
    account = Account()
    chosen = select_classes(root, account)
    reader = ImageReader(chosen.files, channels=channels, height=image_size, width=image_size, aspect=aspect)
    reader.account, reader.root = account, root
    images = reader.in_bytes()
    masks = read_masks(chosen.masks, images.shape[2:], aspect) if chosen.masks else None
    name = root.resolve().name
    return ImageArrays(name, images, chosen.labels, chosen.class_names, chosen.anomalous, account, masks)


def read_npz(
    path: Path, image_size: int | None = None, channels: int | None = None, aspect: Aspect = "squash"
) -> ImageArrays:
    """Images from an ``.npz`` file; pickled content is refused.

    Arrays: ``x`` (or ``X``) ``(n, H, W)``, ``(n, H, W, C)`` or ``(n, C, H, W)`` with C 1 or 3, uint8, uint16, bool or
    floats from 0 to 1, which are brought to 8 bits; ``y`` ``(n,)`` the class; optionally ``names``, the classes' names.
    Where there is also ``t`` ``(n,)``, it is the domain, ``names`` names the domains, and ``y`` is 0 for normal and
    1 for anomalous. There may then be ``masks`` ``(n, H, W)``, bool or 0 where a pixel is not defective; an
    anomalous image whose mask is empty has none.

    Raises:
        ValueError: the file is damaged, an array is missing, or its shape or type is not as above; the file is named.
    """
    reader = ImageReader(path, channels=channels, height=image_size, width=image_size, aspect=aspect)
    if reader.labels is None:
        raise ValueError(f"{path} must hold the arrays 'x' (images) and 'y' (classes)")
    images = reader.in_bytes()
    masks = None if reader.masks is None else resize_masks(reader.masks, images.shape[2:], aspect)
    return ImageArrays(path.stem, images, reader.labels, reader.class_names, reader.anomalous, reader.account, masks)


def read_images(paths: Sequence[Path], image_size: int | None = None, channels: int | None = None) -> Tensor:
    """Image files stacked as uint8 ``(n, C, H, W)``; arguments and errors as for :func:`read_folder`."""
    if not paths:
        raise ValueError("expected at least one image, saw none")
    return ImageReader(list(paths), channels=channels, height=image_size, width=image_size).in_bytes()


def read_image(path: Path, channels: int | None = None) -> Tensor:
    """One image file as uint8 ``(C, H, W)``; see :func:`metaad_zoo.data.read.pixels.decode`."""
    return decode(path, channels)[0]
