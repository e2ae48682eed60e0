"""Readers that are fuzzed: small real files of each form, how they are mutated and read, and a reference to compare.

A case is a pure function of ``(seed, reader, number)``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import wave
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import fuzz_mutations as fm
import numpy as np
import pandas as pd
import yaml
from PIL import Image
from pyarrow import parquet
from scipy.io import wavfile
from sklearn.datasets import load_digits, load_wine

Files = dict[str, bytes]
"""Content by name, below the folder of a case. The first one is the one that is read."""


@dataclass
class Reading:
    """What a reader gave.

    Attributes:
        values: arrays by name, which a reference may give too.
        notes: lines of the account.
    """

    values: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Target(ABC):
    """A reader, and files for it."""

    name: str
    structured: tuple[fm.Mutation, ...] = ()
    """Mutations that keep the file's structure."""

    @cached_property
    def seeds(self) -> list[Files]:
        """Files that are sound."""
        return self.sound()

    @abstractmethod
    def sound(self) -> list[Files]:
        """Files that are sound."""

    @abstractmethod
    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        """Read a file as the package does.

        Args:
            room: folder of the case.
            file: name of the file.
            rng: chooses between the ways in which the package reads such a file.

        Raises:
            ValueError: the file can't be read; it is named.
        """

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        """What another library makes of the same bytes, by name; {} where there is none. It may raise anything."""
        return {}

    def case(self, rng: np.random.Generator) -> Files:
        """A mutated file with those beside it."""
        files = dict(self.seeds[rng.integers(len(self.seeds))])
        name = self.victim(files, rng)
        content = files[name]
        kind = int(rng.integers(10))
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            if kind == 9:
                donor = self.seeds[rng.integers(len(self.seeds))]
                content = fm.splice(content, donor.get(name, donor[next(iter(donor))]), rng) if content else content
            elif kind >= 5 and (structured := self.structures(name)):
                # What was damaged by an earlier mutation may have no structure any more.
                with contextlib.suppress(Exception):
                    content = fm.any_of(structured, content, rng)
            else:
                content = fm.any_of(fm.BYTES, content, rng)
        files[name] = content
        return self.finished(files, name, rng)

    def victim(self, files: Files, rng: np.random.Generator) -> str:
        """Name of the file that is mutated."""
        return next(iter(files))

    def structures(self, name: str) -> tuple[fm.Mutation, ...]:
        """Structured mutations of a file."""
        return self.structured

    def finished(self, files: Files, name: str, rng: np.random.Generator) -> Files:
        """The files once one is mutated."""
        return files


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def _pictures() -> dict[str, Image.Image]:
    """Digits as pictures of several modes."""
    digits = (load_digits().images[:6] * 15.9).astype(np.uint8)
    grey = Image.fromarray(digits[0]).resize((16, 12))
    colour = Image.fromarray(np.stack(digits[1:4], -1)).resize((16, 12))
    clear = Image.fromarray(np.stack(digits[1:5], -1), "RGBA").resize((16, 12))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return {"L": grey, "RGB": colour, "RGBA": clear, "P": colour.convert("P"), "1": grey.convert("1"), "I;16": deep}


