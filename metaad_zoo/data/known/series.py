"""Sequence data sets known by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from metaad_zoo.data.known.download import fetch_public, public_files
from metaad_zoo.data.known.images import archive_file, data_folder, known_arrays
from metaad_zoo.data.known.registry import register_dataset
from metaad_zoo.data.log_mel import log_mel
from metaad_zoo.data.read.series_archive import read_series_npz
from metaad_zoo.data.read.series_folder import read_own_series
from metaad_zoo.data.series import SequenceArrays, Series, SeriesSet

HOP = 100
"""Samples from one frame of a spoken digit to the next: 80 frames a second."""

FAULT_ROW = 160
"""Row of a Tennessee Eastman test run in which its fault starts."""


def _read_archive(name: str, root: str | Path | None = None) -> SeriesSet:
    """An archive of long series as :func:`read_series_npz` reads them; domains are named ``<set>/<series>``."""
    series_set = cast(SeriesSet, read_series_npz(archive_file(name, root)))
    for series in series_set.series:
        series.name = f"{name}/{series.name}"
    return SeriesSet(name, series_set.series)


@register_dataset("tep", modality="sequence")
def read_tep(root: str | Path | None = None) -> SeriesSet:
    """The Tennessee Eastman process: 21 domains, each normal operation followed by a test run with one fault.

    Source: Downs and Vogel, "A plant-wide industrial process control problem", Computers & Chemical Engineering, 1993.
    """
    runs = [f"d{i:02d}" for i in range(22)]
    normal, *tests = known_arrays("tep", root, ("d00", *(f"{n}_te" for n in runs[1:])))
    series = []
    for name, test in zip(runs[1:], tests, strict=True):
        labels = np.zeros(len(normal) + len(test), np.uint8)
        labels[len(normal) + FAULT_ROW :] = 1
        series.append(Series(f"tep/{name}", np.concatenate([normal, test]), labels, len(normal)))
    return SeriesSet("tep", series)


@register_dataset("omniglot_strokes", modality="sequence")
def read_omniglot_strokes(root: str | Path | None = None) -> SequenceArrays:
    """Pen tracks of handwritten characters: dx, dy, and whether the pen was lifted on the way to the point.

    Source: Lake et al., "Human-level concept learning through probabilistic program induction", Science 2015.
    """
    points, lengths, keys = known_arrays("omniglot_image_stroke", root, ("seq", "seqlen", "keys"))
    tracks = np.split(points[:, [0, 1, 3]].astype(np.float32), np.cumsum(lengths)[:-1])
    for track in tracks:
        track[:, :2] = np.diff(track[:, :2], axis=0, prepend=track[:1, :2])
    names, labels = np.unique([k.rpartition("/")[0] for k in keys], return_inverse=True)
    return SequenceArrays("omniglot_strokes", tracks, labels, [str(n) for n in names], increments=(0, 1))


@register_dataset("spoken_digits", modality="sequence")
def read_spoken_digits(root: str | Path | None = None) -> SequenceArrays:
    """Spoken digits as log-mel frames; ``about["speaker"]`` is the speaker.

    Source: Jackson et al., "Free Spoken Digit Dataset", 2018 (CC BY-SA 4.0).
    """
    wanted = ("audio", "lens", "digit", "speaker")
    audio, lengths, digits, speakers = known_arrays("digits_audio_image", root, wanted)
    frames = [log_mel(clip, frames=None, hop=HOP) for clip in np.split(audio, np.cumsum(lengths)[:-1])]
    names = [str(i) for i in range(10)]
    return SequenceArrays("spoken_digits", frames, digits.astype(np.int64), names, about={"speaker": speakers})


@register_dataset("nab", modality="sequence")
def read_nab(root: str | Path | None = None) -> SeriesSet:
    """The Numenta Anomaly Benchmark: ``nab.npz`` where that lies there, else its public files, downloaded and checked.

    Source: Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly Benchmark", ICMLA
    2015 (MIT-style terms).
    """
    folder = data_folder(root)
    if folder.is_file() or (folder / "nab.npz").is_file():
        return _read_archive("nab", root)
    for file in public_files("nab"):
        fetch_public("nab", file, folder)
    series_set = cast(SeriesSet, read_own_series(folder / "nab"))
    for series in series_set.series:
        series.name = f"nab/{series.name}"
    return SeriesSet("nab", series_set.series, series_set.skipped)


for _name in ("asd", "smap", "smd"):
    register_dataset(_name, modality="sequence")(partial(_read_archive, _name))
