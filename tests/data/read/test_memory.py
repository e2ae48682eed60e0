"""What is held in memory is bounded: small files that unpack to much are refused before they take it."""

from __future__ import annotations

import io
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from metaad_zoo.cli import main
from metaad_zoo.data.read.archive import map_archive, read_archive
from metaad_zoo.data.read.memory import LIMIT_VARIABLE, memory_limit

ROWS, COLUMNS = 40_000, 5
"""1.5 MiB in float64."""


def csv_file(path):
    path.write_text("a,b,c,d,e\n" + "1,2,3,4,5\n2,3,4,5,7\n" * (ROWS // 2))


def parquet_file(path):
    parquet.write_table(pa.table({f"c{i}": np.arange(ROWS) % (i + 2) for i in range(COLUMNS)}), path)


def archive(path):
    np.savez_compressed(path, X=np.zeros((ROWS, COLUMNS)))


def image_archive(path):
    np.savez_compressed(path, x=np.zeros((3000, 8, 8), np.uint8))


WRITERS = {
    "rows.csv": (csv_file, "tabular"),
    "rows.parquet": (parquet_file, "tabular"),
    "rows.npz": (archive, "tabular"),
    "series.csv": (csv_file, "sequence"),
    "images.npz": (image_archive, "image"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_support_larger_than_the_limit_is_refused(name, tmp_path, monkeypatch, capsys):
    write, modality = WRITERS[name]
    write(tmp_path / name)
    line = ["adapt", "knn", "--support", str(tmp_path / name), "--modality", modality, "--out", str(tmp_path / "out")]
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    assert main(line) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path / name} takes " in error
    assert "the limit is 1 MiB: give fewer samples" in error
    assert not (tmp_path / "out").exists()


def test_the_arrays_that_are_read_count(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(1 << 18), y=np.zeros(3))
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    with pytest.raises(ValueError, match=r"x\.npz takes 2 MiB of memory or more"):
        read_archive(tmp_path / "x.npz")
    assert list(read_archive(tmp_path / "x.npz", ["y"])) == ["y"]


def forged(path, shape, content):
    """An archive whose array says that it has another shape than it holds."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", header.getvalue() + content)


@pytest.mark.parametrize("shape", [(10**13, 6), (2, 3), (5, 3)])
@pytest.mark.parametrize("reads", ["whole", "mapped"])
def test_a_shape_that_is_not_the_arrays_own_is_refused_before_it_is_read(shape, reads, tmp_path, monkeypatch):
    forged(tmp_path / "x.npz", shape, bytes(8 * 12))
    monkeypatch.setattr("metaad_zoo.data.read.archive.shutil.copyfileobj", None)
    with pytest.raises(
        ValueError, match=r"x\.npz can't be read .*X\.npy says that it has shape .*, but it has 96 bytes"
    ):
        read_archive(tmp_path / "x.npz") if reads == "whole" else map_archive(tmp_path / "x.npz", ["X"], tmp_path)


def test_a_bomb_is_not_unpacked_and_large_arrays_are(tmp_path, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((2 << 20, 1), np.uint8))
    noise = np.random.default_rng(0).integers(0, 2, (2 << 20, 1), np.uint8)
    np.savez_compressed(tmp_path / "large.npz", x=noise)
    (tmp_path / "scratch").mkdir()
    np.testing.assert_array_equal(map_archive(tmp_path / "large.npz", ["x"], tmp_path / "scratch")["x"], noise)
    monkeypatch.setattr("metaad_zoo.data.read.archive.shutil.copyfileobj", None)
    with pytest.raises(ValueError, match=r"bomb\.npz takes 2 MiB of memory or more"):
        map_archive(tmp_path / "bomb.npz", ["x"], tmp_path)
    monkeypatch.setattr("metaad_zoo.data.read.archive.shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(ValueError, match=r"large\.npz unpacks to 2 MiB, but .* has 1 MiB left: set TMPDIR"):
        map_archive(tmp_path / "large.npz", ["x"], tmp_path)


@pytest.mark.parametrize("text", ["0", "1.5", "much"])
def test_a_limit_that_is_no_number_is_named(text, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(ValueError, match=f"{LIMIT_VARIABLE}={text}: expected a number of MiB"):
        memory_limit()


@pytest.mark.parametrize("columns", [200, 100_000])
def test_columns_without_end_are_refused_at_once(columns, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("metaad_zoo.data.read.table_sources.MOST_COLUMNS", 150 if columns == 200 else 30_000)
    path = tmp_path / "wide.csv"
    path.write_text(",".join(f"c{i}" for i in range(columns)) + "\n" + ("," * (columns - 1) + "\n") * 3)
    start = time.process_time()
    assert main(["adapt", "knn", "--support", str(path), "--modality", "tabular", "--out", str(tmp_path / "out")]) == 1
    assert "wide.csv has " in (error := capsys.readouterr().err)
    assert "keep those that matter" in error
    assert time.process_time() - start < 5
    arrow = tmp_path / "wide.parquet"
    parquet.write_table(pa.table({f"c{i}": [1.0, 2.0] for i in range(200)}), arrow)
    monkeypatch.setattr("metaad_zoo.data.read.table_sources.MOST_COLUMNS", 150)
    assert main(["adapt", "knn", "--support", str(arrow), "--out", str(tmp_path / "out")]) == 1
    assert "wide.parquet has 200 columns or more" in capsys.readouterr().err


def test_a_cell_without_end_is_named(tmp_path, capsys):
    path = tmp_path / "long.csv"
    path.write_text("a" * 200_000 + ",b\n1,2\n2,3\n")
    assert main(["adapt", "knn", "--support", str(path), "--modality", "tabular", "--out", str(tmp_path / "out")]) == 1
    assert "long.csv can't be read as CSV (field larger than field limit" in capsys.readouterr().err