class Images(Target):
    """Image files of every format that is read."""

    name = "images"

    def sound(self) -> list[Files]:
        p = _pictures()
        exif = Image.Exif()
        exif[0x0112] = 6
        png = {mode: _saved(image, "PNG") for mode, image in p.items()}
        png["text"] = _saved(p["L"], "PNG", pnginfo=_text_chunks())
        files = [{"a.png": content} for content in png.values()]
        files += [{"a.jpg": _saved(p[m], "JPEG", **o)} for m, o in (("L", {}), ("RGB", {"exif": exif}))]
        files += [{"a.jpg": _saved(p["RGB"].convert("CMYK"), "JPEG", progressive=True)}]
        files += [{"a.bmp": _saved(p[m], "BMP")} for m in ("L", "RGB", "P", "1")]
        files += [{"a.gif": _saved(p["P"], "GIF", save_all=True, append_images=[p["L"]])}]
        files += [{"a.tif": _saved(p["RGB"], "TIFF", compression=c)} for c in (None, "tiff_lzw", "tiff_adobe_deflate")]
        files += [{"a.tiff": _saved(p["I;16"], "TIFF")}, {"a.tif": _saved(p["1"], "TIFF", compression="group4")}]
        files += [{"a.webp": _saved(p["RGBA"], "WEBP", lossless=lossless)} for lossless in (False, True)]
        files += [{"a.ppm": _saved(p["RGB"], "PPM")}, {"a.pgm": b"P2\n3 2\n255\n1 2 3\n4 5 6\n"}]
        files += [{"a.tga": _saved(p["RGBA"], "TGA", compression="tga_rle")}, {"a.pcx": _saved(p["RGB"], "PCX")}]
        files += [{"a.sgi": _saved(p["RGB"], "SGI")}, {"a.qoi": _saved(p["RGB"], "QOI")}]
        files += [{"a.jp2": _saved(p["RGB"], "JPEG2000")}, {"a.avif": _saved(p["RGB"], "AVIF")}]
        return files

    def structures(self, name: str) -> tuple[fm.Mutation, ...]:
        return (fm.png_chunks,) if name.endswith(".png") else (fm.set_number,)

    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        from metaad_zoo.data.read.images import ImageReader
        from metaad_zoo.data.read.pixels import decode, decode_mask

        way = int(rng.integers(4))
        if way == 0:
            decode_mask(room / file)
        if way == 1:
            reader = ImageReader(room, channels=1, height=8, width=8, aspect="pad", below=True)
            return Reading({"sample": reader.all()["image"].numpy()}, list(reader.account))
        pixels, notes = decode(room / file)
        return Reading({"pixels": pixels.numpy()}, notes)

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        """Pillow's pixels of plain grey and colour; of PNG, only where all checksums are right."""
        content = (room / file).read_bytes()
        if content.startswith(b"\x89PNG"):
            _check_png(content)
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            plain = image.mode in ("L", "RGB") and "transparency" not in image.info
            turned = image.getexif().get(0x0112, 1) != 1
            values = np.array(image)
        return (
            {"pixels": values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)} if plain and not turned else {}
        )


def _check_png(content: bytes) -> None:
    """Refuse a PNG with a wrong checksum, of its chunks or of its packed pixels, or one that is cut off."""
    at, pixels = 8, b""
    while content[at + 4 : at + 8] != b"IEND":
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunk = content[at + 4 : at + 8 + size]
        if content[at + 8 + size : at + 12 + size] != struct.pack(">I", zlib.crc32(chunk)):
            raise ValueError("checksum")
        pixels += chunk[4:] if chunk[:4] == b"IDAT" else b""
        at += 12 + size
    zlib.decompress(pixels)


def _text_chunks() -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Title", "a digit", zip=True)
    info.add_itxt("Title", "eine Ziffer", "de", zip=True)
    return info


def _wine() -> pd.DataFrame:
    frame = load_wine(as_frame=True).frame.iloc[:24, [0, 1, 4, 9, 12]].copy()
    frame.columns = ["alcohol", "malic", "magnesium", "colour", "proline"]
    frame["kind"] = ["red", "white"] * 12
    return frame


def _steps() -> pd.DataFrame:
    frame = _wine().drop(columns="kind")
    frame.insert(0, "time", pd.date_range("2024-03-01", periods=len(frame), freq="min").astype(str))
    return frame


class Tables(Target):
    """Tables and series out of named columns."""

    ending: str
    exact = True

    def sound(self) -> list[Files]:
        labelled = _wine().assign(label=[0] * 22 + [1, 1], id=range(100, 124))
        gaps = _wine().mask(np.random.default_rng(0).random((24, 6)) < 0.1)
        few = _steps().head(40)
        return [{f"a.{self.ending}": self.written(frame)} for frame in (_wine(), labelled, gaps, few)]

    @abstractmethod
    def written(self, frame: pd.DataFrame) -> bytes:
        """A frame as a file."""

    @abstractmethod
    def frame(self, path: Path) -> pd.DataFrame:
        """A file as another library reads it."""

    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        from metaad_zoo.data.read.series_folder import read_own_series
        from metaad_zoo.modality.samples import read_support

        way, path = int(rng.integers(5)), room / file
        if way == 0:
            reading = read_support(path, {"sequence": (4, -1)})
            return Reading({}, list(reading.account))
        if way == 1:
            read_own_series(path)
            return Reading()
        if way == 2:
            return self._scored(path)
        reading = read_support(path, {"tabular": (-1,)})
        names = reading.schemas["tabular"].numbers
        values = reading.samples["tabular"].numpy()
        return Reading({name: values[:, i] for i, name in enumerate(names)}, list(reading.account))

    def _scored(self, path: Path) -> Reading:
        """Read by the columns of a sound table, as for scoring."""
        from metaad_zoo.modality.samples import read_query

        support, schemas = self._domain
        reading = read_query(support, path, {"tabular": (-1,)}, schemas)
        names = schemas["tabular"].numbers
        values = reading.samples["tabular"].numpy()
        return Reading({name: values[:, i] for i, name in enumerate(names)}, list(reading.account))

    @cached_property
    def _domain(self) -> tuple[Any, Any]:
        from metaad_zoo.modality.samples import read_support

        reading = read_support(_wine(), {"tabular": (-1,)})
        return reading.samples, reading.schemas

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        frame = self.frame(room / file)
        numbers = frame.select_dtypes("number")
        return {str(name): numbers[name].to_numpy(np.float64, na_value=np.nan) for name in numbers}


