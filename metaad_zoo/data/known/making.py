"""Make the archives that the published checkpoints were trained on from the files that their authors publish.

The content of every class or series is compared with that of the archive behind the checkpoints, by its sha256.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metaad_zoo.atomic_write import replacing
from metaad_zoo.data.known.download import download
from metaad_zoo.data.known.images import DATA_VARIABLE
from metaad_zoo.registry import Registry

Arrays = dict[str, np.ndarray]
Maker = Callable[[Path, bool], Arrays]

MAKERS: Registry[Maker] = Registry("data set that can be made")
"""Functions that take the folder of the public files, and whether to download those that are missing."""

DRAWINGS, SIDE = 20, 28
"""Drawings of each Omniglot character, and their width and height in pixels after resizing."""

INTERFUSION = (
    "https://raw.githubusercontent.com/zhhlee/InterFusion/4d6e3fc6d6354a0e9a2d7e8f6e1ffd0812424352/data/processed"
)
TELEMANOM = "https://s3-us-west-2.amazonaws.com/telemanom/data.zip"
TELEMANOM_LABELS = "https://raw.githubusercontent.com/khundman/telemanom/master/labeled_anomalies.csv"


def make_archive(name: str, out: Path, files: Path | None = None, allow_different: bool = False) -> list[str]:
    """Write the archive ``<out>/<name>.npz`` of a known data set from its public files.

    Args:
        name: one of ``MAKERS.names()``.
        out: folder of the archive, made if it does not exist.
        files: folder with the public files as their authors lay them out; None downloads them to
            ``<out>/<name>-source`` and keeps them.
        allow_different: write the archive also where its content differs from the data behind the checkpoints.

    Returns:
        The parts whose content differs, none where the data are those behind the checkpoints.

    Raises:
        ValueError: the name is unknown, the archive exists, a public file is missing or of another form, or the content
            differs.
        DownloadError: a file can't be downloaded.
    """
    make = MAKERS[name]
    path = out / f"{name}.npz"
    if path.exists():
        raise ValueError(f"{path} exists: delete it to make it again")
    if files is not None and not files.is_dir():
        raise ValueError(f"--files {files} is no folder: give the folder that holds the public files of {name}")
    source = out / f"{name}-source" if files is None else files
    source.mkdir(parents=True, exist_ok=True)
    arrays = make(source, files is None)
    different = differences(name, arrays)
    if different and not allow_different:
        raise ValueError(
            f"{name} made from {source} differs from the data behind the published checkpoints in "
            f"{', '.join(different)}: the source may have changed; --allow-different writes it anyway"
        )
    out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]
    return different


def default_folder() -> Path:
    """The folder that ``METAAD_DATA`` names.

    Raises:
        ValueError: it is not set.
    """
    if not os.environ.get(DATA_VARIABLE):
        raise ValueError(f"name a folder with --out, or set the environment variable {DATA_VARIABLE}")
    return Path(os.environ[DATA_VARIABLE]).expanduser()


def differences(name: str, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Parts (alphabets, series) of a data set whose content differs from the data behind the checkpoints."""
    expected, actual = _expected()[name], dict(part_hashes(name, arrays))
    return [part for part in {**expected, **actual} if expected.get(part) != actual.get(part)]


