"""Reader of recordings: WAV files as log-mel images."""

from __future__ import annotations

import math
import os
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from metaad_zoo.data.chunks import Chunk
from metaad_zoo.data.log_mel import QUIET, log_mel
from metaad_zoo.data.read.listing import common_folder, list_files
from metaad_zoo.data.read.memory import refuse_large
from metaad_zoo.data.read.rows import SampleSource

ENDINGS = (".wav", ".wave")
RATE = 16_000
"""Samples a second to which recordings are brought."""
RATES = (100, 768_000)
"""Lowest and highest number of samples a second of a recording."""
LOUDEST = 2.0**31
"""Largest absolute value of a recording in floats: that of integers of 32 bits which were not scaled."""
FILES_AT_ONCE = 256
STEP = 160
"""Samples from one spectrum to the next, 10 ms; those that share a column of an image are averaged."""


class AudioSource(SampleSource):
    """Recordings as images ``(1, bands, columns)``: mel bands from high to low, time from left to right.

    A whole recording of any length fills an image. Values are 0 for silence and about 1 for a full-scale tone,
    linear in decibels (60 dB from 0 to 1), and cut off at both ends. They come from a WAV file, a folder of these, or a
    list of files.
    """

    def find(self, source: Any) -> list[Any]:
        if isinstance(source, (list, tuple)):
            files = [Path(path).expanduser() for path in source]
            self._root = common_folder(files)
            return files
        self._root = root = Path(source).expanduser()
        if root.is_file():
            self._root = root.parent
            return [root]
        if not root.is_dir():
            raise ValueError(f"{root} does not exist: expected a WAV file or a folder of them")
        listed = list_files(root, ENDINGS, self.account)
        below = [folder for folder, files in listed.items() if files and folder != root]
        if not listed[root] and not (self.below and below):
            inside = f", but in folders such as {below[0]} (one of these at a time)" if below else ""
            raise ValueError(f"{root} holds no recordings ({', '.join(ENDINGS)}) directly in it{inside}")
        if listed[root] and below:
            names = [str(folder.relative_to(root)) for folder in below]
            self.account.add("left out", str(root), "folders beside recordings", names)
        return listed[root] or [file for files in listed.values() for file in files]

    def blocks(self) -> Iterator[Chunk]:
        """Images in blocks, named by their files; with ``damaged="empty"``, NaN for those that can't be read.

        Raises:
            ValueError: files can't be read (all of them are named), or the images' shape is none of one channel.
        """
        if self.shape[0] != 1:
            raise ValueError(f"recordings are mixed to one channel, samples of shape {tuple(self.shape)} are asked for")
        errors: list[str] = []
        empty = self.reading.get("damaged") == "empty"
        for start in range(0, len(self.files), FILES_AT_ONCE):
            files = self.files[start : start + FILES_AT_ONCE]
            pictures = np.stack([self._picture(file, errors) for file in files])
            if empty or not errors:
                yield Chunk(
                    [str(f) for f in files],
                    {self.name: torch.from_numpy(pictures)},
                    (start + len(files)) / len(self.files),
                )
        if errors and not empty:
            raise ValueError("; ".join(errors))

    def _picture(self, file: Path, errors: list[str]) -> np.ndarray:
        place, name = str(self._root), os.path.relpath(file, self._root)
        try:
            sound, rate, channels = read_wav(file)
        except ValueError as error:
            errors.append(str(error))
            self.account.add("damaged", place, "can't be read as recordings", [name])
            return np.full(self.shape, np.nan, np.float32)
        if channels > 1:
            self.account.add("changed", place, f"{channels} channels averaged to one", [name])
        if rate != RATE:
            self.account.add("changed", place, f"resampled from {rate} to {RATE} samples a second", [name])
        return mel_picture(resampled(sound, rate), *self.shape[1:])


