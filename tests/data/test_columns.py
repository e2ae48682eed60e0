"""CSV and Parquet files: what is read, and what is said where they can't be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from metaad_zoo.data.sources.columns import read_columns
from metaad_zoo.data.sources.table_streams import TableStream

GOOD = "a,b,kind,Anomaly\n1,2.5,x,0\n,4,y,1\n3,inf,x,0\n"


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_labels_text_and_missing_values(tmp_path):
    found = read_columns(write(tmp_path, GOOD))
    assert found.names == ["a", "b"]
    np.testing.assert_array_equal(found.values, np.array([[1, 2.5], [np.nan, 4], [3, np.nan]], np.float32))
    assert found.labels.tolist() == [0, 1, 0]
    assert found.text["kind"].tolist() == ["x", "y", "x"]
    assert "2 values missing or infinite" in found.skipped[0]


def test_rows_with_missing_values_can_be_dropped_or_refused(tmp_path):
    path = write(tmp_path, GOOD)
    found = read_columns(path, missing="drop")
    assert found.values.tolist() == [[1, 2.5]]
    assert found.labels.tolist() == [0]
    assert found.text["kind"].tolist() == ["x"]
    with pytest.raises(ValueError, match=r"t\.csv, row 2, column 'a': the value is missing or infinite \(2 such"):
        read_columns(path, missing="refuse")


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_an_index_that_pandas_wrote_is_no_column(name, tmp_path):
    lines = GOOD.splitlines()
    indexed = "\n".join([f"{name},{lines[0]}", *(f"{i},{line}" for i, line in enumerate(lines[1:]))])
    found, plain = read_columns(write(tmp_path, indexed, "i.csv")), read_columns(write(tmp_path, GOOD))
    assert found.names == plain.names
    np.testing.assert_array_equal(found.values, plain.values)
    assert found.skipped[0] == f"i.csv: column {name!r} is an index and is left out"
    (table, _), *_ = read_table_blocks(tmp_path / "i.csv", tmp_path)
    np.testing.assert_array_equal(table, plain.values)


def read_table_blocks(path, scratch):
    return list(TableStream(path, None, "impute", scratch).blocks(lambda _: None))


def test_parquet_holds_the_same(tmp_path):
    table = pa.table({"a": [1.0, 2.0], "wort": ["ä", "ß"], "label": [True, False]})
    parquet.write_table(table, tmp_path / "t.parquet")
    found = read_columns(tmp_path / "t.parquet")
    assert found.values.tolist() == [[1.0], [2.0]]
    assert found.labels.tolist() == [1, 0]
    assert found.text["wort"].tolist() == ["ä", "ß"]


LATE_TEXT = "a,b\n" + "1,2\n" * 400_000 + "1,oops\n"


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        ("", {}, "is empty"),
        ("a,b\n", {}, "is empty: expected a header and at least one row"),
        ("a,b\n1,2\n3\n", {}, "can't be read.*Expected 2 columns, got 1"),
        ("a,a\n1,2\n", {}, r"several columns named \['a'\]"),
        ("a,b\n1,2\n2,oops\n4,5\n", {}, "column 'b': expected numbers, saw 'oops' in row 2"),
        pytest.param(LATE_TEXT, {}, "column 'b': expected numbers, saw 'oops' in row 400001", id="late text"),
        ("a,label\n1,0\n2,2\n", {}, "column 'label': expected labels 0 .* saw 2 in row 2"),
        ("a,b\n1,2\n", {"label": "bb"}, "unknown label column of .*'bb'; did you mean 'b'"),
        ("a,b\n,2\n", {"missing": "drop"}, "every row has a missing value"),
        ("a,b\n1,2\n", {"missing": "dropp"}, "unknown policy for missing values: 'dropp'; did you mean 'drop'"),
    ],
)
def test_bad_files_are_refused_by_name_row_and_column(tmp_path, text, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_columns(write(tmp_path, text, "größe " + "x" * 100 + ".csv"), **options)


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_columns(tmp_path / "no.csv")
    with pytest.raises(ValueError, match=r"ends in '\.txt': expected one of \.csv, \.parquet"):
        read_columns(write(tmp_path, "a\n1\n", "t.txt"))
    with pytest.raises(ValueError, match="can't be read"):
        read_columns(write(tmp_path, "not parquet", "t.parquet"))
