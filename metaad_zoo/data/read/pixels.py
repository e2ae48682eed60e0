"""One image brought to 8 bits, to grey or colour, and to a size: the same rules for files and for arrays."""

from __future__ import annotations

import math
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from torch import Tensor

from metaad_zoo.data.read.memory import TooLargeError, refuse_large

Aspect = Literal["squash", "pad", "keep"]
"""How images are brought to a size of another aspect ratio: ``squash`` stretches them, ``pad`` keeps their ratio and
fills the rest with the median colour of their border, ``keep`` takes another size of about as many pixels in the ratio
of most of them (:func:`kept_size`), for models that read any size."""

SAME_RATIO = 1.05
"""Aspect ratios that differ by a smaller factor count as the same."""

_FORMATS = [
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PCX",
    "PNG",
    "PPM",
    "QOI",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
]
_GREY = ("1", "L", "LA", "La")
_CONVERTED = ("CMYK", "YCbCr", "LAB", "HSV")
_LUMINANCE = (19595, 38470, 7471)
"""Weights of red, green and blue over 65536, those of Pillow (ITU-R 601-2)."""


class TooManyPixelsError(ValueError):
    """An image is larger than its limit."""


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


@cache
def image_endings() -> frozenset[str]:
    """Endings of the image files that are read, in lower case: those of raster formats that this Pillow opens."""
    formats = _formats()
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)


def decode(path: Path, channels: int | None = None) -> tuple[Tensor, list[str]]:
    """One image file as uint8 ``(C, H, W)``, wholly decoded, turned as its EXIF orientation says.

    What is transparent is laid on white. Grey values of 16 bits are divided by 257; floats are 0 (black) to 1 (white).

    Args:
        path: the file, which is opened once.
        channels: 1 or 3 to convert; None takes 1 for grey files and 3 for all others.

    Returns:
        The pixels, and what was converted: reasons for an :class:`~metaad_zoo.data.read.account.Account`.

    Raises:
        ValueError: the file is no image or is damaged, or its values have no known range; the message names it.
    """
    return _pixels_of(path, *_load(path), channels)


def decode_upload(content: bytes, name: str, channels: int, max_pixels: int) -> Tensor:
    """A PNG or JPEG file in memory as uint8 ``(C, H, W)``, in the same way as :func:`decode`.

    Args:
        content: content of the file.
        name: name of the image, for errors.
        channels: 1 or 3.
        max_pixels: maximum number of pixels, which the head of the file tells before they are decoded.

    Raises:
        TooManyPixelsError: it has more.
        ValueError: the file is neither, or damaged.
    """
    image, notes = _load(Path(name), content, max_pixels)
    return _pixels_of(Path(name), image, notes, channels)[0]


def _pixels_of(path: Path, image: Image.Image, notes: list[str], channels: int | None) -> tuple[Tensor, list[str]]:
    """The pixels of an image that is loaded, and what was converted."""
    try:
        return _converted(path, image, notes, channels)
    except Exception as error:  # such as a palette without the colour of a pixel
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} can't be read as an image ({type(error).__name__}: {error})") from error


def _converted(path: Path, image: Image.Image, notes: list[str], channels: int | None) -> tuple[Tensor, list[str]]:
    if image.mode.startswith(("I", "F")):
        image, note = _from_deep_grey(path, image)
        notes += note
    if image.mode in _CONVERTED:
        notes.append(f"converted from {image.mode}, without a colour profile")
        image = image.convert("RGB")
    grey = image.mode in _GREY
    image, is_transparent = _on_white(image)
    if is_transparent:
        notes.append("transparent pixels are laid on white")
    image = image.convert({None: "L" if grey else "RGB", 1: "L", 3: "RGB"}[channels])
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.movedim(2, 0).contiguous(), notes


def decode_mask(path: Path) -> Tensor:
    """The mask of a defect ``(H, W)`` bool: True where a pixel is not 0, in grey, in any colour or as a palette index.

    Raises:
        ValueError: the file is no image or is damaged; the message names it.
    """
    image, _ = _load(path)
    values = np.array(image.convert("RGB") if image.mode == "RGBA" else image)
    return torch.from_numpy(values.reshape(*values.shape[:2], -1).any(2))


