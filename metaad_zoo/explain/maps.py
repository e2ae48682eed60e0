"""Heat maps of photographs at their own size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.pixels import Aspect, at_own_size
from metaad_zoo.detector import Detector
from metaad_zoo.modality.streams import SampleStream

AT_ONCE = 16
"""Samples that are explained at once."""


def heat_maps(detector: Detector, samples: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Photographs and their heat maps, one by one.

    Args:
        detector: fitted detector with heat maps, such as a patch memory.
        samples: image file, folder, ``.npz``, list of files, or array of images; a folder is read as for scoring.

    Yields:
        Photograph ``(H, W, C)`` uint8 at its own size, and heat map ``(H, W)`` float32 in the unit of the scores.

    Raises:
        RuntimeError: the detector is not fitted.
        ValueError: it has no heat maps, or an image can't be read.
    """
    explainer, start = detector.explainer(), 0
    stream = SampleStream(samples, detector.input_shapes, below=True, **detector.image_options)
    for chunk in stream:
        for i in range(0, len(chunk.names), AT_ONCE):
            batch = {name: x[i : i + AT_ONCE] for name, x in chunk.samples.items()}
            maps, _ = explainer.localise(explainer.units(batch))
            images = next(iter(batch.values()))
            for k, heat in enumerate(maps):
                yield beside_its_picture(heat, images[k], stream.original(start + i + k), detector.aspect)
        start += len(chunk.names)


def beside_its_picture(
    heat: Tensor, image: Tensor, picture: Tensor | None, aspect: Aspect
) -> tuple[np.ndarray, np.ndarray]:
    """Image ``(H, W, C)`` uint8 and its heat map ``(H, W)`` at the image's own size.

    Args:
        heat: heat map at the size of the sample.
        image: the sample ``(C, height, width)`` from 0 to 1.
        picture: the photograph ``(C, H, W)`` uint8 that it was read from; None takes the sample.
        aspect: how it was brought to the sample's size.
    """
    if picture is None:
        picture, aspect = image.cpu().clamp(0, 1).mul(255).round().to(torch.uint8), "squash"
    resized = at_own_size(heat.float().cpu().unsqueeze(0), picture.shape[1], picture.shape[2], aspect)
    return picture.movedim(0, 2).numpy(), resized[0].numpy()
