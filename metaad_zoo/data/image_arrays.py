"""Images held in memory, the form that every image reader returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.masks import resize_masks
from metaad_zoo.data.read.pixels import Aspect, resize, to_channels


@dataclass
class ImageArrays:
    """Images with a class each, or with a domain each and a flag for anomalies.

    Args:
        name: readable, stable name of the data set.
        images: ``(n, C, H, W)`` uint8; C is 1 (grey) or 3 (RGB).
        labels: ``(n,)`` integers into ``class_names``: the class, or the domain where ``anomalous`` is given.
        class_names: readable, stable names of the classes or domains.
        anomalous: ``(n,)`` booleans, where the set itself says which samples are anomalous (an inspection set); None
            where each class serves as normal in turn.
        account: what the reader left out and converted.
        masks: ``(n, H, W)`` bool, defective pixels; None where the set has no masks. Without any, an anomalous image's
            mask is missing.

    Raises:
        ValueError: shapes disagree or a label points nowhere.
    """

    name: str
    images: Tensor
    labels: np.ndarray
    class_names: Sequence[str]
    anomalous: np.ndarray | None = None
    account: Account = field(default_factory=Account)
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[1] not in (1, 3) or self.images.dtype != torch.uint8:
            raise ValueError(
                f"{self.name}: expected uint8 images of shape (n, 1 or 3, H, W), saw {self.images.dtype} {shape}"
            )
        if self.labels.shape != (shape[0],):
            raise ValueError(f"{self.name}: {shape[0]} images but labels of shape {self.labels.shape}")
        if shape[0] and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise ValueError(
                f"{self.name}: labels run from {self.labels.min()} to {self.labels.max()} but there are "
                f"{len(self.class_names)} class names"
            )

        if self.masks is not None and tuple(self.masks.shape) != (shape[0], *shape[2:]):
            raise ValueError(f"{self.name}: images of shape {shape} but masks of shape {tuple(self.masks.shape)}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    def converted(self, image_size: int | None, channels: int | None, aspect: Aspect = "squash") -> ImageArrays:
        """The same set at another size (bilinear, antialiased) and number of channels.

        Args:
            image_size: height and width in pixels, from which ``aspect="keep"`` departs; None keeps them.
            channels: 1 (luminance) or 3; None keeps them.
            aspect: see :data:`~metaad_zoo.data.read.pixels.Aspect`.
        """
        images, masks = to_channels(self.images, channels), self.masks
        if image_size is not None:
            images = resize(images, image_size, image_size, aspect)
            masks = None if masks is None else resize_masks(masks, images.shape[2:], aspect)
        return replace(self, images=images, masks=masks)

    def read(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """The images at ``ids`` as ``{"image": (n, C, H, W)}`` float32 in [0, 1]."""
        return {"image": self.images[torch.as_tensor(ids, dtype=torch.int64)].float() / 255}