def _load(path: Path, content: bytes | None = None, max_pixels: int | None = None) -> tuple[Image.Image, list[str]]:
    notes = []
    formats = _formats() if content is None else ["PNG", "JPEG"]
    try:
        with path.open("rb") if content is None else BytesIO(content) as file, _opened(file, formats) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                raise TooManyPixelsError(
                    f"{path} has {image.width} x {image.height} pixels; at most {max_pixels} are left for it"
                )
            # Decoded pixels and converted ones are in memory together.
            refuse_large(str(path), 2 * image.width * image.height * (1 if image.mode in ("1", "L") else 4))
            if any(raw in str(image.tile) for raw in ("RGB;16", "RGBA;16", "LA;16")):
                notes.append("cut from 16 to 8 bits a channel")
            if image.getexif().get(0x0112, 1) != 1:
                notes.append("turned by their EXIF orientation")
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                notes.append(f"the first of {frames} pages or frames is read")
            source = image.format
            image.load()
            turned = ImageOps.exif_transpose(image)
    except (TooManyPixelsError, TooLargeError):
        raise
    except UnidentifiedImageError as error:
        what = ", ".join(formats)
        raise ValueError(f"{path} can't be read as an image: it is none of {what}; replace or remove it") from error
    except Exception as error:  # a damaged file makes decoders raise whatever they stumble over
        raise ValueError(
            f"{path} can't be read as an image ({type(error).__name__}: {error}): replace or remove it"
        ) from error
    turned.format = source
    return turned, notes


def _opened(file: BinaryIO, formats: list[str]) -> ImageFile:
    """An image of one of these formats, its head read; of a PNG all checksums are compared, as Pillow skips most."""
    image = Image.open(file, formats=formats)
    if image.format != "PNG":
        return image
    image.verify()
    file.seek(0)
    return Image.open(file, formats=["PNG"])


