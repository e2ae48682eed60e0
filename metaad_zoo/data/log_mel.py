"""Sound as a sequence of log-mel spectra."""

from __future__ import annotations

from functools import cache

import numpy as np

QUIET = 1e-6
"""Added to energies before the logarithm; a full-scale tone has about 1."""


def log_mel(
    sound: np.ndarray,
    rate: int = 8000,
    bands: int = 32,
    frames: int | None = 40,
    window: int = 256,
    hop: int = 160,
) -> np.ndarray:
    """Log-mel spectrogram, a row a frame.

    Args:
        sound: ``(..., samples)``, integers of 16 bits or floats in [-1, 1]; at least one sample.
        rate: samples a second.
        bands: mel bands, from 0 to half the rate.
        frames: a longer sound is cut here, the frames behind the end of a shorter one are NaN; None keeps all.
        window: samples of a frame, under a Hann window.
        hop: samples from a frame to the next.

    Returns:
        ``(..., frames, bands)`` float32: the natural logarithm of each band's energy.

    Raises:
        ValueError: the sound is empty or of another type, or there are no frames.

    Source: Davis and Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition in
    Continuously Spoken Sentences", IEEE TASSP 1980.

    Example:
        >>> tone = np.sin(2 * np.pi * 1000 / 8000 * np.arange(2000))
        >>> spectrum = log_mel(tone)
        >>> spectrum.shape, int(np.nanargmax(spectrum[0])), bool(np.isnan(spectrum[-1]).all())
        ((40, 32), 14, True)
    """
    if sound.ndim == 0 or sound.size == 0 or not (sound.dtype == np.int16 or np.issubdtype(sound.dtype, np.floating)):
        raise ValueError(
            f"expected a sound of samples as 16-bit integers or floats, saw {sound.dtype} of shape {sound.shape}"
        )
    if frames is not None and frames < 1:
        raise ValueError(f"expected at least one frame, saw {frames}")
    x = sound / 32768 if sound.dtype == np.int16 else sound.astype(np.float64)
    short = max(window - x.shape[-1], 0)
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)])
    framed = np.lib.stride_tricks.sliding_window_view(x, window, axis=-1)[..., ::hop, :][..., :frames, :]
    fft = 2 * window  # padded with zeros: the lowest bands are narrower than the window's own resolution
    taper = np.hanning(window)
    energy = np.abs(np.fft.rfft(framed * taper, fft)) ** 2 / (taper.sum() / 2) ** 2
    spectra = np.log(energy @ mel_filters(rate, bands, fft).T + QUIET).astype(np.float32)
    behind = 0 if frames is None else frames - spectra.shape[-2]
    return np.pad(spectra, [(0, 0)] * (x.ndim - 1) + [(0, behind), (0, 0)], constant_values=np.nan)


@cache
def mel_filters(rate: int, bands: int, fft: int) -> np.ndarray:
    """``(bands, fft // 2 + 1)`` triangles, evenly spaced on the mel scale, each with its peak at 1."""
    edges = 700 * (10 ** (np.linspace(0, _mel(rate / 2), bands + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(fft, 1 / rate)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.maximum(np.minimum(rising, falling), 0)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))
