"""Readers of known data sets and of a user's own folders and files."""

from pathlib import Path

from metaad_zoo.data.sources.arrays import ImageArrays
from metaad_zoo.data.sources.catalog import list_datasets
from metaad_zoo.data.sources.files import list_images, read_folder, read_image, read_images
from metaad_zoo.data.sources.known import read_known
from metaad_zoo.data.sources.npz import read_npz


def read_path(path: Path, image_size: int | None = None, channels: int | None = None) -> ImageArrays:
    """Images from a user's own path: an ``.npz`` file or a folder in one of the layouts of :func:`read_folder`.

    Raises:
        ValueError: the path does not exist or is neither; see also the readers.
    """
    if path.suffix == ".npz" and path.is_file():
        return read_npz(path).converted(image_size, channels)
    if path.is_dir():
        return read_folder(path, image_size, channels)
    what = "is neither a folder nor an .npz file" if path.exists() else "does not exist"
    raise ValueError(f"{path} {what}: expected a folder of images or an .npz file")


__all__ = [
    "ImageArrays",
    "list_datasets",
    "list_images",
    "read_folder",
    "read_image",
    "read_images",
    "read_known",
    "read_npz",
    "read_path",
]
