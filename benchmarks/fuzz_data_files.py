"""Files of data that are fuzzed: images, tables, archives, recordings and manifests."""

from __future__ import annotations

import io
import struct
import wave
import zlib
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import fuzz_mutations as fm
import numpy as np
import pandas as pd
from fuzz_cases import Files, Reading, Target
from PIL import Image
from pyarrow import parquet
from scipy.io import wavfile
from sklearn.datasets import load_digits, load_wine


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
