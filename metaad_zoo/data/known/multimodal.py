"""Multimodal data sets known by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from metaad_zoo.data.generated_tones import make_tones
from metaad_zoo.data.image_arrays import ImageArrays
from metaad_zoo.data.joined import (
    JoinedModalities,
    SeparateModalities,
    array_part,
    image_part,
)
from metaad_zoo.data.known.images import known_arrays, read_digits
from metaad_zoo.data.known.registry import register_dataset
from metaad_zoo.data.log_mel import log_mel

DIGITS = [str(i) for i in range(10)]


@register_dataset("digits_tones", modality="multimodal")
def read_digits_tones(root: str | Path | None, image_size: int | None, length: int | None) -> SeparateModalities:
    """scikit-learn's digits and as many generated tones, of the pitch and timbre of their digit; no files.

    The tones are the same ones every time (:func:`metaad_zoo.data.generated_tones.make_tones`).
    """
    images = read_digits(root).converted(image_size, None)
    tones = make_tones(images.labels, np.random.default_rng(0), 32 if length is None else length)
    parts = {"image": image_part(images), "sequence": array_part("sequence", tones, images.labels)}
    return SeparateModalities("digits_tones", DIGITS, parts)


@register_dataset("digits_audio_image", modality="multimodal")
def _read_digits_audio(root: str | Path | None, image_size: int | None, length: int | None) -> SeparateModalities:
    """Handwritten and spoken digits, as log-mel frames."""
    arrays = _arrays("digits_audio_image", root, ("audio", "lens", "digit", "img", "img_y"))
    sounds = np.split(arrays["audio"], np.cumsum(arrays["lens"])[:-1])
    spectra = np.stack([log_mel(sound, frames=40 if length is None else length) for sound in sounds])
    images = ImageArrays("digits", torch.as_tensor(arrays["img"])[:, None], arrays["img_y"].astype(np.int64), DIGITS)
    parts = {
        "image": image_part(images.converted(image_size, None)),
        "sequence": array_part("sequence", spectra, arrays["digit"].astype(np.int64)),
    }
    return SeparateModalities("digits_audio_image", DIGITS, parts)


@register_dataset("omniglot_image_stroke", modality="multimodal")
def _read_omniglot_strokes(root: str | Path | None, image_size: int | None, length: int | None) -> JoinedModalities:
    """Omniglot's characters as an image and as the track of the pen.

    Source: Lake et al., "Human-level concept learning through probabilistic program induction", Science 2015.
    """
    arrays = _arrays("omniglot_image_stroke", root, ("img", "seq", "seqlen", "keys"))
    characters = [str(key).rpartition("/")[0] for key in arrays["keys"]]
    names, labels = np.unique(characters, return_inverse=True)
    tracks = np.split(arrays["seq"].astype(np.float64), np.cumsum(arrays["seqlen"])[:-1])
    steps = np.stack([pen_steps(t[:, :2], t[:, 3] == 1, 64 if length is None else length) for t in tracks])
    images = ImageArrays("omniglot", torch.as_tensor(arrays["img"])[:, None], labels, names.tolist())
    parts = {
        "image": image_part(images.converted(image_size, None)),
        "sequence": array_part("sequence", steps, labels),
    }
    return JoinedModalities("omniglot_image_stroke", images.class_names, parts)


def pen_steps(points: np.ndarray, lifted: np.ndarray, length: int) -> np.ndarray:
    """A pen's track as equally long steps along its way.

    Args:
        points: ``(n, 2)`` places, in the order of time.
        lifted: ``(n,)`` booleans: the pen was in the air on the way to this point.
        length: steps.

    Returns:
        ``(length, 3)`` float32: dx and dy, as shares of the track's larger extent, and 1 where the pen is down, else 0.

    Example:
        >>> pen_steps(np.array([[0, 0], [2, 0], [2, 2]]), np.array([False, False, True]), 4)[:, 2]
        array([1., 1., 0., 0.], dtype=float32)
    """
    if length < 1:
        raise ValueError(f"data.length is {length}; expected steps, at least 1")
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    marks = np.linspace(0, way[-1], length + 1)
    places = np.stack([np.interp(marks, way, points[:, i]) for i in range(2)], 1)
    extent = max(float(np.ptp(points, axis=0).max()), 1e-9)
    into = np.searchsorted(way, (marks[1:] + marks[:-1]) / 2).clip(1, len(points) - 1)
    return np.concatenate([np.diff(places, axis=0) / extent, ~lifted[into, None]], 1).astype(np.float32)


@register_dataset("leaf_image_table", modality="multimodal")
def _read_leaves(root: str | Path | None, image_size: int | None, length: int | None) -> JoinedModalities:
    """Leaves of 61 species as a silhouette and as 192 measures of margin, shape and texture.

    Source: Mallah et al., "Plant Leaf Classification using Probabilistic Integration of Shape, Texture and Margin
    Features", SPPRA 2013.
    """
    arrays = _arrays("leaf_image_table", root, ("img", "tab", "y", "names"))
    labels, names = arrays["y"].astype(np.int64), [str(n) for n in arrays["names"]]
    images = ImageArrays("leaves", torch.as_tensor(arrays["img"])[:, None], labels, names)
    parts = {
        "image": image_part(images.converted(image_size, None)),
        "tabular": array_part("tabular", arrays["tab"], labels),
    }
    return JoinedModalities("leaf_image_table", names, parts)


def _arrays(name: str, root: str | Path | None, needed: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    return dict(zip(needed, known_arrays(name, root, needed), strict=True))
