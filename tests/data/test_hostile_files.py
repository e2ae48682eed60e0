"""Mutated and forged files: read with the values that they hold, or refused by name, never anything else.

A fixed corpus of `benchmarks/fuzz_readers.py`, which runs thousands of such cases, and files that are made to hurt.
"""

from __future__ import annotations

import importlib
import struct
import sys
import warnings
import zlib

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image
from pyarrow import parquet
from scipy.io import wavfile

from metaad_zoo.data.read.archive import read_archive
from metaad_zoo.data.read.audio import read_wav
from metaad_zoo.data.read.image_archive import ImageArchive
from metaad_zoo.data.read.memory import LIMIT_VARIABLE, TooLargeError
from metaad_zoo.data.read.pixels import decode
from metaad_zoo.detector import load_detector
from metaad_zoo.modality.samples import read_query, read_samples, read_support
from metaad_zoo.zoo.published import read_published
from metaad_zoo.zoo.reading import read_bytes
from tests.conftest import REPOSITORY

CASES = 6
"""Cases of each reader, beside those that once failed."""
READERS = ("images", "csv", "parquet", "npz", "wav", "manifest", "config", "checkpoint")


@pytest.fixture(scope="module")
def targets():
    """How the benchmark handles cases, and its readers by name, each made once."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        cases, readers = (importlib.import_module(name) for name in ("fuzz_cases", "fuzz_targets"))
    finally:
        sys.path.pop(0)
    return cases, {name: kind() for name, kind in readers.TARGETS.items()}


@pytest.mark.parametrize("number", range(CASES))
@pytest.mark.parametrize("reader", READERS)
def test_mutated_files_are_read_as_they_are_or_refused_by_name(reader, number, targets, tmp_path, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "32")
    cases, by_name = targets
    target, rng = by_name[reader], cases.rng_of(7, reader, number)
    files = target.case(rng)
    file = cases.write_case(files, tmp_path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders
            reading = target.read(tmp_path, file, rng)
    except ValueError as error:
        names = [str(tmp_path), *(name.rpartition("/")[2] for name in files)]
        if not any(name in str(error) for name in names):
            pytest.fail(f"no file is named: {error}")
        return
    try:
        reference = target.reference(tmp_path, file)
    except Exception:  # another library refuses it
        return
    assert reading.notes or not cases.differing(reading, reference)


def test_every_reader_of_the_benchmark_is_tested(targets):
    assert set(READERS) == set(targets[1])


def png(path, *chunks):
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)
    return path


HEAD = (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0))
PIXELS = (b"IDAT", zlib.compress(b"\x00\x01\x02\x03\x04" * 4))
END = (b"IEND", b"")


class TestPng:
    def test_a_sound_one_is_read(self, tmp_path):
        assert decode(png(tmp_path / "a.png", HEAD, PIXELS, END))[0].tolist() == [[[1, 2, 3, 4]] * 4]

    def test_damaged_pixels_are_noticed_by_their_checksum(self, tmp_path):
        path = png(tmp_path / "a.png", HEAD, (b"IDAT", zlib.compress(b"\x00\x01\x02\x03\x04" * 4, 0)), END)
        path.write_bytes(path.read_bytes().replace(b"\x01\x02\x03\x04", b"\x01\x02\x03\x05", 1))
        with pytest.raises(ValueError, match=r"a\.png can't be read as an image"):
            decode(path)

    def test_one_that_is_cut_off_behind_its_pixels_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"a\.png can't be read as an image"):
            decode(png(tmp_path / "a.png", HEAD, PIXELS))

    def test_a_text_that_unpacks_to_much_is_refused(self, tmp_path):
        bomb = (b"zTXt", b"key\x00\x00" + zlib.compress(bytes(1 << 23)))
        with pytest.raises(ValueError, match=r"a\.png can't be read as an image"):
            decode(png(tmp_path / "a.png", HEAD, PIXELS, bomb, END))

    def test_pixels_beyond_the_limit_are_not_decoded(self, tmp_path, monkeypatch):
        monkeypatch.setenv(LIMIT_VARIABLE, "1")
        Image.new("RGB", (512, 512)).save(tmp_path / "a.png")
        with pytest.raises(TooLargeError, match=r"a\.png takes 2 MiB"):
            decode(tmp_path / "a.png")


class TestTables:
    def test_one_long_cell_does_not_make_all_long(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("a,b\n" + "x,1\n" * 1000 + "z" * 1_000_000 + ",3\n")
        with pytest.raises(TooLargeError, match=r"a\.csv, column 'a' with a text of 1,000,000 bytes, takes 3,819 MiB"):
            read_support(path, {"tabular": (-1,)})

    def test_a_text_that_parquet_holds_once_is_not_unpacked_for_every_row(self, tmp_path, monkeypatch):
        path = tmp_path / "a.parquet"
        parquet.write_table(pa.table({"a": pa.array(["q" * 100_000] * 300), "b": np.arange(300.0) % 7}), path)
        monkeypatch.setenv(LIMIT_VARIABLE, "64")
        assert path.stat().st_size < 100_000
        with pytest.raises(TooLargeError, match=r"a\.parquet, column 'a' with a text of 100,000 bytes"):
            read_support(path, {"tabular": (-1,)})

    @pytest.mark.parametrize("width", [16, 5])
    def test_too_many_columns_are_refused_at_once(self, width, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text(",".join(f"c{i:0{width}d}" for i in range(100_000)) + "\n1\n")
        with pytest.raises(ValueError, match=r"a\.csv(: the first line is longer| has 3[0-9],[0-9]+ columns)"):
            read_support(path, {"tabular": (-1,)})

    def test_text_in_parquet_that_is_no_utf8_is_named(self, tmp_path):
        path = tmp_path / "a.parquet"
        parquet.write_table(pa.table({"a": ["qqqq", "rrrr"], "b": [1.0, 2.0]}), path, compression="none")
        path.write_bytes(path.read_bytes().replace(b"qqqq", b"q\xff\xffq"))
        with pytest.raises(ValueError, match=r"a\.parquet can't be read as Parquet"):
            read_support(path, {"tabular": (-1,)})

    def test_damage_is_noticed_by_the_checksum_of_a_page(self, tmp_path):
        path = tmp_path / "a.parquet"
        x = np.arange(50) / 7
        parquet.write_table(
            pa.table({"a": x}), path, compression="none", use_dictionary=False, write_page_checksum=True
        )
        path.write_bytes(path.read_bytes().replace(x[30:32].tobytes(), x[31:33].tobytes()))
        with pytest.raises(ValueError, match=r"a\.parquet can't be read as Parquet .*CRC"):
            read_support(path, {"tabular": (-1,)})

    def test_labels_of_an_archive_that_are_no_numbers_are_named(self, tmp_path):
        np.savez(tmp_path / "a.npz", X=np.eye(3), y=np.zeros(3, [("a", "<f4")]))
        with pytest.raises(ValueError, match=r"a\.npz: expected 'y' as 3 labels"):
            read_support(tmp_path / "a.npz", {"tabular": (-1,)})

    def test_samples_without_a_value_are_named_with_their_file(self, tmp_path):
        np.savez(tmp_path / "a.npz", X=np.array([[1.0, 2], [np.nan, np.nan]]))
        with pytest.raises(ValueError, match=r"a\.npz: 1 of 2 samples have no value at all, at \[1\]"):
            read_support(tmp_path / "a.npz", {"tabular": (-1,)})

    def test_other_columns_than_the_supports_are_named_with_their_file(self, tmp_path):
        np.savez(tmp_path / "a.npz", X=np.eye(3))
        support = read_support(np.eye(4), {"tabular": (-1,)}).samples
        with pytest.raises(ValueError, match=r"a\.npz: 'tabular' has 3 columns or channels, .* had 4"):
            read_query(support, tmp_path / "a.npz", {"tabular": (-1,)}, {})


class TestArchives:
    @pytest.mark.parametrize("kind", [np.int64, np.uint64])
    def test_a_class_of_a_huge_number_takes_no_memory(self, kind, tmp_path):
        y = np.array([0, np.iinfo(np.int64).max - 1], kind)
        np.savez(tmp_path / "a.npz", x=np.zeros((2, 8, 8), np.uint8), y=y)
        names, labels, _ = ImageArchive(tmp_path / "a.npz").classes
        assert (names, labels.tolist()) == (["0", str(y[1])], [0, 1])

    def test_texts_beyond_unicode_are_named(self, tmp_path):
        names = np.frombuffer(b"\xff" * 8, "<U2")
        np.savez(tmp_path / "a.npz", x=np.zeros((1, 8, 8), np.uint8), y=np.zeros(1, int), names=names)
        with pytest.raises(ValueError, match=r"a\.npz can't be read as a numpy archive .*'names' holds a text"):
            read_samples(tmp_path / "a.npz", {"image": (1, 8, 8)})

    def test_a_member_that_is_no_array_is_named(self, tmp_path):
        import zipfile

        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", b"no array")
        with pytest.raises(ValueError, match=r"a\.npz can't be read as a numpy archive"):
            read_archive(tmp_path / "a.npz")

    def test_paths_in_an_archive_lead_nowhere(self, tmp_path):
        import zipfile

        np.savez(tmp_path / "a.npz", X=np.eye(3))
        with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
            archive.writestr("../y.npy", b"no array")
            archive.writestr("/tmp/../y.npy", b"no array")
        before = sorted(tmp_path.parent.rglob("*"))
        assert len(read_support(tmp_path / "a.npz", {"tabular": (-1,)}).samples["tabular"]) == 3
        assert sorted(tmp_path.parent.rglob("*")) == before


SILENCE = np.zeros(400, np.int16)


def wav(path, rate=16_000, samples=SILENCE, **fields):
    """A WAV file in which fields of the header are replaced."""
    wavfile.write(path, rate, samples)
    content = bytearray(path.read_bytes())
    places = {"size": (40, "<I"), "width": (32, "<H"), "rate": (24, "<I"), "kind": (20, "<H")}
    for name, value in fields.items():
        at, form = places[name]
        struct.pack_into(form, content, at, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"size": 10_000},
        {"size": 2**32 - 1},
        {"samples": np.zeros(400, np.uint8), "width": 2},
        {"rate": 1},
        {"rate": 4_000_000_000, "samples": np.zeros(400, np.uint8)},
        {"kind": 77},
        {"samples": np.full(400, 1e300)},
    ],
    ids=str,
)
def test_headers_of_recordings_that_lie_are_named(options, tmp_path):
    with pytest.raises(ValueError, match=r"a\.wav "):
        read_samples(wav(tmp_path / "a.wav", **options), {"audio": (1, 16, 16)})


def test_a_recording_that_is_no_wav_is_named(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF\x04\x00\x00\x00WAVE")
    with pytest.raises(ValueError, match=r"a\.wav can't be read as a WAV file"):
        read_wav(tmp_path / "a.wav")


class TestConfigs:
    def read(self, targets, tmp_path, content):
        cases, by_name = targets
        return by_name["config"].read(tmp_path, cases.write_case({"c.yaml": content}, tmp_path), None)

    @pytest.mark.parametrize(
        "content",
        [
            b"name: \xff",
            b"name: [",
            b"name: !!python/object/apply:os.system [id]",
            b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c " + b"[*b, " * 70 + b"]" * 70,
            b"name: " + b"x" * 300_000,
            b"alpha: much",
        ],
        ids=["no UTF-8", "no YAML", "a tag of Python", "nested", "large", "a wrong value"],
    )
    def test_errors_name_the_config(self, content, targets, tmp_path):
        with pytest.raises(ValueError, match=r"c\.yaml"):
            self.read(targets, tmp_path, content)

    @pytest.mark.parametrize("key", ["data", "model", "trainer.logger"])
    def test_other_files_are_not_read_as_parts_and_shown(self, key, targets, tmp_path):
        (tmp_path / "secret.txt").write_text("the secret: 3")
        config = yaml.safe_load(next(iter(targets[1]["config"].seeds[0].values())))
        section, _, name = key.partition(".")
        if name:
            config[section][name] = str(tmp_path / "secret.txt")
        else:
            config[section] = str(tmp_path / "secret.txt")
        with pytest.raises(ValueError, match=r"c\.yaml") as error:
            self.read(targets, tmp_path, yaml.safe_dump(config).encode())
        assert "the secret" not in str(error.value)


class TestCheckpoints:
    def test_weights_ask_for_no_more_memory_than_they_have(self, tmp_path):
        import tracemalloc

        (tmp_path / "a").write_bytes(b"12345")
        tracemalloc.start()
        assert read_bytes(tmp_path / "a", 1 << 32) == b"12345"
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20

    def test_a_support_that_can_not_be_adapted_to_is_named(self, targets, tmp_path, monkeypatch):
        cases, by_name = targets
        cases.write_case(by_name["checkpoint"].seeds[1], tmp_path)

        def diverge(self):
            raise FloatingPointError("the inner loop diverged")

        monkeypatch.setattr("metaad_zoo.zoo.detector_state.DetectorState.adapt", diverge)
        with pytest.raises(ValueError, match="can't adapt to the support set that it holds"):
            load_detector(tmp_path)

    def test_a_config_that_names_no_data_is_named(self, targets, tmp_path):
        cases, by_name = targets
        cases.write_case(by_name["checkpoint"].seeds[0], tmp_path)
        with pytest.raises(ValueError, match="lack figures or data"):
            read_published(tmp_path)
