"""The reader of tables: the same columns and values whatever the form, and what is said of what is left out."""

from __future__ import annotations

import io

import numpy as np
import pandas
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from metaad_zoo.data.read import table_sources
from metaad_zoo.data.read.roles import ColumnOptions, Schema
from metaad_zoo.data.read.table import TableReader
from metaad_zoo.data.read.table_sources import SharedFile, View, open_table
from tests.conftest import opened_files

GOOD = "a,b,kind,Anomaly\n1,2.5,x,0\n,4,y,1\n3,inf,x,0\n"


def write(tmp_path, text, name="t.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_text(text, encoding=encoding)
    return path


def read(source, schema=None, **options):
    with TableReader(source, ColumnOptions(**options), schema) as reader:
        return reader.rows(), reader.schema, list(reader.account)


def test_columns_labels_categories_and_missing_values(tmp_path):
    rows, schema, account = read(write(tmp_path, GOOD))
    assert schema.features == ["a", "b", "kind=x", "kind=y", "kind=(other)"]
    expected = [[1, 2.5, 1, 0, 0], [np.nan, 4, 0, 1, 0], [3, np.nan, 1, 0, 0]]
    np.testing.assert_array_equal(rows.values, expected)
    assert rows.values.dtype == np.float64
    assert rows.labels.tolist() == [0, 1, 0]
    assert "t.csv: 'Anomaly' read as the label" in account[1]
    assert account[0] == "t.csv: 'b' changed: infinite values are read as missing"
    assert account[-1] == "t.csv: 2 values are missing or infinite; they are imputed"


@pytest.mark.parametrize("name", ["t.csv", "t.npz"])
def test_values_that_may_stand_for_an_overflow_are_noted(name, tmp_path):
    values = np.array([[1.0, 2.0], [1e308, 4.5], [3.0, 3.5]])
    if name == "t.csv":
        path = write(tmp_path, "a,b\n" + "".join(f"{a!r},{b!r}\n" for a, b in values.tolist()))
    else:
        np.savez(path := tmp_path / name, X=values)
    rows, schema, account = read(path)
    np.testing.assert_array_equal(rows.values, values)
    first = schema.features[0]
    assert f"{name}: '{first}' read as it is, with values beyond 3.4e+38, which may stand for an overflow" in account


def test_rows_with_missing_values_can_be_dropped_or_refused(tmp_path):
    path = write(tmp_path, GOOD)
    rows, _, account = read(path, missing="drop")
    assert rows.values.tolist() == [[1, 2.5, 1, 0, 0]]
    assert rows.labels.tolist() == [0]
    assert rows.numbers.tolist() == [1]
    assert account[-1] == "t.csv: 2 rows with a missing or infinite value are dropped"
    with pytest.raises(ValueError, match=r"t\.csv, row 2, column 'a': the value is missing or infinite \(2 such"):
        read(path, missing="refuse")


LATE_TEXT = "a,b\n" + "1,2\n" * 400_000 + "1,oops\n"


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        ("", {}, "is empty"),
        ("a,b\n", {}, "is empty: expected a header and at least one row"),
        ("a,b\n1,2\n3\n", {}, "can't be read.*Expected 2 columns, got 1"),
        ("a,a\n1,2\n", {}, r"several columns named \['a'\]"),
        ("a,b\n1,2\n2,oops\n4,5\n", {}, "column 'b', row 2: expected numbers, saw 'oops'"),
        pytest.param(LATE_TEXT, {}, "column 'b', row 400001: expected numbers, saw 'oops'", id="late text"),
        ("a,label\n1,0\n2,2\n", {"label": "label"}, "column 'label', row 2: expected labels 0 .* saw '2'"),
        ("a,label\n1,1\n2,-1\n", {"label": "label"}, "saw '-1' .*scikit-learn's 1 and -1 are 0 and 1"),
        ("a,state\n1,0\n2,1\n", {"label": "stat"}, "unknown label column of .*'stat'; did you mean 'state'"),
        ("a,b\n,2\n", {"missing": "drop"}, "every row has a missing value"),
        ("a,b\n1,2\n", {"missing": "dropp"}, "unknown policy for missing values: 'dropp'; did you mean 'drop'"),
        ("a,y\n1,ok\n2,err\n", {}, r"is column 'y' with the values \['ok', 'err'\] a label.*--label y.*--ignore y"),
        ("day\n2024-01-01\n2024-01-02\n", {}, "no column to learn from; it has .'day'."),
        ('a,b\n"1,234",5\n', {}, r"row 1: '1,234' may mean 1234 \(thousands\) or 1.234 \(decimal comma\).*--decimal"),
        ('a,b\n"1,23","1,234,567"\n', {}, "decimal comma, but .* separates thousands"),
        ("a;b\n1,5;2.5\n2,5;0.25\n", {}, "column 'b', row 1: .* decimal separator ',', saw '2.5'"),
        ("a;b\n1,5;2\n2,5;3\n", {"decimal": "."}, "column 'a', row 1: .* decimal separator '.', saw '1,5'"),
        ("a b c\n1 2 3\n4 5 6.5\n", {}, "columns are separated by spaces"),
    ],
)
def test_bad_files_are_refused_by_name_row_and_column(tmp_path, text, options, complaint):
    path = write(tmp_path, text, "größe " + "x" * 100 + ".csv")
    with pytest.raises(ValueError, match=complaint) as refusal:
        read(path, **options)
    assert path.name in str(refusal.value) or "policy" in complaint


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "no.csv")
    with pytest.raises(ValueError, match=r"ends in '\.txt': expected one of \.csv, \.npz, \.parquet"):
        read(write(tmp_path, "a\n1\n", "t.txt"))
    with pytest.raises(ValueError, match="can't be read"):
        read(write(tmp_path, "not parquet", "t.parquet"))


