"""Old place of the reader of images, now :mod:`metaad_zoo.data.read.images`."""

from metaad_zoo.data.read.images import read_folder, read_image, read_images

__all__ = ["read_folder", "read_image", "read_images"]
