"""Generated tones: a sound for each class, so that pictures can be paired with sounds without any download."""

from __future__ import annotations

import numpy as np

LOWEST, HIGHEST = 0.04, 0.2
"""Pitches of the first and the last class, in cycles a step; the second harmonic stays below Nyquist's 0.5."""

HARMONICS = 2


def make_tones(
    labels: np.ndarray, rng: np.random.Generator, length: int = 96, classes: int = 10, noise: float = 0.2
) -> np.ndarray:
    """A tone for each label: its pitch and its timbre (weights of the harmonics) belong to the class.

    What does not belong to the class is drawn anew for each tone: phases, loudness (a factor of four), pitch (1.5 % to
    either side), how it rises and dies away, how long it lasts (from 70 % of the length on) and the noise. So neither
    the loudness nor any single step tells the class.

    Args:
        labels: ``(n,)`` integers below ``classes``.
        rng: draws everything.
        length: steps of the longest tone; the steps after the end of a shorter one are NaN.
        classes: pitches, evenly spaced in logarithm.
        noise: standard deviation, as a share of the tone's loudness.

    Returns:
        ``(n, length, 1)`` float32.

    Raises:
        ValueError: the length is below 16, or a label points nowhere.

    Example:
        >>> make_tones(np.array([0, 9]), np.random.default_rng(0), length=64).shape
        (2, 64, 1)
    """
    if length < 16:
        raise ValueError(f"data.length is {length}; a tone takes at least 16 steps")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected them below {classes}")
    n = len(labels)
    pitch = LOWEST * (HIGHEST / LOWEST) ** (labels / max(classes - 1, 1)) * rng.uniform(0.985, 1.015, n)
    share = (labels * 7 % classes + 0.5) / classes  # timbre: neighbours in pitch lie far apart in it
    weights = np.stack([1 - 0.7 * share, 0.7 * share])
    steps = np.arange(length)
    tone = sum(
        weights[h, :, None] * np.sin(2 * np.pi * ((h + 1) * pitch[:, None] * steps + rng.uniform(size=(n, 1))))
        for h in range(HARMONICS)
    )
    lasts = np.ceil(length * rng.uniform(0.7, 1, (n, 1)))
    attack, decay = rng.uniform(0.02, 0.2, (n, 1)) * lasts, rng.uniform(0.5, 2, (n, 1)) * lasts
    tone = tone * np.minimum(steps / attack, 1) * np.exp(-steps / decay)
    tone = (tone + noise * rng.standard_normal((n, length))) * 2 ** rng.uniform(-1, 1, (n, 1))
    return np.where(steps < lasts, tone, np.nan)[:, :, None].astype(np.float32)