def _from_deep_grey(path: Path, image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Grey images of 16 bits, integers or floats, in 8 bits by the range of their type."""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # in these files I stands for 16 bits
        raise ValueError(
            f"{path} holds integers of 32 bits, which don't say what is white: save it with 8 or 16 bits a pixel"
        )
    values = np.array(image)
    if image.mode == "F":
        return Image.fromarray(_floats_in_bytes(values, str(path))), ["floats are read as 0 (black) to 1 (white)"]
    if "transparency" in image.info:
        values[values == image.info["transparency"]] = 65535
        return Image.fromarray(_sixteen_in_bytes(values)), ["transparent pixels are laid on white"]
    return Image.fromarray(_sixteen_in_bytes(values)), ["16 bits are divided by 257"]


def _floats_in_bytes(values: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(values).all() or values.min(initial=0.0) < 0 or values.max(initial=0.0) > 1:
        raise ValueError(
            f"{where} holds grey values from {values.min()} to {values.max()}: expected floats from 0 (black) to 1 "
            "(white); divide them, or save 8 or 16 bits a pixel"
        )
    return np.round(values.astype(np.float64) * 255).astype(np.uint8)


def _sixteen_in_bytes(values: np.ndarray) -> np.ndarray:
    return np.round(values / 257).astype(np.uint8)


def array_in_bytes(x: np.ndarray, where: str) -> np.ndarray:
    """Pixels as uint8 of any shape, by the range of their type: bool, 8 bits, 16 bits, or floats from 0 to 1.

    Raises:
        ValueError: they are of another type, or floats out of range.
    """
    if x.dtype == np.uint8:
        return x
    if x.dtype == np.bool_:
        return x.astype(np.uint8) * np.uint8(255)
    if x.dtype == np.uint16:
        return _sixteen_in_bytes(x)
    if x.dtype.kind == "f":
        return _floats_in_bytes(x, where)
    raise ValueError(
        f"{where}: expected images as uint8 (0 to 255), uint16 or floats from 0 to 1, saw {x.dtype}: convert them"
    )


def channels_first(x: np.ndarray, where: str, channels: int | None = None) -> np.ndarray:
    """Images ``(n, H, W)``, ``(n, H, W, C)`` or ``(n, C, H, W)`` as ``(n, C, H, W)``.

    Args:
        x: images of any type.
        where: file or argument, for errors.
        channels: that are wanted, to tell one colour image from several grey ones.

    Raises:
        ValueError: they are of another shape, or have no pixels.
    """
    if x.ndim == 3 and (x.shape[2] in (1, 3) or x.shape[0] == channels == 3):
        raise ValueError(
            f"{where}: shape {x.shape} looks like one colour image where several are expected: give it as images[None]"
        )
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = np.moveaxis(x, -1, 1)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"{where}: expected images of shape (n, H, W), (n, H, W, C) or (n, C, H, W) with C 1 or 3, saw {x.shape}"
        )
    if 0 in x.shape[1:]:
        raise ValueError(f"{where}: expected images with pixels, saw shape {x.shape}")
    return x


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image without transparency, and whether any pixel had some."""
    if not image.has_transparency_data:
        return image, False
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    low: Any = rgba.getchannel("A").getextrema()[0]
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"), low < 255


def to_channels(images: Tensor, channels: int | None) -> Tensor:
    """Images uint8 ``(..., C, H, W)`` of 1 or 3 channels as grey (Pillow's luminance) or colour; None keeps them."""
    if channels is None or images.shape[-3] == channels:
        return images
    if channels == 3:
        return images.expand(*images.shape[:-3], 3, *images.shape[-2:]).contiguous()
    red, green, blue = (x.to(torch.int32) * weight for x, weight in zip(images.unbind(-3), _LUMINANCE, strict=True))
    return ((red + green + blue + 0x8000) >> 16).to(torch.uint8).unsqueeze(-3)


def kept_size(height: int, width: int, ratio: float) -> tuple[int, int]:
    """Height and width of about as many pixels as ``height x width``, in another aspect ratio.

    Both are multiples of 32 (of 8, where ``height`` or ``width`` is below 128), by which the maps of convolutional
    networks stay aligned; the nearest size is taken, where the ratio counts twice as much as the number of pixels.

    Args:
        height: in pixels.
        width: in pixels.
        ratio: width by height. Within a factor of :data:`SAME_RATIO` of ``width / height`` the size stays as it is.

    Example:
        >>> kept_size(224, 224, 1.0), kept_size(224, 224, 4 / 3), kept_size(224, 224, 0.5)
        ((224, 224), (192, 256), (320, 160))
    """
    if abs(math.log(ratio * height / width)) <= math.log(SAME_RATIO):
        return height, width
    step = 32 if min(height, width) >= 128 else 8
    pixels = height * width
    heights = range(step, int(2 * math.sqrt(pixels / ratio)) + 2 * step, step)
    sizes = [(h, max(1, int(h * ratio / step) + more) * step) for h in heights for more in (0, 1)]

    def distance(size: tuple[int, int]) -> float:
        h, w = size
        return 2 * abs(math.log(w / h / ratio)) + abs(math.log(h * w / pixels))

    return min(sizes, key=distance)


def resize(images: Tensor, height: int, width: int, aspect: Aspect = "squash") -> Tensor:
    """Images uint8 ``(n, C, H, W)`` at another size: bilinear, antialiased, in bytes.

    Example:
        >>> resize(torch.zeros(1, 1, 4, 8, dtype=torch.uint8), 6, 6, "pad").shape
        torch.Size([1, 1, 6, 6])
    """
    h, w = images.shape[-2:]
    if aspect == "keep":
        return resize(images, *kept_size(height, width, w / h))
    if (h, w) == (height, width):
        return images
    if aspect == "squash":
        return F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    padded = _border(images)[..., None, None].repeat(1, 1, height, width)
    rows, columns = placed(h, w, height, width, aspect)
    padded[..., rows, columns] = resize(images, rows.stop - rows.start, columns.stop - columns.start)
    return padded


def placed(h: int, w: int, height: int, width: int, aspect: Aspect) -> tuple[slice, slice]:
    """Rows and columns of a sample of ``height`` x ``width`` pixels that show an image of ``h`` x ``w``.

    Example:
        >>> placed(4, 8, 6, 6, "squash"), placed(4, 8, 6, 6, "pad")
        ((slice(0, 6, None), slice(0, 6, None)), (slice(1, 4, None), slice(0, 6, None)))
    """
    if aspect != "pad":
        return slice(0, height), slice(0, width)
    scale = min(height / h, width / w)
    inner = min(height, max(1, round(h * scale))), min(width, max(1, round(w * scale)))
    top, start = (height - inner[0]) // 2, (width - inner[1]) // 2
    return slice(top, top + inner[0]), slice(start, start + inner[1])


def at_own_size(maps: Tensor, h: int, w: int, aspect: Aspect) -> Tensor:
    """Maps ``(n, height, width)`` of a sample at the size of the image that it shows, ``(n, h, w)``: bilinear.

    Example:
        >>> at_own_size(torch.eye(6)[None], 4, 8, "pad").shape
        torch.Size([1, 4, 8])
    """
    rows, columns = placed(h, w, maps.shape[1], maps.shape[2], aspect)
    return F.interpolate(maps[:, None, rows, columns], (h, w), mode="bilinear", align_corners=False)[:, 0]


def _border(images: Tensor) -> Tensor:
    """Median colour of each image's outermost pixels, ``(n, C)``."""
    sides = [images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]]
    return torch.cat(sides, -1).median(-1).values
