"""The reader of series and its windows against a loop over the file's own rows."""

from __future__ import annotations

import numpy as np
import pytest

from metaad_zoo.data.read import table_sources
from metaad_zoo.data.read.roles import ColumnOptions
from metaad_zoo.data.read.rows import WindowSource
from metaad_zoo.data.read.series import SeriesReader, cut_windows, windows_of

GAPS = (23, 24, 61, 90)
"""Rows, from 0, before which 100 steps are missing."""
N, LENGTH = 100, 8
OPTIONS = ColumnOptions(time="when", label="label")


def series(path, seconds, gaps=GAPS):
    """A CSV of two channels, labels of 0, 1 and none, and a time every 10 s or numbers; and its columns."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(N, 2)).round(4)
    labels = np.where(np.arange(N) < 40, -1, rng.random(N) < 0.05)
    times = 10.0 * np.arange(N)
    for gap in gaps:
        times[gap:] += 1000
    cells = [str(np.datetime64("2024-01-01", "s") + int(t)) for t in times] if seconds else times.tolist()
    rows = [f"{t},{a},{b},{'' if c < 0 else c}" for t, (a, b), c in zip(cells, values, labels, strict=True)]
    path.write_text("\n".join(["when,a,b,label", *rows]) + "\n")
    return values, labels, times + (1704067200 if seconds else 0)


@pytest.fixture(params=[300, 1 << 22])
def block(request, monkeypatch):
    """The reader takes so many bytes at a time, a few rows or all."""
    monkeypatch.setattr(table_sources, "CSV_BYTES", request.param)
    return request.param


@pytest.mark.parametrize("seconds", [True, False])
def test_windows_lie_between_gaps_from_the_start_of_each_part(tmp_path, seconds, block):
    values, labels, times = series(tmp_path / "s.csv", seconds)
    with SeriesReader(tmp_path / "s.csv", OPTIONS) as reader:
        parts = list(windows_of(reader, LENGTH))
    starts, after_gap, unused = [], [], 0
    for first, end in zip((0, *GAPS), (*GAPS, N), strict=True):
        n = (end - first) // LENGTH
        starts += [first + k * LENGTH for k in range(n)]
        after_gap += [first > 0 and k == 0 for k in range(n)]
        unused += (end - first) % LENGTH
    rows = np.array(starts)[:, None] + np.arange(LENGTH)
    assert [start for part in parts for start in part.starts] == starts
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), values[rows])
    np.testing.assert_array_equal(np.concatenate([part.after_gap for part in parts]), after_gap)
    expected = [1 if 1 in c else -1 if set(c) == {-1} else 0 for c in labels[rows].tolist()]
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), expected)
    clock = np.concatenate([part.times for part in parts]).astype("datetime64[s]" if seconds else float)
    np.testing.assert_array_equal(clock.astype(np.int64 if seconds else float), times[rows])
    assert parts[-1].done == 1 if block > 300 else 0.9 < parts[-1].done <= 1
    unit = " s" if seconds else ""
    gap = [f"windows across the gap of 1010{unit} before row {row + 1}" for row in GAPS]
    left_out = {reason: names for (kind, _, reason), names in reader.account.entries.items() if kind == "left out"}
    assert left_out[f"more than 50{unit} from row to row"] == gap
    assert f"{unused} steps fill no window of {LENGTH} and are not used" in left_out


def test_rows_keep_their_numbers_and_gaps_their_places(tmp_path, block):
    values, labels, times = series(tmp_path / "s.csv", True)
    with SeriesReader(tmp_path / "s.csv", OPTIONS) as reader:
        starts = {piece.start for piece in reader.pieces()}
    assert starts >= {0, *GAPS}
    assert (len(starts) > 10) == (block == 300)
    with SeriesReader(tmp_path / "s.csv", OPTIONS) as reader:
        rows, breaks = reader.whole()
        assert reader.schema.step == 10
    assert breaks == list(GAPS)
    for seen, expected in [(rows.values, values), (rows.labels, labels), (rows.times, times)]:
        np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(rows.numbers, np.arange(N) + 1)
    with SeriesReader(tmp_path / "s.csv", OPTIONS) as reader:
        (one,) = windows_of(reader, -1)
    assert (one.values.shape, one.starts, one.labels.tolist(), one.done) == ((1, N, 2), [0], [1], 1)
    assert any("gaps, which are read as single steps" in sentence for sentence in reader.account)
    assert not any("windows across" in sentence for sentence in reader.account)


@pytest.mark.parametrize(
    ("gaps", "length", "said"),
    [(GAPS, 38, f"{N} steps between gaps, but this"), ((), N + 1, f"{N} steps, but this"), ((), N, None)],
)
def test_parts_that_are_all_too_short_are_refused(tmp_path, gaps, length, said, block):
    series(tmp_path / "s.csv", True, gaps)
    with SeriesReader(tmp_path / "s.csv", OPTIONS) as reader:
        if said is None:
            assert [part.starts for part in windows_of(reader, length)] == [[0]]
            return
        with pytest.raises(ValueError, match=f"{said} model reads windows of {length}"):
            list(windows_of(reader, length))


@pytest.mark.parametrize(("own", "usual", "said"), [(10, 15, False), (10, 16, True), (16, 10, True), (15, 10, False)])
def test_steps_of_another_length_than_the_supports_are_named(tmp_path, own, usual, said):
    for name, step in (("support", usual), ("own", own)):
        rows = [f"{np.datetime64('2024-01-01', 's') + step * i},{i % 7}.5" for i in range(40)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["when,a", *rows]) + "\n")
    with SeriesReader(tmp_path / "support.csv") as reader:
        reader.whole()
        schema = reader.schema
    with SeriesReader(tmp_path / "own.csv", schema=schema) as reader:
        reader.whole()
    sentences = [s for s in reader.account if f"steps are {own} s long, those of the support {usual} s" in s]
    assert len(sentences) == said


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["00:00:00", "", "00:00:20", ""], "row 2, column 'when': the time is missing"),
        (["03:00:00", "03:30:00", "02:59:59", "02:00:00"], "row 3.*goes back by 1801 s, as when clocks are put back"),
        (["03:00:00", "03:00:10", "02:30:11", "02:00:00"], "row 3.*goes back by 1799 s, but windows are cut"),
        (["03:00:00", "03:00:10", "01:00:10", "02:00:00"], r"goes back by 7200 s \(2.0 hours\), as when clocks"),
        (["03:00:00", "03:00:11", "01:00:10", "02:00:00"], r"goes back by 7201 s \(2.0 hours\), but windows"),
    ],
)
def test_times_that_are_missing_or_go_back_are_named(tmp_path, times, said):
    rows = [f"{t and f'2024-10-27T{t}'},{i}.5" for i, t in enumerate(times)]
    (tmp_path / "s.csv").write_text("\n".join(["when,a", *rows]) + "\n")
    with SeriesReader(tmp_path / "s.csv", ColumnOptions(time="when")) as reader, pytest.raises(ValueError, match=said):
        reader.whole()


def test_rows_of_one_time_are_counted(tmp_path):
    rows = [f"2024-01-01T00:00:{t:02},{i}.5" for i, t in enumerate([0, 10, 10, 10, 20, 30, 30])]
    (tmp_path / "s.csv").write_text("\n".join(["when,a", *rows]) + "\n")
    with SeriesReader(tmp_path / "s.csv", ColumnOptions(time="when")) as reader:
        assert reader.whole()[1] == []
    assert "s.csv: 3 rows have the time of the row before them" in list(reader.account)


@pytest.mark.parametrize(("steps", "length", "n"), [(7, 7, 1), (13, 7, 1), (14, 7, 2), (5, -1, 1)])
def test_an_array_is_cut_into_windows_from_its_start(steps, length, n):
    values = np.arange(2.0 * steps).reshape(steps, 2)
    size = steps if length == -1 else length
    np.testing.assert_array_equal(cut_windows(values, length), [values[i * size : (i + 1) * size] for i in range(n)])
    with pytest.raises(ValueError, match=f"the series has {steps} steps, but this model reads windows of {steps + 1}"):
        cut_windows(values, steps + 1)


@pytest.mark.parametrize("carry", [False, True])
def test_windows_of_a_folder_carry_the_time_of_their_first_step(tmp_path, carry):
    _, _, times = series(tmp_path / "a.csv", True)
    series(tmp_path / "b.csv", True, gaps=())
    source = WindowSource(tmp_path, {"sequence": (25, 2)}, OPTIONS, carry=carry)
    chunks = list(source.blocks())
    starts = [24, 61, 0, 25, 50, 75]
    files = ["a.csv"] * 2 + ["b.csv"] * 4
    assert [name for chunk in chunks for name in chunk.names] == [
        f"{tmp_path / file}:{start}" for file, start in zip(files, starts, strict=True)
    ]
    assert [chunk.done for chunk in chunks][-1] == 1
    assert max(chunk.done for chunk in chunks if "a.csv" in chunk.names[0]) <= 0.5
    carried = [text for chunk in chunks for text in chunk.carried.get("time", [])]
    first = times[starts[:2]].tolist() + [times[0] + 10 * start for start in starts[2:]]
    assert carried == ([str(np.datetime64(int(t), "s")) for t in first] if carry else [])
