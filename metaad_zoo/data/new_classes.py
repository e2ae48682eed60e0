"""Augmentation: new classes out of existing ones, where there are few to meta-train on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def as_new_classes(
    samples: Mapping[str, Tensor], classes: Mapping[str, np.ndarray], rng: np.random.Generator
) -> dict[str, Tensor]:
    """Change all samples of a class in one way, which is drawn for each class and modality.

    Images are turned by quarters and perhaps mirrored, a sequence's channels moved round by some places (the bands of a
    spectrum: another pitch). Rows of tables stay as they are.

    Args:
        samples: ``(n, ...)`` tensors by modality; images must be square.
        classes: ``(n,)`` class of each sample by modality, including modalities that ``samples`` lacks, so that the
            same changes are drawn.
        rng: draws the changes.

    Source: Santoro et al., "Meta-Learning with Memory-Augmented Neural Networks", ICML 2016, for turned images.

    Raises:
        ValueError: images are not square.
    """
    changed = dict(samples)
    for modality, labels in classes.items():
        for c in np.unique(labels):
            turns, mirror, places = int(rng.integers(4)), rng.random() < 0.5, rng.random()
            if modality not in samples or samples[modality].ndim < 3:
                continue
            members = torch.as_tensor(np.flatnonzero(labels == c))
            x = changed[modality][members]
            if x.ndim == 4:
                if x.shape[-1] != x.shape[-2]:
                    raise ValueError(f"images of {tuple(x.shape[-2:])} pixels can't be turned: set data.image_size")
                x = torch.rot90(x.flip(-1) if mirror else x, turns, (-2, -1))
            else:
                x = x.roll(int(places * x.shape[-1]), -1)
            changed[modality] = changed[modality].index_copy(0, members, x)
    return changed
