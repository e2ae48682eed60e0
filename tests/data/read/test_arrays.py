"""Arrays and tensors as numpy arrays: what holds no real numbers is refused, what is masked is missing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from metaad_zoo.data.read.arrays import array_of
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
