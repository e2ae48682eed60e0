"""Archives of public data sets: downloaded, checked by their sha256 and unpacked into a folder."""

from __future__ import annotations

import platform
import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from metaad_zoo.data.known.download import DownloadError, fetch


@dataclass(frozen=True)
class Archive:
    """Where a data set is published as a tar or zip archive.

    Args:
        url: address of the archive; without a sha256, of the page from which to download it by hand.
        sha256: 64 hexadecimal digits; None if it is not known, and the archive is never downloaded.
        inside: folder of the archive that holds the data; None: the archive's top.
    """

    url: str
    sha256: str | None = None
    inside: str | None = None


def fetch_archive(archive: Archive, folder: Path) -> Path:
    """The content of an archive as ``folder``, which appears only when it is complete.

    The archive is downloaded beside the folder, checked and removed once it is unpacked.

    Args:
        archive: what to fetch.
        folder: folder that does not exist yet.

    Raises:
        DownloadError: as :func:`metaad_zoo.data.known.download.fetch`; or the archive can't be unpacked.
        ValueError: its sha256 is not known.
    """
    if archive.sha256 is None:
        raise ValueError(
            f"{folder} does not exist, and no download goes unchecked: the sha256 of this data set is not known; "
            f"download it by hand from {archive.url} and unpack it there"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = fetch(archive.url, archive.sha256, folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-", suffix=".part") as part:
        _unpack(file, Path(part))
        content = Path(part) / (archive.inside or "content")
        if archive.inside is None:
            content.mkdir()
            for path in [p for p in Path(part).iterdir() if p != content]:
                path.rename(content / path.name)
        elif not content.is_dir():
            raise DownloadError(f"{file} holds no folder {archive.inside}: it is another archive than expected")
        content.rename(folder)
    file.unlink()
    return folder


def _unpack(file: Path, folder: Path) -> None:
    """Unpack within the folder; paths that lead out of it are refused (tar) or cut (zip)."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
        else:
            if not hasattr(tarfile, "data_filter"):
                raise DownloadError(
                    f"{file}: Python {platform.python_version()} can't unpack tar archives safely; take Python "
                    "3.10.12, 3.11.4 or newer, or unpack it by hand"
                )
            with tarfile.open(file) as tar:
                tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DownloadError(f"{file} can't be unpacked ({error}): is it a tar or zip archive?") from error
    except OSError as error:
        free = shutil.disk_usage(folder).free
        raise DownloadError(f"{file} could not be unpacked ({error}; {free:,} bytes are free)") from error