def part_hashes(name: str, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """Sha256 of shape, type and bytes of the arrays of each alphabet of Omniglot, or of each series."""
    if name == "omniglot28":
        names = [str(n) for n in arrays["names"]]
        images = arrays["x"].reshape(len(names), -1, SIDE, SIDE)
        alphabets = np.array([n.split("/")[1] for n in names])
        for alphabet in np.unique(alphabets):
            mask = alphabets == alphabet
            yield str(alphabet), _sha256(np.array(names)[mask], images[mask])
        return
    series: dict[str, list[str]] = {}
    for key in sorted(arrays):
        series.setdefault(re.sub("_(train|test|label|test_label)$", "", key), []).append(key)
    for part, keys in series.items():
        yield part, _sha256(np.array(keys), *(arrays[key] for key in keys))


def _sha256(*arrays: np.ndarray) -> str:
    total = hashlib.sha256()
    for array in arrays:
        content = "\n".join(array).encode() if array.dtype.kind == "U" else np.ascontiguousarray(array).tobytes()
        total.update(f"{array.shape} {'text' if array.dtype.kind == 'U' else array.dtype.str}".encode() + content)
    return total.hexdigest()


@cache
def _expected() -> dict[str, dict[str, str]]:
    """Expected sha256 by data set and part."""
    text = resources.files("metaad_zoo.data.known").joinpath("archive_hashes.json").read_text(encoding="utf-8")
    content: dict[str, dict[str, str]] = json.loads(text)
    return content


@MAKERS.decorator("omniglot28")
def make_omniglot28(source: Path, may_download: bool) -> Arrays:
    """Omniglot's background set without Korean, Sanskrit and Tagalog, 28x28 pixels, ink bright on black.

    Args:
        source: torchvision's root, with ``omniglot-py/images_background``.
        may_download: let torchvision download what is missing; it compares the MD5 of its archive.

    Source:
        Lake et al., "Human-level concept learning through probabilistic program induction", Science 2015 (MIT licence).
    """
    folder = source / "omniglot-py" / "images_background"
    if may_download:
        from torchvision.datasets import Omniglot  # slow to import

        try:
            Omniglot(str(source), background=True, download=True)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"torchvision could not download Omniglot ({error}): try again, or download it elsewhere and give "
                "torchvision's folder with --files"
            ) from error
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: expected torchvision's Omniglot, extracted there")
    images, names = [], []
    for alphabet in _expected()["omniglot28"]:
        characters = sorted((folder / alphabet).glob("character*"))
        if not characters:
            raise ValueError(f"{folder} has no characters of {alphabet}: is it the whole background set?")
        for character in characters:
            drawings = sorted(character.glob("*.png"))
            if len(drawings) != DRAWINGS:
                raise ValueError(f"{character} has {len(drawings)} drawings, expected {DRAWINGS}: is it damaged?")
            images += [_small(drawing) for drawing in drawings]
            names.append(f"images_background/{alphabet}/{character.name}")
    return {
        "x": np.stack(images),
        "y": np.repeat(np.arange(len(names), dtype=np.int16), DRAWINGS),
        "names": np.array(names),
    }


def _small(drawing: Path) -> np.ndarray:
    """A drawing of black ink on white, averaged over the area of each new pixel and inverted; ``(28, 28)``, uint8."""
    with Image.open(drawing) as image:
        return 255 - np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


@MAKERS.decorator("smd")
def make_smd(source: Path, may_download: bool) -> Arrays:
    """Six servers of SMD: 38 metrics a minute, in half precision.

    Source:
        Su et al., "Robust Anomaly Detection for Multivariate Time Series through Stochastic Recurrent Neural Network",
        KDD 2019 (MIT licence); these files are those that InterFusion publishes.
    """
    return _interfusion("smd", source, may_download, np.float16)


@MAKERS.decorator("asd")
def make_asd(source: Path, may_download: bool) -> Arrays:
    """Eight application servers with 19 metrics.

    Source:
        Li et al., "Multivariate Time Series Anomaly Detection and Interpretation using Hierarchical Inter-Metric and
        Temporal Embedding", KDD 2021 (MIT licence).
    """
    return _interfusion("asd", source, may_download, np.float32)


def _interfusion(name: str, source: Path, may_download: bool, dtype: type) -> Arrays:
    arrays = {}
    for part in _expected()[name]:
        for kind in ("test", "test_label", "train"):
            file = _public_file(source / f"{part}_{kind}.pkl", f"{INTERFUSION}/{part}_{kind}.pkl", may_download)
            values = read_pickled_array(file)
            arrays[f"{part}_{kind}"] = values.ravel().astype(np.uint8) if kind == "test_label" else values.astype(dtype)
    return arrays


