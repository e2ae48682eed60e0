"""Download files: by sha256, checked at every use, or for a caller that checks the content itself."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import pooch
import requests

from metaad_zoo.atomic_write import replacing
from metaad_zoo.registry import unknown_name

SCHEMES = ("https", "http", "file")
TIMEOUT = 30.0
"""Seconds without an answer or a further byte until a server counts as out of reach."""


class DownloadError(ValueError):
    """A file could not be fetched, or is not the one that was asked for."""


def fetch(url: str, sha256: str, folder: str | Path, progress: bool | None = None) -> Path:
    """A file in ``folder``, named as in the URL: downloaded if it is not there, and its sha256 checked in any case.

    The file is written beside and renamed only once its sha256 is right. A second call makes no request.

    Args:
        url: ``https``, ``http`` or ``file``.
        sha256: 64 hexadecimal digits.
        folder: made if it does not exist.
        progress: show a progress bar; by default where the terminal can.

    Raises:
        DownloadError: there is no network, the server has no such file or breaks off, or the content has another
            sha256; nothing is left behind then. A file that lay there before with another content is left as it is.
        ValueError: the URL or the sha256 is none.
    """
    name = _file_name(url)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256 or ""):
        raise ValueError(
            f"expected a sha256 of 64 hexadecimal digits for {url}, saw {sha256!r}: nothing goes unchecked"
        )
    path = Path(folder).expanduser() / name
    if path.exists():
        actual = pooch.file_hash(str(path))
        if actual != sha256.lower():
            raise DownloadError(
                f"{path} has the sha256 {actual}, expected {sha256.lower()}: it is damaged or another file; delete it "
                f"to download it again from {url}"
            )
        return path
    show_progress = sys.stderr.isatty() if progress is None else progress
    pooch.retrieve(
        url, f"sha256:{sha256.lower()}", name, path.parent, downloader=_Downloader(sha256.lower(), path, show_progress)
    )
    return path


def download(url: str, path: Path, progress: bool | None = None) -> None:
    """Download a file whose content the caller checks, because its sha256 is not known; it appears only when complete.

    Args:
        url: ``https``, ``http`` or ``file``.
        path: where to write the file; its folder is made.
        progress: show a progress bar; by default where the terminal can.

    Raises:
        DownloadError: there is no network, or the server has no such file or breaks off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        _Downloader(None, path, sys.stderr.isatty() if progress is None else progress)(url, str(beside), None)


def _file_name(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"expected a URL that starts with one of {', '.join(f'{s}://' for s in SCHEMES)}, saw {url!r}")
    name = unquote(PurePosixPath(parts.path).name)
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"{url} names no file")
    return name


@dataclass
class _Downloader:
    """Writes a file for pooch, with errors that tell what happened; pooch removes what it wrote where it raises.

    Args:
        sha256: expected sha256; None: not checked.
        path: the file's final place, for errors.
        progress: show a progress bar.
    """

    sha256: str | None
    path: Path
    progress: bool

    def __call__(self, url: str, output_file: Any, pooch_: Any) -> None:
        by_hand = f"try again, or put the file there by hand as {self.path}"
        try:
            if urlsplit(url).scheme == "file":
                shutil.copyfile(url2pathname(urlsplit(url).path), output_file)
            else:
                pooch.HTTPDownloader(progressbar=self.progress, timeout=TIMEOUT)(url, output_file, pooch_)
        except requests.HTTPError as error:
            raise DownloadError(f"the server answered with an error ({error}) for {url}: {by_hand}") from error
        except requests.exceptions.ChunkedEncodingError as error:
            raise DownloadError(
                f"the download of {url} broke off before its end; what came is removed: {by_hand}"
            ) from error
        except requests.Timeout as error:
            raise DownloadError(f"no answer for {TIMEOUT:g} seconds from {url}: {by_hand}") from error
        except requests.ConnectionError as error:
            host = urlsplit(url).netloc
            raise DownloadError(f"no network, or {host} is out of reach, for {url} ({error}): {by_hand}") from error
        except requests.RequestException as error:
            raise DownloadError(f"{url} could not be downloaded ({error}): {by_hand}") from error
        except OSError as error:
            raise DownloadError(f"{url} could not be read or written ({error}): {by_hand}") from error
        if self.sha256 is None:
            return
        seen = pooch.file_hash(str(output_file))
        if seen != self.sha256:
            size = Path(output_file).stat().st_size
            raise DownloadError(
                f"the download from {url} ({size:,} bytes) has the sha256 {seen}, expected {self.sha256}: the file was "
                "removed; it may have changed at its source or in transit, so don't use it unless you know why"
            )


@cache
def _files_by_set() -> dict[str, dict[str, dict[str, str | None]]]:
    """By set and file: ``url`` and ``sha256``, the latter None where it is not known."""
    text = resources.files("metaad_zoo.data.known").joinpath("public_files.json").read_text(encoding="utf-8")
    files: dict[str, dict[str, dict[str, str | None]]] = json.loads(text)
    return files


def public_sets() -> list[str]:
    """Names of the public data sets whose files :func:`fetch_public` knows.

    Example:
        >>> public_sets()
        ['adbench', 'nab']
    """
    return sorted(_files_by_set())


def public_files(set_name: str) -> list[str]:
    """The known files of a public data set, as paths within it.

    Args:
        set_name: one of :func:`public_sets`.

    Raises:
        ValueError: the set is unknown (the nearest known ones are named).

    Example:
        >>> public_files("nab")[-2:]
        ['data/realTraffic/speed_t4013.csv', 'labels/combined_windows.json']
    """
    if set_name not in _files_by_set():
        raise unknown_name("public data set", set_name, _files_by_set())
    return list(_files_by_set()[set_name])


def fetch_public(set_name: str, file: str, folder: str | Path, sha256: str | None = None) -> Path:
    """A file of a public data set, downloaded to ``folder/set_name/file`` if it is not there, its sha256 checked.

    ``nab`` is known by the sha256 of each file. Those of ``adbench`` are not known to this package, which never uses an
    unchecked download: either download the file by hand, look at it, and pin it by passing its ``sha256`` here; or put
    it into a folder of your own, such as the one that ``METAAD_DATA`` names, from which readers take files as they are.

    Args:
        set_name: one of :func:`public_sets`.
        file: one of :func:`public_files`.
        folder: folder of all public data.
        sha256: 64 hexadecimal digits, for a file whose sha256 this package does not know.

    Raises:
        DownloadError: as :func:`fetch`.
        ValueError: the set or the file is unknown (the nearest known ones are named); no sha256 is known and none
            given, or another one is known.

    Source:
        Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly Benchmark", ICMLA 2015.
        Han et al., "ADBench: Anomaly Detection Benchmark", NeurIPS 2022.
    """
    if file not in public_files(set_name):
        raise unknown_name(f"file of {set_name}", file, public_files(set_name))
    entry = _files_by_set()[set_name][file]
    url, pinned = str(entry["url"]), entry["sha256"]
    path = Path(folder).expanduser() / set_name / file
    if pinned and sha256 and pinned != sha256.lower():
        raise ValueError(f"the sha256 of {set_name}'s {file} is {pinned}, not {sha256}: leave sha256 out")
    wanted = pinned or sha256
    if wanted is None:
        raise ValueError(
            f"no sha256 is known for {set_name}'s {file}, and no download goes unchecked: download {url} by hand as "
            f"{path}, look at it, and pin it with sha256= (the output of sha256sum); or put it into the folder that "
            "METAAD_DATA names, for a reader to read it from there"
        )
    return fetch(url, wanted, path.parent)