NUMBERS = np.random.default_rng(0).normal(size=(20, 2)).round(3)
PLAIN = pandas.DataFrame(NUMBERS, columns=["Größe", "b"])


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({}, None),
        ({"encoding": "cp1252"}, "not in UTF-8 and is read as cp1252"),
        ({"encoding": "utf-8-sig"}, None),
        ({"encoding": "utf-16", "sep": "\t"}, "columns are separated by tabs"),
        ({"sep": ";", "decimal": ","}, "numbers have decimal commas"),
        ({"sep": "|"}, "columns are separated by bars"),
        ({"header": False}, "row 1 holds numbers where names are expected"),
        ({"quoting": 1}, None),
        ({"lineterminator": "\r\n"}, None),
    ],
    ids=str,
)
def test_a_csv_however_it_is_written(options, note, tmp_path):
    PLAIN.to_csv(tmp_path / "t.csv", index=False, **options)
    rows, schema, account = read(tmp_path / "t.csv")
    np.testing.assert_allclose(rows.values, NUMBERS)
    assert schema.features == (["f0", "f1"] if options.get("header") is False else ["Größe", "b"])
    assert any(note in line for line in account) if note else not account


def test_the_header_that_pandas_writes_for_unnamed_columns_is_one(tmp_path):
    pandas.DataFrame(NUMBERS).to_csv(tmp_path / "t.csv", index=False)
    rows, schema, account = read(tmp_path / "t.csv")
    assert (schema.features, len(rows.values), account) == (["0", "1"], 20, [])


def test_thousands_are_read_where_the_numbers_leave_no_doubt_or_the_user_says_so(tmp_path):
    path = write(tmp_path, 'a,b\n"1,234,567",1\n"2,000",2\n')
    assert read(path)[0].values[:, 0].tolist() == [1234567, 2000]
    path = write(tmp_path, 'a,b\n"1,234",1\n"2,000",2\n')
    assert read(path, decimal=".")[0].values[:, 0].tolist() == [1234, 2000]
    assert read(path, decimal=",")[0].values[:, 0].tolist() == [1.234, 2]


def column(values):
    return pandas.DataFrame({"x": np.random.default_rng(1).normal(size=len(values)), "c": values})