class Csv(Tables):
    """CSV files."""

    name, ending = "csv", "csv"
    structured = (fm.text_cells,)

    def written(self, frame: pd.DataFrame) -> bytes:
        return frame.to_csv(index=False).encode()

    def frame(self, path: Path) -> pd.DataFrame:
        return pd.read_csv(path, index_col=False, on_bad_lines="error", float_precision="round_trip")


class Parquet(Tables):
    """Parquet files; the structure is their footer."""

    name, ending = "parquet", "parquet"

    def written(self, frame: pd.DataFrame) -> bytes:
        out = io.BytesIO()
        parquet.write_table(_arrow(frame), out, compression="snappy", row_group_size=10)
        return out.getvalue()

    def sound(self) -> list[Files]:
        plain = io.BytesIO()
        parquet.write_table(_arrow(_wine()), plain, compression="none", use_dictionary=False, write_page_checksum=True)
        packed = io.BytesIO()
        parquet.write_table(_arrow(_steps()), packed, compression="zstd", data_page_version="2.0")
        return [*super().sound(), {"a.parquet": plain.getvalue()}, {"a.pq": packed.getvalue()}]

    def structures(self, name: str) -> tuple[fm.Mutation, ...]:
        return (_footer,)

    def frame(self, path: Path) -> pd.DataFrame:
        table: pd.DataFrame = parquet.ParquetFile(path, page_checksum_verification=True).read().to_pandas()
        return table


def _arrow(frame: pd.DataFrame) -> Any:
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False)


