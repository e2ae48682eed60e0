"""Tables on disk: the same episodes as out of memory, whatever the file."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet

from metaad_zoo.data import TabularEpisodes, big_tables
from metaad_zoo.data.big_tables import memory_needed, read_big_table
from metaad_zoo.data.read import table_sources
from metaad_zoo.data.read.roles import ColumnOptions
from metaad_zoo.data.tables import read_table


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(table_sources, "ROWS", 100)
    monkeypatch.setattr(table_sources, "CSV_BYTES", 4096)


def rows(n=500):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=n), rng.normal(size=n)
    a[::50] = np.nan
    b[7] = np.inf
    kinds = np.array(["red", "blue", "", *(f"rare{i}" for i in range(25))])
    return pa.table(
        {
            "a": a,
            "whole at first": np.where(np.arange(n) < 300, 1.0, 2.5),
            "kind": kinds[rng.integers(len(kinds), size=n)],
            "row": [f"row {i}" for i in range(n)],
            "same": np.full(n, 3),
            "b": b,
            "anomaly": (rng.random(n) < 0.2).astype(int),
        }
    )


def write(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        csv.write_csv(rows(), path)
    elif kind == "parquet":
        parquet.write_table(rows(), path)
    else:
        x = np.stack([np.asarray(rows()[c]) for c in ("a", "b", "same")], 1)
        np.savez(path, X=np.asfortranarray(x), y=np.asarray(rows()["anomaly"]))
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
@pytest.mark.parametrize("missing", ["impute", "drop"])
def test_what_is_mapped_is_what_is_read(tmp_path, kind, missing):
    path = write(tmp_path, kind)
    options = ColumnOptions(missing=missing)
    small, big = read_table(path, options), read_big_table(path, options, tmp_path / "cache")
    assert big.columns == small.columns
    everything = np.arange(len(small.values))
    np.testing.assert_array_equal(big.read(everything, None)["tabular"].numpy(), small.values)
    np.testing.assert_array_equal(np.asarray(big.normal), small.normal)
    np.testing.assert_array_equal(np.asarray(big.anomalous), small.anomalous)
    assert sorted(big.skipped) == sorted(small.skipped)
    assert len(big.skipped) == (5 if kind != "npz" else 2)


def test_episodes_do_not_depend_on_where_the_table_lies(tmp_path):
    path = write(tmp_path, "csv")
    settings = {"dataset": "own", "root": str(path), "max_columns": 5, "cache": str(tmp_path / "cache")}
    small, big = TabularEpisodes(**settings), TabularEpisodes(**settings, memory_limit=0.001)
    assert type(small.tables[0]) is not type(big.tables[0])
    for a, b in zip(small.episodes("test", 5), big.episodes("test", 5), strict=True):
        assert torch.equal(a.query_ids, b.query_ids)
        torch.testing.assert_close(a.support, b.support, equal_nan=True)
        torch.testing.assert_close(a.query, b.query, equal_nan=True)


def test_a_file_is_mapped_once_for_each_of_its_states(tmp_path, monkeypatch):
    path, cache = write(tmp_path, "parquet"), tmp_path / "cache"
    first = read_big_table(path, cache=cache)
    with monkeypatch.context() as patched:
        patched.setattr(big_tables, "TableReader", None)  # would have to be asked for the file's rows
        assert read_big_table(path, cache=cache).folder == first.folder
    parquet.write_table(rows(300), path)
    assert len(read_big_table(path, cache=cache).normal) < len(first.normal)
    assert [p.name for p in cache.iterdir() if not (p / "table.json").is_file()] == []


def test_a_file_without_anomalies_or_labels(tmp_path):
    parquet.write_table(rows().drop_columns(["anomaly"]), tmp_path / "t.parquet")
    table = read_big_table(tmp_path / "t.parquet", cache=tmp_path)
    assert not table.labelled
    assert (len(table.normal), len(table.anomalous), len(np.asarray(table.anomalous))) == (500, 0, 0)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, "csv")
    write_all = big_tables._write

    def slow(*arguments):
        write_all(*arguments)
        os.utime(path, (1, 1))

    monkeypatch.setattr(big_tables, "_write", slow)
    with pytest.raises(ValueError, match=r"t\.csv changed while it was read"):
        read_big_table(path, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


GOOD = "a,b,anomaly\n" + "1,2,0\n" * 2000


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        ("", {}, "is empty"),
        ("a,b\n", {}, "is empty"),
        (GOOD + "1,oops,0\n", {}, "column 'b', row 2001: expected numbers, saw 'oops'"),
        (GOOD + "1,2,7\n", {}, "is column 'anomaly' with the values .'0', '7'. a label"),
        (GOOD + "3,,0\n", {"missing": "refuse"}, "row 2001, column 'b': the value is missing"),
        (GOOD + "1,2\n", {}, "Expected 3 columns, got 2"),
        (GOOD, {}, "all 2 columns are constant"),
        (GOOD, {"label": "anomly"}, "did you mean 'anomaly'"),
        ("a,a\n1,2\n", {}, r"several columns named \['a'\]"),
        ("a\n", {}, "is empty"),
        ("text\n" + "".join(f"row {i}\n" for i in range(100)), {}, "no column to learn from"),
        ("a,b\n1,\n2,\n", {"missing": "drop"}, "every row has a missing value"),
    ],
)
def test_bad_files_leave_nothing_behind(tmp_path, text, options, complaint):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_big_table(tmp_path / "t.csv", ColumnOptions(**options), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_damaged_files_are_named(tmp_path, kind):
    path = write(tmp_path, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (memory_needed, lambda p: read_big_table(p, cache=tmp_path / "cache")):
        with pytest.raises(ValueError, match=rf"t\.{kind}"):
            read(path)


def test_packed_files_are_measured_by_what_they_hold(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", X=np.zeros((1000, 100)), y=np.zeros(1000, int))
    parquet.write_table(pa.table({f"c{i}": np.zeros(10_000) for i in range(10)}), tmp_path / "t.parquet")
    assert memory_needed(tmp_path / "t.npz") > 800_000 > 20 * (tmp_path / "t.npz").stat().st_size
    assert memory_needed(tmp_path / "t.parquet") == 400_000