@pytest.mark.parametrize(
    ("name", "values", "role"),
    [
        ("c", range(1, 9), "it changes by 1 in every row"),
        ("c", np.arange(6) * 0.1, "it changes by 0.1 in every row"),
        ("c", [3, 4, 8, 9, 20, 21, 30, 31], "whole numbers rise in every row"),
        ("c", [3, 1, 2, 0, 7, 6, 5, 4], "it numbers the rows"),
        ("customer_id", [9, 3, 3, 5, 1], "an identifier"),
        ("customer_id", [4711000009, 4711000003, 4711000001, 4711000003], "an identifier"),
        ("customerID", ["k9", "k3", "k4"], "texts that differ from row to row"),
        ("Time (s)", [0.1, 0.5, 0.6, 2.0, 2.0], "a time"),
        ("when", pandas.date_range("2024-01-01", periods=5), "a time"),
        ("when", [f"2024-01-0{i}T00:00:00+01:00" for i in range(1, 6)], "a time"),
        ("Unnamed: 0", [5, 3, 4, 9, 1], "an index"),
    ],
)
def test_counters_clocks_times_and_identifiers_are_no_features(name, values, role, tmp_path):
    frame = column(values).rename(columns={"c": name})
    frame.to_csv(tmp_path / "t.csv", index=False)
    for source in (frame, tmp_path / "t.csv"):
        _, schema, account = read(source)
        assert schema.features == ["x"]
        assert any(repr(name) in line and role in line for line in account), account
        assert read(source, columns=("x", name))[1].features[0] == "x"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("age", [23, 31, 44, 58, 60]),  # in order by chance
        ("number_of_rooms", [3, 1, 2, 5, 4]),
        ("paid", [3, 1, 2, 5, 4]),
        ("time_in_hospital", [3, 1, 2, 5, 4]),
        ("heat_index", [30, 31, 29, 35, 28]),
        ("status", [3, 1, 2, 5, 4]),
        ("valve", [0, 1, 0, 1, 1]),
        ("c", [2, 2, 2, 2, 2]),
        ("c", [1e9, 1e9 + 4, 1e9 + 3, 1e9, 1e9 + 1]),
    ],
)
def test_what_only_looks_like_one_stays(name, values):
    _, schema, account = read(column(values).rename(columns={"c": name}))
    assert schema.features == ["x", name]
    assert any("as constant" in line for line in account) == (len(set(values)) == 1)


@pytest.mark.parametrize("name", ["Class", "target", "is_fraud", "y", "fault", "status", "Label", "ground truth"])
def test_labels_are_known_by_name_and_content(name):
    rows, schema, account = read(column([0, 1, 0, 0]).rename(columns={"c": name}))
    assert (schema.features, schema.label, rows.labels.tolist()) == (["x"], name, [0, 1, 0, 0])
    assert "as the label" in account[0]
    assert read(column([0, 0, 0, 0]).rename(columns={"c": name}))[1].label == name
    rows, schema, _ = read(column([0, 1, 0, 0]).rename(columns={"c": name}), ignore=(name,))
    assert (schema.features, schema.label, rows.labels) == (["x"], None, None)
    assert read(column([0, 1, 0, 0]).rename(columns={"c": name}), columns=("x", name))[1].features == ["x", name]


@pytest.mark.parametrize(
    "words", [("normal", "anomaly"), ("no", "yes"), (False, True), ("0.0", "1.0"), ("Benign", "Attack")]
)
def test_labels_in_words_are_mapped(words):
    rows, _, _ = read(column([words[0], words[1], words[0]]).rename(columns={"c": "label"}))
    assert rows.labels.tolist() == [0, 1, 0]


def test_a_frame_is_read_as_its_file_is(tmp_path):
    frame = column([1, 5, 2, 8]).assign(kind=["u", "v", "u", "v"], label=0, n=pandas.array([1, None, 3, 9], "Int64"))
    frame.to_csv(tmp_path / "t.csv")
    frame.to_parquet(tmp_path / "t.parquet")
    expected, schema, _ = read(frame)
    assert schema.features == ["x", "c", "n", "kind=u", "kind=v", "kind=(other)"]
    equal_sources = [
        tmp_path / "t.csv",
        tmp_path / "t.parquet",
        frame.convert_dtypes(),
        frame.convert_dtypes(dtype_backend="pyarrow"),
        frame.astype({"kind": "category"}),
        frame.set_index("kind", append=True).reset_index("kind")[list(frame.columns)],
        pandas.read_csv(tmp_path / "t.csv"),
        pa.Table.from_pandas(frame),
    ]
    for other in equal_sources:
        rows, own, _ = read(other)
        assert own.features == schema.features
        np.testing.assert_allclose(rows.values, expected.values, rtol=3e-16)  # old pandas miss the last digit of a CSV
        assert rows.labels.tolist() == expected.labels.tolist()


