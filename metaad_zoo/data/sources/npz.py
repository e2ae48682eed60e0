"""Images in a numpy archive."""

from __future__ import annotations

import zipfile
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
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} can't be read as a numpy archive ({type(error).__name__}: {error})") from error
    x, y = arrays.get("x", arrays.get("X")), arrays.get("y")
    if x is None or y is None:
        raise ValueError(f"{path} must hold the arrays 'x' (images) and 'y' (classes), it holds {sorted(arrays)}")
    images = _channels_first(path, x)
    if y.shape != (len(images),) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{path}: expected 'y' as {len(images)} integers, saw {y.dtype} of shape {y.shape}")
    domains = arrays.get("t")
    labels = y if domains is None else domains
    if len(labels) and labels.min() < 0:
        raise ValueError(f"{path}: classes must be numbered from 0, saw {labels.min()}")
    names = [str(n) for n in arrays.get("names", np.arange(labels.max(initial=-1) + 1))]
    if domains is None:
        return ImageArrays(path.stem, torch.as_tensor(images), y.astype(np.int64), names)
    if not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{path}: beside 't' (domains), 'y' must be 0 (normal) or 1 (anomalous), saw {np.unique(y)[:9]}"
        )
    return ImageArrays(path.stem, torch.as_tensor(images), domains.astype(np.int64), names, y == 1)


def _channels_first(path: Path, x: np.ndarray) -> np.ndarray:
    if x.dtype == np.uint8 and x.ndim == 3:
        return x[:, None]
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] in (1, 3):
        return np.ascontiguousarray(np.moveaxis(x, -1, 1))
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[1] in (1, 3):
        return x
    raise ValueError(
        f"{path}: expected 'x' as uint8 of shape (n, H, W), (n, H, W, C) or (n, C, H, W) with C 1 or 3, saw {x.dtype} "
        f"of shape {x.shape}"
    )
