"""Times out of texts and cells, steps, gaps and even steps, against values worked out by hand."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from metaad_zoo.data.read.cells import numbers_of, numbers_of_texts, seconds_of
from metaad_zoo.data.read.times import LARGEST, as_seconds, clock_times, gap_length, resampled, time_texts, usual_step

HOUR = 3600.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 24 * HOUR),
        ("1970-01-01T01:00:00Z", HOUR),
        ("1970-01-01 01:00:00+01:00", 0.0),
        ("1970-01-01 00:00:01.5", 1.5),
        ("1970-01-01T00:00:01.123456789Z", 1.123456),
    ],
)
def test_texts_are_seconds_since_1970_in_utc(text, seconds):
    assert as_seconds([text]).tolist() == [seconds]


def test_texts_of_times_can_be_read_again():
    times = np.array([0.0, 1396310700.25])
    assert time_texts(clock_times(times, True)).tolist() == ["1970-01-01T00:00:00.000000", "2014-04-01T00:05:00.250000"]
    assert as_seconds(time_texts(clock_times(times, True))).tolist() == times.tolist()
    assert time_texts(clock_times(np.array([60.0]), True)).tolist() == ["1970-01-01T00:01:00"]
    assert clock_times(times, False) is times
    assert time_texts(times).tolist() == ["0", "1396310700.25"]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([datetime.time(1, 0, 0, 500000), None], pa.time64("us"), [HOUR + 0.5, np.nan]),
        ([datetime.time(0, 1)], pa.time32("s"), [60.0]),
        ([datetime.timedelta(seconds=90)], pa.duration("ns"), [90.0]),
        ([datetime.datetime(1970, 1, 1, 0, 0, 2, 250000), None], pa.timestamp("us"), [2.25, np.nan]),
        ([datetime.date(1970, 1, 2)], pa.date32(), [24 * HOUR]),
        ([datetime.datetime(1970, 1, 1, 1)], pa.timestamp("s", "Europe/Berlin"), [HOUR]),
    ],
)
def test_cells_are_seconds(values, kind, expected):
    np.testing.assert_array_equal(seconds_of(pa.array(values, kind)), expected)


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
def test_numbers_of_slices_keep_their_places(kind):
    column = pa.array([7, None, 3, 4, None, *range(20)], kind)
    for start, stop in ((0, 25), (1, 4), (2, 4), (4, 12), (9, 25)):
        expected = [np.nan if v is None else v for v in column.to_pylist()[start:stop]]
        np.testing.assert_array_equal(numbers_of(column[start:stop]), expected)
    assert numbers_of(pa.nulls(2, kind)).tolist() == pytest.approx([np.nan] * 2, nan_ok=True)


def test_texts_that_are_no_numbers_are_named():
    values, wrong = numbers_of_texts(["1", "1_000", "false", "1.5", "x", "nan"], None)
    np.testing.assert_array_equal(values, [1, np.nan, 0, 1.5, np.nan, np.nan])
    assert wrong.tolist() == [1, 4]
    values, wrong = numbers_of_texts(["1,234.5", "1,5"], ".")
    np.testing.assert_array_equal(values, [1234.5, np.nan])
    assert wrong.tolist() == [1]


def test_the_usual_step_is_the_median_of_steps_forward():
    assert usual_step(np.array([0.0, 1.0, 1.0, 3.0, 6.0])) == 2
    assert usual_step(np.array([0.0, 1.0, 1.0, 0.5, 2.0, 4.0])) == 1.5
    assert np.isnan(usual_step(np.array([2.0, 2.0])))
    assert gap_length(np.array([2.0, 2.0])) == np.inf
    assert gap_length(np.array([0.0, 2.0, 2.0, 4.0, 90.0])) == 10


def test_even_steps_interpolate_between_near_values_only():
    times = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 9.0, 15.0])
    values = np.column_stack([times, np.full(7, np.nan)])
    made, labels = resampled(times, values, None, 1.0)
    assert (made.dtype, labels) == (np.float32, None)
    expected = np.arange(16.0)
    expected[10:15] = np.nan  # six steps from one value to the next; over five it interpolates
    np.testing.assert_array_equal(made[:, 0], expected)
    assert np.isnan(made[:, 1]).all()
    made, _ = resampled(times, values[:, :1], None, 2.0)
    np.testing.assert_array_equal(made[:, 0], np.arange(0.0, 15, 2))


def test_missing_values_at_the_ends_stay_missing():
    made, _ = resampled(np.arange(5.0), np.array([[np.nan], [1], [np.nan], [3], [np.nan]]), None, 1.0)
    np.testing.assert_array_equal(made[:, 0], [np.nan, 1, 2, 3, np.nan])


def test_labels_of_even_steps_are_those_of_the_nearest_points():
    times, labels = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([0, 1, 0, 0, 1])
    _, finer = resampled(times, np.zeros((5, 1)), labels, 0.4)
    assert finer.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1]
    assert labels.tolist() == [0, 1, 0, 0, 1]
    _, coarser = resampled(times, np.zeros((5, 1)), labels, 2.0)
    assert coarser.tolist() == [1, 0, 1], "the point at 1 is as near to 0 as to 2"


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, 1 / (LARGEST + 1)])
def test_steps_that_make_no_series_are_refused(step):
    with pytest.raises(ValueError, match=r"data\.resample"):
        resampled(np.array([0.0, 1.0]), np.zeros((2, 1)), None, step)