def test_other_rows_are_read_by_the_schema_of_the_support(tmp_path):
    support = column([1, 5, 2, 8]).assign(id=[1, 2, 3, 4], kind=["u", "v", "u", "v"], label=0)
    _, schema, _ = read(support)
    query = pandas.DataFrame({"kind": ["w", "u"], "label": ["7 mm", "?"], "c": [3, 4], "id": [9, 5], "x": [0.5, 0.6]})
    rows, _, account = read(query, schema)
    assert rows.values.tolist() == [[0.5, 3, 0, 0, 1], [0.6, 4, 1, 0, 0]]
    assert rows.labels is None
    assert sorted({line.split("'")[1] for line in account}) == ["id", "label"]
    assert any("scores are not compared with it" in line for line in account)
    labelled, _, _ = read(query.assign(label=["bad", "good"]), schema)
    assert labelled.labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"missing \['c'\], not known \['d'\]"):
        read(query.rename(columns={"c": "d"}), schema)
    with pytest.raises(ValueError, match=r"support set: missing \['c'\]: rename them, or adapt again"):
        read(query.drop(columns="c"), schema)
    with pytest.raises(ValueError, match=r"support set: not known \['d'\]: rename them, ignore the unknown ones with"):
        read(query.assign(d=[1, 2]), schema)
    with pytest.raises(ValueError, match=r"columns \['c'\] hold text or times, but held numbers in the support"):
        read(query.assign(c=["one", "two"]), schema)
    assert Schema.from_json(schema.to_json()) == schema


@pytest.mark.parametrize("clock", ["10:%02d", "01/02/20%02d"])
def test_times_that_are_no_iso_8601_are_left_out_of_the_support_and_of_what_is_scored(clock):
    frame = column([1, 5, 2, 8, 3]).assign(time=[clock % i for i in range(5)])
    _, schema, _ = read(frame)
    rows, _, account = read(frame, schema)
    assert (schema.features, rows.times) == (["x", "c"], None)
    assert account[0].startswith("the DataFrame: 'time' left out: text")


@pytest.mark.parametrize("code", ["007", "1234567", "2024-01-01", "true"])
def test_a_category_stays_one_where_all_cells_look_like_numbers_or_times(code, tmp_path):
    codes = ["007", "1234567", "2024-01-01", "true", "A1", "B2", "C3", "D4", "E5"] * 2
    _, schema, _ = read(column(codes))
    rows, _, _ = read(write(tmp_path, f"x,c\n1,{code}\n2,{code}\n"), schema)
    assert rows.values[:, schema.features.index(f"c={code}")].tolist() == [1, 1]


@pytest.mark.parametrize("cells", [("1", "oops", "3"), ('"1,234"', '"2,345"', "3")])
def test_columns_that_are_left_out_may_hold_what_cannot_be_read(cells, tmp_path):
    path = write(tmp_path, "x,c\n" + "".join(f"{x},{cell}\n" for x, cell in zip((1, 5, 2), cells, strict=True)))
    rows, schema, account = read(path, ignore=("c",))
    assert rows.values.ravel().tolist() == [1, 5, 2]
    assert account == ["t.csv: 'c' left out: as asked for"]
    assert read(path, schema)[2] == account


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.sampled_from(["number", "counter", "constant", "category", "empty", "time", "label", "text"]),
        min_size=1,
        max_size=6,
    ),
    st.integers(3, 30),
    st.integers(0, 1000),
)
def test_blocks_and_whole_and_file_and_frame_agree(tmp_path_factory, kinds, n, seed):
    rng = np.random.default_rng(seed)
    made = {
        "number": lambda: rng.normal(size=n),
        "counter": lambda: np.arange(n) + rng.integers(100),
        "constant": lambda: np.full(n, 2.5),
        "category": lambda: rng.choice(["red", "green"], n),
        "empty": lambda: np.full(n, np.nan),
        "time": lambda: pandas.date_range("2024-01-01", periods=n, freq="min"),
        "label": lambda: (rng.random(n) < 0.2).astype(int),
        "text": lambda: [f"row {i} of {rng.integers(9)}" for i in range(n)],
    }
    frame = pandas.DataFrame({f"c{i}": made[kind]() for i, kind in enumerate(kinds)} | {"x": rng.normal(size=n)})
    path = tmp_path_factory.mktemp("t") / "t.csv"
    frame.to_csv(path, index=False)
    whole, schema, account = read(path)
    with TableReader(path) as reader:
        assert reader.survey() == schema
        blocks = list(reader.blocks())
        assert list(reader.account) == account
    np.testing.assert_array_equal(np.concatenate([b.values for b in blocks]), whole.values)
    of_frame, frame_schema, frame_account = read(frame)
    assert frame_schema == schema
    np.testing.assert_allclose(of_frame.values, whole.values, rtol=1e-15)
    assert [line.replace("the DataFrame", "t.csv") for line in frame_account] == account


