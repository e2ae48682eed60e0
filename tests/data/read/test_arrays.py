"""Arrays and tensors as numpy arrays: what holds no real numbers is refused, what is masked is missing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from metaad_zoo.data.read.arrays import array_of
from metaad_zoo.data.read.rows import numbers_of, rows_of_array, series_of, windows_of_array
from metaad_zoo.modality.samples import as_labels, as_samples

TABLE, IMAGE, AUDIO = {"tabular": (2,)}, {"image": (1, 2, 2)}, {"audio": (1, 2, 2)}
REFUSED = {
    "meta": (torch.ones(3, 2, device="meta"), "meta device"),
    "sparse": (torch.eye(2).to_sparse(), r"layout torch.sparse_coo: call .to_dense\(\)"),
    "scipy": (scipy.sparse.csr_matrix(np.eye(2)), r"csr_matrix: call .toarray\(\)"),
    "complex tensor": (torch.ones(3, 2, dtype=torch.complex64), "real numbers, such as"),
    "complex array": (np.ones((3, 2), np.complex64), "real numbers, such as"),
    "ragged": ([[1.0], [1.0, 2.0]], "expected an array, saw list"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_real_numbers_is_refused_for_tables_images_and_labels(kind):
    data, message = REFUSED[kind]
    for shapes in (TABLE, IMAGE, AUDIO):
        with pytest.raises(ValueError, match=message):
            as_samples(data, shapes)
    with pytest.raises(ValueError, match=message):
        as_labels(data, 3)


def test_masked_values_are_missing():
    rows = np.ma.masked_array(np.arange(4, dtype=np.int64).reshape(2, 2), [[True, False], [False, False]])
    expected = np.array([[np.nan, 1], [2, 3]])
    np.testing.assert_array_equal(as_samples(rows, TABLE)["tabular"], expected)
    pixels = np.ma.masked_array(np.full((1, 2, 2), 0.5), [[[True, False], [False, False]]])
    with pytest.raises(ValueError, match="NaN or infinity in sample"):
        as_samples(pixels, IMAGE)
    assert array_of(np.ma.masked_array([1, 2])).dtype == np.int64, "without a mask the type stays"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_floats_that_numpy_lacks_are_widened(dtype):
    x = torch.tensor([[0.5, 0.25]]).to(dtype)
    np.testing.assert_array_equal(array_of(x), [[0.5, 0.25]])


@pytest.mark.parametrize("kind", ["float16", "float32", "bool", "uint8", "int8", "int16", "int64", "float64"])
def test_numbers_are_a_copy_in_the_precision_that_they_need(kind):
    x = np.array([[0, 1]], kind)
    taken = numbers_of(x)
    single = kind in ("float16", "float32", "bool", "uint8", "int8")
    assert taken.dtype == (np.float32 if single else np.float64)
    np.testing.assert_array_equal(taken, x)
    assert not np.shares_memory(taken, x)


@pytest.mark.parametrize(
    ("take", "size", "shape", "expected"),
    [
        (rows_of_array, (4, 3), (3,), (4, 3)),
        (rows_of_array, (4, 3), (-1,), (4, 3)),
        (rows_of_array, (4, 3), (2,), r"shape \(n, 2\), saw \(4, 3\)"),
        (rows_of_array, (4, 3, 1), (-1,), r"shape \(n, D\), saw \(4, 3, 1\)"),
        (windows_of_array, (4, 3, 2), (3, 2), (4, 3, 2)),
        (windows_of_array, (4, 3, 2), (-1, -1), (4, 3, 2)),
        (windows_of_array, (4, 3), (3, 1), (4, 3, 1)),
        (windows_of_array, (4, 3), (-1, 1), (4, 3, 1)),
        (windows_of_array, (3, 3), (3, 3), r"shape \(n, 3, 3\), saw \(3, 3, 1\)"),
        (windows_of_array, (4, 3), (2, 3), "one series of 4 steps and 3 channels"),
        (windows_of_array, (4, 3), (2, -1), "one series of 4 steps and 3 channels"),
        (windows_of_array, (4, 3), (2, 2), r"shape \(n, 2, 2\), saw \(4, 3, 1\)"),
        (windows_of_array, (4, 3, 2), (-1, 1), r"shape \(n, any, 1\), saw \(4, 3, 2\)"),
        (windows_of_array, (4,), (-1, 1), r"saw \(4,\)"),
    ],
)
def test_arrays_of_rows_and_windows_have_the_models_shape(take, size, shape, expected):
    x = np.arange(np.prod(size), dtype=float).reshape(size)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            take(x, shape)
    else:
        np.testing.assert_array_equal(take(x, shape), x.reshape(expected))


def test_an_array_is_one_series_without_gaps():
    for size, shape in [((4,), (4, 1)), ((4, 2), (4, 2))]:
        values, breaks = series_of(np.ones(size))
        assert (values.shape, breaks) == (shape, [])
    with pytest.raises(ValueError, match=r"saw \(4, 2, 1\)"):
        series_of(np.ones((4, 2, 1)))
