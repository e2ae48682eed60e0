"""A user's own data, in any of the forms it comes in, as samples of a model's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from metaad_zoo.data.sources import list_images, read_images, read_path
from metaad_zoo.episodes import ANOMALOUS, NORMAL, UNLABELLED


def as_samples(data: Any, input_shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Samples by modality, float32, in the shape that a model was trained on.

    Args:
        data: images as a numpy array or tensor (uint8, or floats in about [0, 1]) of shape ``(n, H, W)``,
            ``(n, H, W, C)`` or ``(n, C, H, W)``; a folder of images; one image file; an ``.npz``; a list of files; or a
            dict from modality to a tensor that has the model's own shape already, which is taken as it is.
        input_shapes: shape of one sample by modality.

    Raises:
        ValueError: the form, shape, range or a value (NaN) can't be used; files are named.
    """
    if isinstance(data, Mapping):
        samples = {name: torch.as_tensor(x).float() for name, x in data.items()}
        for name, shape in input_shapes.items():
            if name not in samples or tuple(samples[name].shape[1:]) != tuple(shape):
                seen = {key: tuple(x.shape) for key, x in samples.items()}
                raise ValueError(f"expected {name!r} of shape (n, {', '.join(map(str, shape))}), saw {seen}")
    elif "image" in input_shapes and len(input_shapes) == 1:
        samples = {"image": _as_images(data, input_shapes["image"])}
    else:
        raise ValueError(f"this model reads {sorted(input_shapes)}: give a dict from modality to tensor")
    for name, x in samples.items():
        if len(x) == 0:
            raise ValueError(f"expected at least one sample, saw {name!r} of shape {tuple(x.shape)}")
        bad = (~torch.isfinite(x.flatten(1))).any(1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"{name!r} holds NaN or infinity in sample {bad[:10]}: remove or mend these samples")
    return samples


def as_labels(labels: Any, n: int) -> Tensor:
    """Support labels ``(n,)`` int64 out of 0 (normal), 1 (anomalous), -1 (unlabelled).

    Raises:
        ValueError: there are not n of them, one is none of these, or all are anomalous.
    """
    array = np.array(labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels)
    kinds = {NORMAL, ANOMALOUS, UNLABELLED}
    if array.shape != (n,) or array.dtype.kind not in "biuf" or not set(array.tolist()) <= kinds:
        raise ValueError(
            f"expected {n} labels of 0 (normal), 1 (anomalous), -1 (unlabelled), saw shape {array.shape} with values "
            f"{sorted(set(map(str, array.ravel().tolist())))[:10]}"
        )
    if (array == ANOMALOUS).all():
        raise ValueError(f"all {n} support samples are labelled anomalous: give at least one normal or unlabelled one")
    return torch.as_tensor(array.astype(np.int64))


def refuse_anomalies_in(support: Any) -> None:
    """Refuse an ``.npz`` of several classes, or with anomalies, as a support set without labels.

    Raises:
        ValueError: as said; the file is named.
    """
    if isinstance(support, (str, Path)) and Path(support).suffix == ".npz":
        source = read_path(Path(support).expanduser())
        if len(source.class_names) > 1 or (source.anomalous is not None and source.anomalous.any()):
            raise ValueError(
                f"{support} holds {len(source.class_names)} classes or anomalies, all of which would count "
                "as normal support; give the normal images alone, or labels"
            )


def image_files(path: Path) -> list[Path]:
    """The image files that a path stands for: itself, or those directly inside a folder.

    Raises:
        ValueError: the path does not exist, or the folder holds none.
    """
    if path.is_file():
        return [path]
    files = list_images(path) if path.is_dir() else []
    if not files:
        what = "holds no images directly in it" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}: expected a folder of images, such as the normal samples, or an image file")
    return files


def _as_images(data: Any, shape: Sequence[int]) -> Tensor:
    channels, height, width = shape
    if isinstance(data, (str, Path)):
        path = Path(data).expanduser()
        if path.suffix == ".npz":
            return _fitted(read_path(path).images.float() / 255, shape)
        data = image_files(path)
    if isinstance(data, (list, tuple)) and data and all(isinstance(p, (str, Path)) for p in data):
        files = [Path(p).expanduser() for p in data]
        if height != width:
            raise ValueError(f"image files are brought to squares, but this model reads {height} x {width} pixels")
        return read_images(files, image_size=height, channels=channels).float() / 255
    return _fitted(_array_of_images(data, channels), shape)


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


def _fitted(images: Tensor, shape: Sequence[int]) -> Tensor:
    channels, height, width = shape
    if images.shape[1] != channels:
        images = vision.rgb_to_grayscale(images) if channels == 1 else images.expand(-1, 3, -1, -1)
    if tuple(images.shape[2:]) != (height, width):
        images = vision.resize(images, [height, width], antialias=True)
    return images
