"""Old place of the reader of images, now :mod:`metaad_zoo.data.read.images`."""

from typing import Any
from warnings import warn

from metaad_zoo.data.read import images

NAMES = ["read_folder", "read_image", "read_images"]


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn(f"{__name__}.{name} is metaad_zoo.data.read.images.{name} now", DeprecationWarning, stacklevel=2)
    return getattr(images, name)
