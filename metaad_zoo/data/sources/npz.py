"""Images in a numpy archive."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from metaad_zoo.data.sources.arrays import ImageArrays


def read_npz(path: Path) -> ImageArrays:
    """Images from an ``.npz`` file; pickled content is refused.

    Arrays: ``x`` (or ``X``) uint8 ``(n, H, W)``, ``(n, H, W, C)`` or ``(n, C, H, W)`` with C 1 or 3; ``y`` ``(n,)``
    the class; optionally ``names``, the classes' names. Where there is also ``t`` ``(n,)``, it tells the domain,
    ``names`` names the domains, and ``y`` is 0 for normal and 1 for anomalous.

    Raises:
        ValueError: the file is damaged, an array is missing, or its shape or type is not as above; the file is named.
    """
    arrays = _arrays(path)
    x, y = arrays.get("x", arrays.get("X")), arrays.get("y")
    if x is None or y is None:
        raise ValueError(f"{path} must hold the arrays 'x' (images) and 'y' (classes), it holds {sorted(arrays)}")
    images = channels_first(path, x)
    if y.shape != (len(images),) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{path}: expected 'y' as {len(images)} integers, saw {y.dtype} of shape {y.shape}")
    domains = arrays.get("t")
    labels = y if domains is None else domains
    if labels.shape != y.shape or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: expected 't' as {len(y)} integers, saw {labels.dtype} of shape {labels.shape}")
    if len(labels) and labels.min() < 0:
        raise ValueError(f"{path}: classes must be numbered from 0, saw {labels.min()}")
    names = [str(n) for n in arrays.get("names", np.arange(labels.max(initial=-1) + 1))]
    if len(labels) and labels.max() >= len(names):
        raise ValueError(f"{path}: labels run from {labels.min()} to {labels.max()} but there are {len(names)} names")
    present, labels = np.unique(labels, return_inverse=True)  # names may list classes of which there is no sample
    names = [names[i] for i in present]
    if domains is None:
        return ImageArrays(path.stem, torch.as_tensor(images), labels, names)
    if not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{path}: beside 't' (domains), 'y' must be 0 (normal) or 1 (anomalous), saw {np.unique(y)[:9]}"
        )
    return ImageArrays(path.stem, torch.as_tensor(images), labels, names, y == 1)


def read_samples_npz(path: Path) -> torch.Tensor:
    """Images uint8 ``(n, C, H, W)`` of an ``.npz`` file, ``x`` or ``X`` as in :func:`read_npz`; no ``y`` is needed.

    Raises:
        ValueError: the file is damaged, there is no ``x``, or it is of another shape or type; the file is named.
    """
    arrays = _arrays(path)
    x = arrays.get("x", arrays.get("X"))
    if x is None:
        raise ValueError(f"{path} must hold the array 'x' (images), it holds {sorted(arrays)}")
    return torch.as_tensor(channels_first(path, x))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} can't be read as a numpy archive ({type(error).__name__}: {error})") from error


def channels_first(path: Path, x: np.ndarray) -> np.ndarray:
    """Images of an archive as uint8 ``(n, C, H, W)``.

    Raises:
        ValueError: they are of another shape or type; the file is named.
    """
    if x.dtype == np.uint8 and x.ndim == 3:
        return x[:, None]
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] in (1, 3):
        return np.ascontiguousarray(np.moveaxis(x, -1, 1))
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[1] in (1, 3):
        return x
    raise ValueError(
        f"{path}: expected 'x' as uint8 (0 to 255), (n, H, W), (n, H, W, C) or (n, C, H, W) with C 1 or 3, saw "
        f"{x.dtype} of shape {x.shape}"
    )
