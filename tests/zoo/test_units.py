"""The unit of a column or channel changes no score: published models of tables and series, also at large offsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metaad_zoo as mz

MODELS = [name for modality in ("tabular", "sequence") for name in mz.list_checkpoints(modality=modality)]
DETECTORS = {name: mz.load_detector(name) for name in MODELS}


def drawn(name, seed):
    """A support of ten samples and six queries, float64; one column is constant in the support alone."""
    rng = np.random.default_rng(seed)
    (shape,) = DETECTORS[name].input_shapes.values()
    sizes = [4 if size == -1 else size for size in shape]
    support, query = rng.normal(size=(10, *sizes)), rng.normal(size=(6, *sizes))
    if sizes[-1] > 1:
        support[..., -1] = 0.5
        query[:3, ..., -1] = 0.5
    return support, query


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=5)
@given(
    seed=st.integers(0, 1000),
    powers=st.lists(st.integers(-2, 6), min_size=4, max_size=4),
    offset=st.sampled_from([0.0, 1e9]),
)
def test_other_units_give_the_same_scores(name, seed, powers, offset):
    detector = DETECTORS[name]
    support, query = drawn(name, seed)
    scale = 10.0 ** np.array(powers[: support.shape[-1]])
    offsets = np.where(scale < 1, 0.0, offset)  # hundredths beside 1e9 keep too few digits of float64
    expected = detector.fit(support).score(query)
    scores = detector.fit(support * scale + offsets).score(query * scale + offsets)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_a_constant_column_tells_only_whether_a_value_is_another_one(name):
    detector = DETECTORS[name]
    support, query = drawn(name, 0)
    if support.shape[-1] == 1:
        pytest.skip("the model reads one channel, and a support of one constant has nothing to tell")
    scores = detector.fit(support).score(query)
    farther = query.copy()
    farther[..., -1] = 0.5 + 1000 * (query[..., -1] - 0.5)
    np.testing.assert_allclose(detector.score(farther), scores, rtol=1e-6)