def test_a_file_is_opened_once(tmp_path, monkeypatch):
    monkeypatch.setattr(table_sources, "CSV_BYTES", 100)
    PLAIN.to_csv(tmp_path / "t.csv", index=False)
    PLAIN.to_parquet(tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", X=NUMBERS)
    for name in ("t.csv", "t.parquet", "t.npz"):
        with opened_files() as opened, TableReader(tmp_path / name) as reader:
            reader.survey()
            assert sum(len(b.values) for b in reader.blocks()) == 20
        assert opened[str(tmp_path / name)] == 1


def test_rows_without_a_label_are_unlabelled_and_told(tmp_path):
    rows, _, account = read(write(tmp_path, "a,label\n1,0\n2.5,\n3,1\n"))
    assert rows.labels.tolist() == [0, -1, 1]
    assert account[-1] == "t.csv: 1 rows have no label: they count as unlabelled"


def test_a_frame_of_lists_or_bytes_is_refused():
    with pytest.raises(ValueError, match="column 'a': expected numbers or text, saw list"):
        read(pandas.DataFrame({"a": [[1, 2], [3]]}))
    with pytest.raises(ValueError, match="column 'a': expected numbers or text, saw bytes"):
        read(pandas.DataFrame({"a": [b"x", b"y"]}))


def test_a_series_of_pandas_is_a_table_of_one_column():
    rows, schema, _ = read(pandas.Series([1.0, 5.0, 2.0], name="v"))
    assert (schema.features, rows.values.ravel().tolist()) == (["v"], [1, 5, 2])


def test_missing_values_of_a_column_of_objects_are_missing():
    rows, _, _ = read(column(np.array([1, pandas.NA, None, np.nan, 2.5], object)))
    np.testing.assert_array_equal(rows.values[:, 1], [1, np.nan, np.nan, np.nan, 2.5])


def test_columns_of_an_archive_have_no_names(tmp_path):
    np.savez(tmp_path / "t.npz", X=NUMBERS, y=np.zeros(20, int))
    _, schema, _ = read(PLAIN)
    rows, own, _ = read(tmp_path / "t.npz", schema)
    np.testing.assert_array_equal(rows.values, NUMBERS)
    assert own.features == ["f0", "f1"]
    assert rows.labels.tolist() == [0] * 20
    with pytest.raises(ValueError, match=r"t\.npz: the columns of an archive have no names, saw options for \['f0'\]"):
        read(tmp_path / "t.npz", ignore=("f0",))


def test_parquet_holds_text_and_truth(tmp_path):
    table = pa.table({"a": [1.0, 2.0], "wort": ["ä", "ß"], "label": [True, False]})
    parquet.write_table(table, tmp_path / "t.parquet")
    rows, schema, _ = read(tmp_path / "t.parquet")
    assert schema.features == ["a", "wort=ß", "wort=ä", "wort=(other)"]
    assert rows.labels.tolist() == [1, 0]


def test_durations_are_seconds_and_dates_are_times(tmp_path):
    seconds = [3.5, 90.0, 0.25, 7.0]
    frame = pandas.DataFrame(
        {
            "took": pandas.to_timedelta(seconds, unit="s"),
            "when": pandas.to_datetime(["2024-01-01", "2024-01-05", "2024-01-02", "2024-01-03"]),
            "x": [1.0, 5.0, 2.0, 2.5],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    for source in (frame, tmp_path / "t.parquet"):
        rows, schema, account = read(source)
        assert list(schema.features) == ["took", "x"]
        np.testing.assert_array_equal(rows.values, np.stack([seconds, frame["x"]], 1))
        assert any("'when' left out: a time" in sentence for sentence in account)


def test_views_of_one_file_do_not_move_each_other(tmp_path):
    """A thread of a closed CSV reader that still read ahead took rows from the next reader of the same file."""
    path = tmp_path / "t.csv"
    content = b"".join(b"%d,%d\n" % (i, i) for i in range(20_000))
    path.write_bytes(content)
    file = SharedFile(path)
    first, second = View(file), View(file)
    parts = []
    while chunk := first.read(70_000):
        second.read(50_000)
        parts.append(chunk)
    assert b"".join(parts) == content
    assert second.seek(-4, io.SEEK_END) == len(content) - 4
    assert second.read() == content[-4:]
    file.close()
    assert first.read(10) == b"", "a thread that reads ahead may come after the end"


def test_the_rows_after_the_header_was_read_are_all_there(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "0.5,1.5\n" * 30_000)
    for _ in range(200):
        source = open_table(path, series=False)
        source.header()
        assert sum(batch.num_rows for batch, _ in source.batches()) == 30_000
        source.close()