def read_pickled_array(file: Path) -> np.ndarray:
    """The one numeric array in a pickle, taken from its opcodes. Nothing is unpickled: no code of the file runs.

    Args:
        file: pickle of a numpy array, of protocol 3 or 4.

    Raises:
        ValueError: the file is no such pickle.
    """
    try:
        ops: list[tuple[str, Any]] = [(op.name, value) for op, value, _ in pickletools.genops(file.read_bytes())]
    except ValueError as error:
        raise ValueError(f"{file} can't be read as a pickle ({error}): is the download damaged?") from error
    buffers = [i for i, (name, _) in enumerate(ops) if name in ("BINBYTES", "BINBYTES8")]
    types = [value for _, value in ops if isinstance(value, str) and re.fullmatch(r"[fiub][1248]", value)]
    # numpy's state of an array: version 1, shape, type, Fortran order, bytes.
    version = next((i for i, op in enumerate(ops) if op == ("BININT1", 1)), len(ops))
    shape: list[int] = []
    for name, value in ops[version + 1 :]:
        if name not in ("BININT1", "BININT2", "BININT", "MARK"):
            break
        shape += [] if name == "MARK" else [value]
    if len(buffers) != 1 or len(types) != 1 or not shape:
        raise ValueError(f"{file}: expected the pickle of one array of numbers (protocol 3 or 4)")
    flat = np.frombuffer(ops[buffers[0]][1], np.dtype(types[0]).newbyteorder("<"))
    order = next(name for name, _ in reversed(ops[: buffers[0]]) if name in ("NEWTRUE", "NEWFALSE"))
    if flat.size != np.prod(shape):
        raise ValueError(f"{file} holds {flat.size} numbers, expected {' x '.join(map(str, shape))}")
    return flat.reshape(shape, order="F" if order == "NEWTRUE" else "C")


@MAKERS.decorator("smap")
def make_smap(source: Path, may_download: bool) -> Arrays:
    """54 telemetry channels of the SMAP satellite: a value, and 24 columns of commands.

    Args:
        source: folder with ``labeled_anomalies.csv`` and ``data.zip``, or its content ``data/train`` and ``data/test``.
        may_download: download what is missing.

    Source:
        Hundman et al., "Detecting Spacecraft Anomalies Using LSTMs and Nonparametric Dynamic Thresholding", KDD 2018.
    """
    labels = _public_file(source / "labeled_anomalies.csv", TELEMANOM_LABELS, may_download)
    if not (source / "data" / "train").is_dir():
        archive = _public_file(source / "data.zip", TELEMANOM, may_download)
        with zipfile.ZipFile(archive) as content:
            content.extractall(
                source, [n for n in content.namelist() if re.fullmatch(r"data/(train|test)/[\w-]+.npy", n)]
            )
    intervals = _anomalies(labels)
    arrays = {}
    for channel in _expected()["smap"]:
        for kind in ("train", "test"):
            file = source / "data" / kind / f"{channel}.npy"
            if not file.is_file():
                raise ValueError(f"{file} does not exist: expected the files of {TELEMANOM}")
            arrays[f"{channel}_{kind}"] = np.load(file, allow_pickle=False).astype(np.float32)
        label = np.zeros(len(arrays[f"{channel}_test"]), np.uint8)
        for first, last in intervals.get(channel, ()):
            label[first : last + 1] = 1
        arrays[f"{channel}_label"] = label
    return arrays


def _anomalies(labels: Path) -> dict[str, list[list[int]]]:
    """First and last anomalous step of each anomaly, by channel; a channel may have several rows."""
    intervals: dict[str, list[list[int]]] = {}
    with labels.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            intervals.setdefault(row["chan_id"], []).extend(json.loads(row["anomaly_sequences"]))
    return intervals


def _public_file(path: Path, url: str, may_download: bool) -> Path:
    if not path.is_file():
        if not may_download:
            raise ValueError(f"{path} does not exist: download {url} there")
        download(url, path)
    return path
