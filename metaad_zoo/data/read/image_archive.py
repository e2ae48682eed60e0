"""Numpy archives of images, with their classes, domains and masks."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.archive import map_archive
from metaad_zoo.data.read.pixels import array_in_bytes, channels_first


class ImageArchive:
    """An ``.npz`` of images, opened once: unpacked into the system's temporary folder and mapped from it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        scratch = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        return map_archive(self.path, ("x", "X", "y", "t", "names", "masks"), Path(scratch))

    @cached_property
    def images(self) -> np.ndarray:
        """``(n, C, H, W)`` of the type that the archive has.

        Raises:
            ValueError: there are none, or they are of another shape or type; the file is named.
        """
        x = self._arrays.get("x", self._arrays.get("X"))
        if x is None:
            raise ValueError(f"{self.path} must hold the array 'x' (images), it holds {sorted(self._arrays)}")
        array_in_bytes(x.ravel()[:0], str(self.path))
        return channels_first(x, str(self.path))

    @property
    def masks(self) -> Tensor | None:
        """``(n, H, W)`` bool, defective pixels; None where there are none.

        Raises:
            ValueError: they are of another shape or type; the file is named.
        """
        masks = self._arrays.get("masks")
        if masks is None:
            return None
        n, _, h, w = self.images.shape
        if masks.shape != (n, h, w) or masks.dtype.kind not in "biu":
            raise ValueError(
                f"{self.path}: expected 'masks' as whole numbers or bool of shape {(n, h, w)}, saw {masks.dtype} of "
                f"shape {masks.shape}"
            )
        return torch.from_numpy(np.asarray(masks != 0))

    @cached_property
    def classes(self) -> tuple[list[str], np.ndarray, np.ndarray | None] | None:
        """Names and indices ``(n,)`` of classes or domains, and flags of anomalies beside domains; None without ``y``.

        Raises:
            ValueError: they are of another shape or type, or point nowhere; the file is named.
        """
        path, n, y = self.path, len(self.images), self._arrays.get("y")
        if y is None:
            return None
        if y.shape != (n,) or not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"{path}: expected 'y' as {n} integers, saw {y.dtype} of shape {y.shape}")
        domains = self._arrays.get("t")
        labels = y if domains is None else domains
        if labels.shape != y.shape or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{path}: expected 't' as {n} integers, saw {labels.dtype} of shape {labels.shape}")
        if n and labels.min() < 0:
            raise ValueError(f"{path}: classes must be numbered from 0, saw {labels.min()}")
        names = self._arrays.get("names")
        if names is not None and (names.ndim != 1 or (n and labels.max() >= len(names))):
            raise ValueError(
                f"{path}: labels run from {labels.min()} to {labels.max()}, but 'names' has shape {names.shape}"
            )
        if domains is not None and not np.isin(y, (0, 1)).all():
            raise ValueError(
                f"{path}: with 't' (domains), 'y' must be 0 (normal) or 1 (anomalous), saw {np.unique(y)[:9]}"
            )
        present, labels = np.unique(labels, return_inverse=True)  # names may list classes of which there is no sample
        present_names = [str(i if names is None else names[i]) for i in present.tolist()]
        return present_names, labels, None if domains is None else np.asarray(y == 1)
