"""Sequence data sets known by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from metaad_zoo.data.sources.audio import log_mel
from metaad_zoo.data.sources.download import fetch_public, public_files
from metaad_zoo.data.sources.known import archive_file, data_folder, known_arrays
from metaad_zoo.data.sources.series import SequenceArrays, Series, SeriesSet
from metaad_zoo.data.sources.series_files import read_own_series
from metaad_zoo.data.sources.series_npz import read_series_npz

HOP = 100
"""Samples from one frame of a spoken digit to the next: 80 frames a second."""

FAULT_ROW = 160
"""Row of a Tennessee Eastman test run in which its fault starts."""


def _npz_reader(name: str) -> Callable[[str | Path | None], SeriesSet]:
    """An archive of long series as :func:`read_series_npz` reads them; domains are named ``<set>/<series>``."""

    def read(root: str | Path | None = None) -> SeriesSet:
        found = cast(SeriesSet, read_series_npz(archive_file(name, root)))
        for series in found.series:
            series.name = f"{name}/{series.name}"
        return SeriesSet(name, found.series)

    return read


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


def read_spoken_digits(root: str | Path | None = None) -> SequenceArrays:
    """Spoken digits as log-mel frames; ``about["speaker"]`` tells who speaks.

    Source: Jackson et al., "Free Spoken Digit Dataset", 2018 (CC BY-SA 4.0).
    """
    wanted = ("audio", "lens", "digit", "speaker")
    audio, lengths, digits, speakers = known_arrays("digits_audio_image", root, wanted)
    frames = [log_mel(clip, frames=None, hop=HOP) for clip in np.split(audio, np.cumsum(lengths)[:-1])]
    names = [str(i) for i in range(10)]
    return SequenceArrays("spoken_digits", frames, digits.astype(np.int64), names, about={"speaker": speakers})


def read_nab(root: str | Path | None = None) -> SeriesSet:
    """The Numenta Anomaly Benchmark: ``nab.npz`` where that lies there, else its public files, downloaded and checked.

    Source: Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly Benchmark", ICMLA
    2015 (MIT-style terms).
    """
    folder = data_folder(root)
    if folder.is_file() or (folder / "nab.npz").is_file():
        return _npz_reader("nab")(root)
    for file in public_files("nab"):
        fetch_public("nab", file, folder)
    found = cast(SeriesSet, read_own_series(folder / "nab"))
    for series in found.series:
        series.name = f"nab/{series.name}"
    return SeriesSet("nab", found.series, found.skipped)


SERIES_READERS: dict[str, Callable[[str | Path | None], SeriesSet | SequenceArrays]] = {
    **{name: _npz_reader(name) for name in ("asd", "smap", "smd")},
    "nab": read_nab,
    "tep": read_tep,
    "omniglot_strokes": read_omniglot_strokes,
    "spoken_digits": read_spoken_digits,
}
"""Readers of known sequence sets by name; each takes the folder or file to read from, None for ``METAAD_DATA``."""