def read_wav(path: Path) -> tuple[np.ndarray, int, int]:
    """A recording, its channels averaged: samples float64 in [-1, 1], samples a second, channels.

    Reads PCM of 8, 16, 24 and 32 bits and floats.

    Raises:
        ValueError: the file is no such recording, is damaged or empty; it is named.
    """
    from scipy.io import wavfile

    try:
        with path.open("rb") as file:
            (declared,) = struct.unpack("<4xI", file.read(8))
            is_stream = declared == 2**32 - 1  # which stands for an unknown length
            if declared + 8 > path.stat().st_size + 1 and not is_stream:
                raise ValueError(f"it is cut off at {path.stat().st_size} of {declared + 8} bytes")
            _check_header(file, is_stream)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", wavfile.WavFileWarning)  # blocks that hold no sound, such as a title
                rate, x = wavfile.read(file)
    except Exception as error:  # a damaged file makes scipy raise whatever it stumbles over
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} can't be read as a WAV file ({reason}): convert it, or remove it") from error
    if x.size == 0 or x.dtype.kind not in "iuf" or not np.isfinite(x).all():
        raise ValueError(f"{path} holds no sound ({x.dtype} of shape {x.shape}, {rate} samples a second): remove it")
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"{path} says {rate} samples a second: expected from {RATES[0]} to {RATES[1]:,}; resample it")
    refuse_large(str(path), 8 * max(len(x) * RATE // rate, 20 * rate // math.gcd(rate, RATE)))  # see resampled()
    if x.dtype.kind == "f" and np.abs(x).max() > LOUDEST:
        raise ValueError(
            f"{path} holds floats up to {np.abs(x).max():.3g}: expected a sound from -1 to 1; scale it, or remove it"
        )
    if x.dtype == np.uint8:
        sound = (x.astype(np.float64) - 128) / 128
    else:  # 24 bits come as the upper ones of 32
        sound = x.astype(np.float64) / (1 if x.dtype.kind == "f" else -float(np.iinfo(x.dtype).min))
    return sound.reshape(len(x), -1).mean(1), int(rate), 1 if x.ndim == 1 else x.shape[1]


def _check_header(file: BinaryIO, is_stream: bool) -> None:
    """Refuse a header that contradicts itself, and samples that are cut off, of which scipy reads what is there.

    Args:
        file: WAV file.
        is_stream: whether the header was written before the length was known.
    """
    end = file.seek(0, 2)
    file.seek(12)
    kind = b""
    while kind != b"data" and len(head := file.read(8)) == 8:
        kind, size = struct.unpack("<4sI", head)
        start = file.tell()
        if kind == b"fmt ":
            channels, width, bits = struct.unpack("<2xH8xHH", file.read(16))
            if width != channels * ((bits + 7) // 8):
                raise ValueError(
                    f"its header says {channels} channels of {bits} bits, but {width} bytes for all channels together"
                )
        if kind == b"data" and start + size > end and not is_stream:
            raise ValueError(f"it is cut off: it holds {end - start} of {size} bytes of sound")
        file.seek(start + size + size % 2)


def resampled(sound: np.ndarray, rate: int) -> np.ndarray:
    """A sound ``(samples,)`` at :data:`RATE` samples a second, through a filter against aliasing."""
    if rate == RATE:
        return sound
    from scipy.signal import resample_poly

    common = math.gcd(rate, RATE)
    out: np.ndarray = resample_poly(sound, RATE // common, rate // common)
    return out


def mel_picture(sound: np.ndarray, bands: int, columns: int) -> np.ndarray:
    """A sound at :data:`RATE` as an image ``(1, bands, columns)`` float32 in [0, 1]; see :class:`AudioSource`.

    Example:
        >>> tone = np.sin(2 * np.pi * 1000 / RATE * np.arange(RATE))
        >>> picture = mel_picture(tone, 64, 64)[0]
        >>> picture.shape, int(picture[:, 30].argmax()), bool(picture.max() > 0.95)
        ((64, 64), 41, True)
    """
    energies = np.exp(log_mel(sound, RATE, bands, None, 512, STEP).astype(np.float64)) - QUIET  # (frames, bands)
    edges = np.arange(columns) * len(energies) // columns
    if len(energies) >= columns:
        counts = np.diff(np.append(edges, len(energies)))
        energies = np.add.reduceat(energies, edges) / counts[:, None]
    else:
        energies = energies[edges]
    decibels = np.log(energies.clip(0) + QUIET)
    picture: np.ndarray = (1 - decibels / math.log(QUIET)).clip(0, 1).T[None, ::-1].astype(np.float32)
    return picture
