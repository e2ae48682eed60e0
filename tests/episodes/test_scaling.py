"""Normalisation by the support set: against scikit-learn, and what it owes missing values and the query."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import RobustScaler, StandardScaler

from metaad_zoo.episodes import Episode, EpisodeBatch, SupportScaling
from metaad_zoo.episodes.scaling import LIMIT, QUARTILES_OF_NORMAL


@pytest.mark.parametrize(("kind", "reference"), [("standard", StandardScaler()), ("robust", RobustScaler())])
def test_rows_agree_with_scikit_learn(kind, reference):
    g = torch.Generator().manual_seed(0)
    support, query = torch.randn(9, 4, generator=g) * 3 + 1, torch.randn(5, 4, generator=g) + 1
    expected = reference.fit(support.numpy()).transform(query.numpy())
    expected = expected * (QUARTILES_OF_NORMAL if kind == "robust" else 1)
    np.testing.assert_allclose(SupportScaling.fit(support, kind).apply(query), expected, rtol=1e-5)


def test_channels_are_measured_over_all_steps_and_tasks_apart():
    g = torch.Generator().manual_seed(0)
    support, query = torch.randn(3, 5, 7, 2, generator=g) * 4 + 2, torch.randn(3, 6, 7, 2, generator=g)
    scaled = SupportScaling.fit(support, "standard", 1).apply(query)
    for task in range(3):
        flat = support[task].flatten(0, 1)
        expected = (query[task] - flat.mean(0)) / flat.std(0, correction=0)
        torch.testing.assert_close(scaled[task], expected)


@pytest.mark.parametrize("kind", ["standard", "robust"])
def test_missing_values_are_passed_over_and_stay_missing(kind):
    support = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [3.0, torch.nan]])
    scaling = SupportScaling.fit(support, kind)
    scaled = scaling.apply(torch.tensor([[2.0, 5.0], [torch.nan, 1.0]]))
    assert scaled[0, 0] == 0, "the centre of what is there"
    assert scaled[1, 0].isnan()
    assert scaled[:, 1].isnan().all(), "nothing is known of a column that the support lacks"


@pytest.mark.parametrize("kind", ["standard", "robust"])
def test_a_column_that_does_not_vary_keeps_its_units_and_outliers_are_cut_off(kind):
    support = torch.tensor([[7.1, 0.0], [7.1, 1.0], [7.1, 2.0]])
    scaled = SupportScaling.fit(support, kind).apply(torch.tensor([[8.1, 1e6]]))
    torch.testing.assert_close(scaled, torch.tensor([[1.0, LIMIT]]))


@pytest.mark.parametrize("kind", ["standard", "robust"])
def test_a_column_of_zeros_is_scaled_by_a_spread_above_zero(kind):
    """Centre, spread and rounding are all 0 there."""
    support = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]])
    scaling = SupportScaling.fit(support, kind)
    assert scaling.apply(support)[:, 0].tolist() == [0.0, 0.0, 0.0]
    above, below = scaling.apply(torch.tensor([[0.5, 1.0], [-0.5, 1.0]]))[:, 0].tolist()
    assert 0 < above == -below <= LIMIT


@pytest.mark.parametrize("kind", ["standard", "robust"])
@pytest.mark.parametrize(
    ("unit", "dtype"),
    [(1e30, torch.float32), (4e37, torch.float32), (1e-30, torch.float32), (1e200, torch.float64)],
)
def test_scaled_values_do_not_depend_on_the_unit_even_where_squares_would_overflow(unit, dtype, kind):
    g = torch.Generator().manual_seed(0)
    support, query = (torch.randn(n, 3, generator=g, dtype=torch.float64).clamp(-4, 4) for n in (9, 5))
    expected = SupportScaling.fit(support, kind).apply(query)
    scaled = SupportScaling.fit((support * unit).to(dtype), kind).apply((query * unit).to(dtype))
    torch.testing.assert_close(scaled.double(), expected, rtol=1e-5, atol=1e-5)


def test_none_leaves_all_as_it_is():
    x = torch.tensor([[100.0, torch.nan]])
    scaling = SupportScaling.fit(x, "none")
    torch.testing.assert_close(scaling.apply(x), x, equal_nan=True)
    assert (scaling.centre, scaling.spread, scaling.rounding, scaling.varies) == (0, 1, 0, True)


@pytest.mark.parametrize("kind", ["standard", "robust"])
@pytest.mark.parametrize("exponent", [-100, -40, 40, 100])
def test_the_unit_of_values_does_not_matter(kind, exponent):
    """Squares of these vanish or overflow in single precision; some values are missing."""
    g = torch.Generator().manual_seed(0)
    support, query = torch.randn(9, 3, generator=g) + 2, torch.randn(5, 3, generator=g)
    support[4, 1] = query[2, 2] = torch.nan
    expected = SupportScaling.fit(support, kind).apply(query)
    factor = 2.0**exponent
    scaling = SupportScaling.fit(support * factor, kind)
    torch.testing.assert_close(scaling.apply(query * factor), expected, equal_nan=True)
    torch.testing.assert_close(scaling.apply(query * factor, 0.5), expected.clamp(-0.5, 0.5), equal_nan=True)


def test_tables_of_different_width_are_padded_with_what_is_not_there():
    def episode(width: int) -> Episode:
        labels, ids = torch.zeros(2, dtype=torch.long), torch.arange(2)
        return Episode(
            {"tabular": torch.ones(2, width)}, labels, {"tabular": torch.ones(2, width)}, labels, "t", ids, ids
        )

    batch = EpisodeBatch.collate([episode(2), episode(3)])
    assert batch.support["tabular"].shape == batch.query["tabular"].shape == (2, 2, 3)
    assert batch.query["tabular"].isnan().nonzero()[:, [0, 2]].unique(dim=0).tolist() == [[0, 2]]


def test_a_task_of_a_batch_has_the_support_that_it_was_drawn_with():
    """Piles of one to three unlabelled rows, which are padded to three."""

    def episode(labels: list[int]) -> Episode:
        n = len(labels)
        rows, ids = torch.arange(2.0 * n).view(n, 2), torch.arange(n)
        rows[0, 1] = torch.nan
        return Episode({"tabular": rows}, torch.tensor(labels), {"tabular": rows[:2]}, ids[:2] % 2, "t", ids, ids[:2])

    episodes = [episode([0, 0, *[-1] * pile]) for pile in (1, 2, 3)]
    batch = EpisodeBatch.collate(episodes)
    assert batch.support_labels.tolist() == [[0, 0, -1, -1, -1]] * 3
    for drawn, (support, labels, query, query_labels, _) in zip(episodes, batch, strict=True):
        torch.testing.assert_close(support["tabular"], drawn.support["tabular"], equal_nan=True)
        assert labels.tolist() == drawn.support_labels.tolist()
        torch.testing.assert_close(query["tabular"], drawn.query["tabular"], equal_nan=True)
        assert query_labels.tolist() == [0, 1]
    assert [part.tasks for part in batch.parts(2)] == [["t", "t"], ["t"]]
