"""Generated tones: a sound for each class, so that images can be paired with sounds without any download."""

from __future__ import annotations

import numpy as np

from metaad_zoo.data.log_mel import log_mel

RATE = 8000
"""Samples a second."""

WINDOW, HOP = 256, 64
"""Samples of a frame, and from one to the next."""

LOWEST, HIGHEST = 250.0, 1300.0
"""Pitches of the first and the last class, in hertz; the third harmonic stays below half the rate."""

HARMONICS = 3


def make_tones(
    labels: np.ndarray,
    rng: np.random.Generator,
    length: int = 32,
    bands: int = 16,
    classes: int = 10,
    noise: float = 0.1,
) -> np.ndarray:
    """A tone for each label, as frames of a log-mel spectrogram: pitch and timbre (harmonics) belong to the class.

    What does not belong to the class is drawn anew for each tone: phases, loudness (a factor of four), pitch (2 % to
    either side), how it rises and dies away, how long it lasts (from 70 % of the length on) and the noise. So the
    loudness does not tell the class.

    Args:
        labels: ``(n,)`` integers below ``classes``.
        rng: draws everything.
        length: frames of the longest tone; the frames after the end of a shorter one are NaN.
        bands: mel bands.
        classes: pitches, evenly spaced in logarithm.
        noise: standard deviation, as a share of the tone's amplitude.

    Returns:
        ``(n, length, bands)`` float32.

    Raises:
        ValueError: the length is below 4, or a label points nowhere.

    Example:
        >>> make_tones(np.array([0, 9]), np.random.default_rng(0)).shape
        (2, 32, 16)
    """
    if length < 4:
        raise ValueError(f"data.length is {length}; a tone takes at least 4 frames")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected them below {classes}")
    n, samples = len(labels), WINDOW + (length - 1) * HOP
    pitch = LOWEST * (HIGHEST / LOWEST) ** (labels / max(classes - 1, 1)) * rng.uniform(0.98, 1.02, n)
    share = (labels * 7 % classes + 0.5) / classes  # timbre: neighbours in pitch lie far apart in it
    weights = np.stack([1 - 0.5 * share, 0.7 * share, 0.5 * (1 - share)])
    time = np.arange(samples) / samples
    tone = np.zeros((n, samples))
    for harmonic, weight in enumerate(weights, start=1):
        cycles = harmonic * pitch[:, None] / RATE * samples * time + rng.uniform(size=(n, 1))
        tone += weight[:, None] * np.sin(2 * np.pi * cycles)
    attack, decay = rng.uniform(0.02, 0.2, (n, 1)), rng.uniform(0.5, 2, (n, 1))
    tone *= np.minimum(time / attack, 1) * np.exp(-time / decay)
    tone = (tone + noise * rng.standard_normal(tone.shape)) * 0.25 * 2 ** rng.uniform(-1, 1, (n, 1))
    spectra = log_mel(tone, RATE, bands, length, WINDOW, HOP)
    lasts = np.ceil(length * rng.uniform(0.7, 1, n))
    return np.where(np.arange(length)[:, None] < lasts[:, None, None], spectra, np.nan).astype(np.float32)