def _footer(content: bytes, rng: np.random.Generator) -> bytes:
    """The footer changed, its length right."""
    size = int.from_bytes(content[-8:-4], "little")
    start = len(content) - 8 - size
    footer = fm.any_of(fm.BYTES, content[start:-8], rng)
    return content[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


class Archives(Target):
    """Numpy archives of tables, images, series and sequences."""

    name = "npz"
    structured = (fm.npz_members,)

    def sound(self) -> list[Files]:
        wine, digits = _wine().drop(columns="kind").to_numpy(), load_digits()
        images = digits.images[:8].astype(np.uint8)
        named = {
            "x": images,
            "y": digits.target[:8] % 2,
            "t": digits.target[:8] % 3,
            "names": np.array(["a", "b", "c"]),
        }
        return [
            _npz(X=wine, y=np.arange(24) % 2),
            _npz(x=wine.astype(np.float32)),
            _npz(x=images, y=digits.target[:8]),
            _npz(**named, masks=images > 9),
            _npz(a__x=wine, a__y=np.arange(24) % 2, b_train=wine[:9], b_test=wine[9:], b_test_label=np.arange(15) % 2),
            _npz(x=np.stack([wine[:8], wine[8:16]]), y=np.array([0, 1])),
        ]

    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        from metaad_zoo.data.read.archive import read_archive
        from metaad_zoo.data.read.images import read_npz
        from metaad_zoo.data.read.manifest import sequence_of_archive
        from metaad_zoo.data.read.series_archive import read_series_npz
        from metaad_zoo.modality.samples import read_samples, read_support

        way, path = int(rng.integers(7)), room / file
        if way == 0:
            return Reading({"image": read_samples(path, {"image": (1, 8, 8)}).samples["image"].numpy()})
        if way == 1:
            read_npz(path, 8, 1)
        elif way == 2:
            read_support(path, {"sequence": (4, -1)})
        elif way == 3:
            read_series_npz(path)
        elif way == 4:
            sequence_of_archive(path)
        elif way == 5:
            return Reading(read_archive(path))
        else:
            reading = read_support(path, {"tabular": (-1,)})
            return Reading({"rows": reading.samples["tabular"].numpy()}, list(reading.account))
        return Reading()

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        with np.load(room / file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        rows, images = arrays.get("X", arrays.get("x")), arrays.get("x", arrays.get("X"))
        more = {} if rows is None or rows.ndim != 2 else {"rows": rows}
        if images is not None and images.dtype == np.uint8 and images.shape[1:] == (8, 8):
            more["image"] = images[:, None] / 255
        return arrays | more


def _npz(**arrays: np.ndarray) -> Files:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return {"a.npz": out.getvalue()}


class Recordings(Target):
    """WAV files."""

    name = "wav"
    structured = (fm.wav_header,)

    def sound(self) -> list[Files]:
        tone = np.sin(np.arange(400) * 0.3) * 0.7
        files = [_wav(16_000, (tone * 32767).astype(np.int16)), _wav(8000, (tone * 127 + 128).astype(np.uint8))]
        files += [_wav(16_000, tone.astype(np.float32)), _wav(44_100, (tone * 2**30).astype(np.int32))]
        files += [_wav(16_000, np.stack([tone, -tone], 1).astype(np.float64))]
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(3)
            file.setframerate(16_000)
            file.writeframes(b"".join(int(x * 2**22).to_bytes(3, "little", signed=True) for x in tone))
        return [*files, {"a.wav": out.getvalue()}]

    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        from metaad_zoo.data.read.audio import read_wav
        from metaad_zoo.modality.samples import read_samples

        if rng.integers(3):
            reading = read_samples(room / file, {"audio": (1, 16, 16)})
            return Reading({"image": reading.samples["audio"].numpy()}, list(reading.account))
        return Reading({"sound": read_wav(room / file)[0]})

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        """Python's own reader, of whole PCM files."""
        with wave.open(str(room / file)) as recording:
            width, channels, n = recording.getsampwidth(), recording.getnchannels(), recording.getnframes()
            content = recording.readframes(n)
        if len(content) != n * width * channels or width not in (1, 2, 4):
            return {}
        raw = np.frombuffer(content, {1: np.uint8, 2: "<i2", 4: "<i4"}[width]).astype(np.float64)
        sound = (raw - 128) / 128 if width == 1 else raw / 2 ** (8 * width - 1)
        return {"sound": sound.reshape(-1, channels).mean(1)}


def _wav(rate: int, samples: np.ndarray) -> Files:
    out = io.BytesIO()
    wavfile.write(out, rate, samples)
    return {"a.wav": out.getvalue()}


class Manifests(Target):
    """Manifests with the files that they name."""

    name = "manifest"

    def sound(self) -> list[Files]:
        p = _pictures()
        files = {"i/a.png": _saved(p["L"], "PNG"), "i/b.png": _saved(p["RGB"], "PNG")}
        files |= {"s/a.csv": _steps().head(6).to_csv(index=False).encode(), "s/b.npz": _npz(x=np.ones((5, 5)))["a.npz"]}
        full = pd.DataFrame({"image": ["i/a.png", "i/b.png", "i/a.png", ""], "weight": [1.5, 2.5, 0.5, 9.25]})
        full["sequence"] = ["s/a.csv", "s/b.npz", "", "s/a.csv"]
        labelled = full.drop(columns="sequence").assign(domain=["u", "u", "v", "v"], label=[0, 1, 0, 0])
        return [
            {"m.csv": full.to_csv(index=False).encode(), **files},
            {"m.csv": labelled.to_csv(index=False).encode(), **files},
        ]

    def victim(self, files: Files, rng: np.random.Generator) -> str:
        return "m.csv" if rng.integers(4) else list(files)[rng.integers(len(files))]

    def structures(self, name: str) -> tuple[fm.Mutation, ...]:
        if name == "m.csv":
            return (fm.text_cells, _other_path)
        return {"png": (fm.png_chunks,), "csv": (fm.text_cells,), "npz": (fm.npz_members,)}[name[-3:]]

    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        from metaad_zoo.data.read.manifest import ManifestOptions, ManifestReader
        from metaad_zoo.modality.samples import read_samples

        if rng.integers(2):
            shapes = {"image": (1, 8, 8), "sequence": (6, -1), "tabular": (-1,)}
            reading = read_samples(room / file, shapes)
            samples, names, notes = reading.samples, reading.schemas["tabular"].numbers, list(reading.account)
        else:
            reader = ManifestReader(room / file, files=ManifestOptions(8, 6, 1))
            samples = reader.read().all_samples()
            names, notes = reader.schemas["tabular"].numbers, list(reader.account)
        rows = samples["tabular"].numpy() if "tabular" in samples else np.zeros((0, 0))
        return Reading({name: rows[:, i] for i, name in enumerate(names) if i < rows.shape[1]}, notes)

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        numbers = pd.read_csv(room / file, index_col=False, float_precision="round_trip").select_dtypes("number")
        return {str(name): numbers[name].to_numpy(np.float64, na_value=np.nan) for name in numbers}


def _other_path(content: bytes, rng: np.random.Generator) -> bytes:
    """A file's name exchanged for one outside, a folder, a device, a link or one of another kind."""
    names = [b"i/a.png", b"i/b.png", b"s/a.csv", b"s/b.npz"]
    others = [
        *names,
        b"m.csv",
        b"i",
        b".",
        b"..",
        b"../outside.png",
        b"i/../../outside.png",
        b"/dev/zero",
        b"/dev/stdin",
    ]
    others += [b"link.png", b"i/a.png\x00.png", b"~/a.png", b"a" * 300 + b".png", b"file:///etc/passwd", b"i//a.png"]
    return content.replace(names[rng.integers(4)], others[rng.integers(len(others))], int(rng.integers(1, 3)))


CONFIG = """name: fuzz
seed_everything: 3
alpha: 0.2
trainer: {max_steps: 4, accelerator: cpu, logger: false}
data:
  class_path: metaad_zoo.data.TabularEpisodes
  init_args:
    dataset: sklearn_tables
    splits: {train: [generated], val: [generated], test: ["*"]}
    episode: {support_normal: 5, query_normal: 10}
    val_episodes: 20
model:
  class_path: metaad_zoo.learners.GradientLearner
  init_args:
    backbone: columns
    inner_loop: {engine: vectorized, steps: 1, lr: 0.1}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.002}}
"""


class Configs(Target):
    """Configs of `metaad train` and `train.py`, parsed; nothing is built."""

    name = "config"
    structured = (fm.yaml_lines, lambda content, rng: _yaml_values(content, rng))

    def sound(self) -> list[Files]:
        classes = CONFIG.replace("metaad_zoo.data.", "").replace("metaad_zoo.learners.", "")
        return [{"c.yaml": CONFIG.encode()}, {"c.yaml": classes.encode()}]

    @cached_property
    def _parser(self) -> Any:
        from metaad_zoo.cli.train import TrainingCLI

        class Parsed(TrainingCLI):
            def instantiate_classes(self) -> None:
                """Leave it at the parser."""

        with contextlib.redirect_stdout(io.StringIO()):
            return Parsed(["--model", "PrototypicalNetwork", "--data", "TabularEpisodes"], None).parser

    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        errors = io.StringIO()
        try:
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
                config = self._parser.parse_args(["--config", str(room / file)])
        except SystemExit as error:  # as a parser of a command line ends
            if error.code != 2 or not errors.getvalue().startswith("error: "):
                raise
            raise ValueError(errors.getvalue()) from error
        return Reading({key: np.array(str(value)) for key, value in _leaves(config.as_dict())})

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        """Plain values, as PyYAML reads them."""
        values = dict(_leaves(yaml.safe_load((room / file).read_bytes())))
        return {key: np.array(str(value)) for key, value in values.items() if "class_path" not in key}


def _leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{prefix}.{key}".lstrip("."))]
    if isinstance(value, (str, bool, int)) and prefix:
        return [(prefix, value)]
    return []


def _yaml_values(content: bytes, rng: np.random.Generator) -> bytes:
    document = yaml.safe_load(content)
    fm.change_inside(document, rng)
    return yaml.safe_dump(document).encode()


class Checkpoints(Target):
    """Folders of checkpoints; half of the damaged weights and configs have the sha256 that the manifest names."""

    name = "checkpoint"

    def sound(self) -> list[Files]:
        import torch

        from metaad_zoo.episodes import NORMAL
        from metaad_zoo.learners import GradientLearner
        from metaad_zoo.zoo import Checkpoint
        from metaad_zoo.zoo.checkpoint import SUPPORT_LABELS, checkpoint_files

        learner = GradientLearner("mlp", {"widths": [4]}, {"tabular": [3]})
        scores = {"calibration/5": torch.arange(9.0), "calibration": torch.arange(5.0)}
        support = {"support/tabular": torch.eye(3), SUPPORT_LABELS: torch.full((3,), NORMAL)}
        splits = {"train": {"a": ["0" * 64]}, "test": {"b": ["1" * 64]}}
        new = Checkpoint(learner, ["a", "b"], scores, "name: sound\n")
        adapted = Checkpoint(learner, ["a"], {**scores, **support}, "name: sound\n", splits=None)
        del splits
        cards = {
            "README.md": b"---\ntags: []\n---\n# A card\n",
            "metrics.json": b'{"methods": {"x": {"mean": {"auroc": 0.5}}}}',
        }
        return [{**checkpoint_files(checkpoint), **cards} for checkpoint in (new, adapted)]

    def victim(self, files: Files, rng: np.random.Generator) -> str:
        names = ["manifest.json", "manifest.json", "model.safetensors", "model.safetensors", "config.yaml", *files]
        return names[rng.integers(len(names))]

    def structures(self, name: str) -> tuple[fm.Mutation, ...]:
        if name.endswith(".json"):
            return (fm.json_values,)
        return (fm.safetensors_header,) if name.endswith(".safetensors") else (fm.yaml_lines,)

    def finished(self, files: Files, name: str, rng: np.random.Generator) -> Files:
        if name in ("model.safetensors", "config.yaml") and rng.integers(4):
            manifest = json.loads(files["manifest.json"])
            manifest["sha256"][name] = hashlib.sha256(files[name]).hexdigest()
            files["manifest.json"] = json.dumps(manifest).encode()
        return files

    def read(self, room: Path, file: str, rng: np.random.Generator) -> Reading:
        from metaad_zoo.cli import main
        from metaad_zoo.detector import load_detector
        from metaad_zoo.zoo.opening import open_checkpoint
        from metaad_zoo.zoo.published import read_published

        way = int(rng.integers(6))
        if way == 0:
            with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
                code = main(["info", str(room), *["--json"] * int(rng.integers(2))])
            if code:
                raise ValueError(errors.getvalue())
        elif way == 1:
            read_published(room)
        elif way == 2:
            detector = load_detector(room)
            if detector.is_fitted:
                return Reading({"score": detector.score(np.ones((1, 3)))})
        else:
            state = open_checkpoint(room).learner.state_dict()
            return Reading({f"learner/{name}": x.numpy() for name, x in state.items()})
        return Reading()

    def reference(self, room: Path, file: str) -> dict[str, np.ndarray]:
        from safetensors.numpy import load

        return {n: x for n, x in load((room / "model.safetensors").read_bytes()).items() if n.startswith("learner/")}


TARGETS: Mapping[str, Callable[[], Target]] = {
    kind.name: kind for kind in (Images, Csv, Parquet, Archives, Recordings, Manifests, Configs, Checkpoints)
}


def rng_of(seed: int, reader: str, number: int) -> np.random.Generator:
    """The random numbers of a case."""
    return np.random.default_rng([seed, zlib.crc32(reader.encode()), number])


def write_case(files: Files, room: Path) -> str:
    """Write a case into an empty folder; returns the name of the file that is read."""
    for name, content in files.items():
        path = room / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return next(iter(files))


def differing(reading: Reading, reference: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the values that the reader and the reference both have, and that are not the same."""
    return [n for n, x in reading.values.items() if n in reference and not _alike(x, reference[n])]


def _alike(x: np.ndarray, y: np.ndarray) -> bool:
    if x.shape != y.shape:
        return False
    if x.dtype.kind in "biufc" and y.dtype.kind in "biufc":
        with np.errstate(all="ignore"):
            return bool(np.allclose(x.astype(np.complex128), y.astype(np.complex128), 1e-5, 1e-30, equal_nan=True))
    return bool((x == y).all())


def clear(room: Path) -> None:
    """Empty a folder, whatever lies in it."""
    for folder, folders, files in os.walk(room, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            path = os.path.join(folder, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
