"""In-context learners: what scores must not depend on, and what an untrained detector computes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from metaad_zoo.data.generated_tables import GeneratedTables, TablePrior
from metaad_zoo.episodes import EpisodeBatch, EpisodeSpec
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.learners import ConditionalNeuralProcess, EmbeddingLearner, InContextDetector
from metaad_zoo.learners.column_choice import drop_columns, pick_columns, pick_rows
from metaad_zoo.learners.column_statistics import STATISTICS, ColumnStatistics
from metaad_zoo.learners.set_attention import Attend, AttendOwn
from metaad_zoo.learners.soft_neighbours import LEAST

SHAPES = {"tabular": [-1]}
LABELS = torch.tensor([0, 0, 0, -1, 1, 0])


def learner_of(kind: type[EmbeddingLearner], **options) -> EmbeddingLearner:
    """In double precision, with no layer at its zero start."""
    torch.manual_seed(0)
    learner = kind(input_shapes=SHAPES, **options).double().eval()
    with torch.no_grad():
        for p in learner.parameters():
            p += 0.1 * torch.randn_like(p)
    return learner


def table(columns: int = 7, n: int = 6, m: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Support and query: columns of several units, one constant in the support, one of counts."""
    g = torch.Generator().manual_seed(columns)
    x = torch.randn(n + m, columns, generator=g, dtype=torch.float64) * 10 ** torch.linspace(-1, 2, columns)
    x[:, 0] = x[:, 0].abs().mul(20).round()
    x[:n, 1] = 3.0
    return x[:n], x[n:]


def scores(learner: EmbeddingLearner, support: torch.Tensor, query: torch.Tensor, labels: torch.Tensor = LABELS):
    return learner.adapt({"tabular": support}, labels).score({"tabular": query})


both = pytest.mark.parametrize("kind", [InContextDetector, ConditionalNeuralProcess])


@both
def test_neither_the_order_of_rows_and_columns_nor_absent_columns_change_scores(kind):
    learner, (support, query) = learner_of(kind), table()
    support[2, 3] = query[4, 3] = torch.nan  # missing values are no columns
    expected = scores(learner, support, query)
    assert expected.std() > 1e-3
    rows, columns = torch.randperm(6), torch.randperm(7)
    moved = scores(learner, support[rows][:, columns], query[:, columns], LABELS[rows])
    torch.testing.assert_close(moved, expected)
    absent_support, absent_query = (torch.full((len(x), 4), torch.nan).double() for x in (support, query))
    padded = scores(learner, torch.cat([support, absent_support], 1), torch.cat([query, absent_query], 1))
    torch.testing.assert_close(padded, expected)
    # Of a column that the support lacks nothing is known, whatever the queries hold there.
    padded = scores(learner, torch.cat([support, absent_support], 1), torch.cat([query, absent_query.nan_to_num(5)], 1))
    torch.testing.assert_close(padded, expected)


@both
def test_tables_of_different_width_in_one_batch_are_read_as_alone(kind):
    learner = learner_of(kind, scaling={"tabular": "none"})
    tables, labels = [table(7), table(3)], torch.zeros(6, dtype=torch.long)
    widths = [torch.nn.functional.pad(x, (0, 7 - x.shape[1]), value=torch.nan) for pair in tables for x in pair]
    support, query = torch.stack(widths[::2]), torch.stack(widths[1::2])
    kinds = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1]).expand(2, -1)
    batch = EpisodeBatch({"tabular": support}, labels.expand(2, -1), {"tabular": query}, kinds, ["a", "b"])
    scored = learner.compare(learner.read(support, batch.support_labels), query)
    torch.testing.assert_close(scored, torch.stack([scores(learner, *pair, labels) for pair in tables]))
    assert torch.isfinite(learner.task_losses(batch)).all()


@pytest.mark.parametrize("unit", ["standard", "log_standard", "raw"])
def test_untrained_it_is_the_soft_nearest_neighbour(unit):
    """Against numpy and scipy: L1 distances in the unit, a soft minimum, relative to the support's own."""
    learner = InContextDetector(units=[unit], input_shapes=SHAPES, scaling={"tabular": "none"}).double().eval()
    support, query = table()
    support[:, 1] = support[:, 2] / 2
    x, q = ((np.sign(y) * np.log1p(np.abs(y)) if "log" in unit else y) for y in (support.numpy(), query.numpy()))
    spread = np.ones(7) if unit == "raw" else x.std(0)
    x, q = (np.clip((y - x.mean(0)) / spread, *((-10, 10) if unit != "raw" else (-np.inf, np.inf))) for y in (x, q))
    own = np.mean([cdist(x[[i]], np.delete(x, i, 0), "cityblock").min() for i in range(6)])
    soft = -np.log(np.exp(-3 * cdist(q, x, "cityblock") / own).mean(1)) / 3
    reference = scores(learner, support, query, torch.zeros(6))
    expected = math.exp(1) * (np.log(soft + LEAST) - 0.5)
    np.testing.assert_allclose(reference.numpy(), expected, rtol=1e-5)
    with torch.no_grad():
        learner.log_sharpness += 5  # a hard minimum: the order of 1-NN
    hard = scores(learner, support, query, torch.zeros(6))
    np.testing.assert_array_equal(np.argsort(hard.numpy()), np.argsort(cdist(q, x, "cityblock").min(1)))


@both
@pytest.mark.parametrize("labels", [[0], [-1], [1], [0, 0], [0, 1]])
def test_tiny_and_flat_supports_give_finite_scores(kind, labels):
    learner, (support, query) = learner_of(kind), table()
    for rows in (support[: len(labels)], support[:1].expand(len(labels), -1)):
        assert torch.isfinite(scores(learner, rows, query, torch.tensor(labels))).all()


def test_more_columns_than_the_bound_are_evenly_picked_whatever_their_order():
    learner, (support, query) = learner_of(InContextDetector, max_columns=5), table(12)
    support[:, 1] = support[:, 2] / 2
    reading = learner.read(support, LABELS)
    assert reading["support"].shape == (6, 5)
    order = torch.randperm(12)
    torch.testing.assert_close(scores(learner, support[:, order], query[:, order]), scores(learner, support, query))
    stats = ColumnStatistics.of(torch.cat([support, torch.full((6, 9), torch.nan)], 1), LABELS == 0)
    picked = pick_columns(stats, 5)
    assert sorted(set(picked.tolist())) == sorted(picked.tolist())
    assert max(picked.tolist()) < 12


def test_of_a_large_support_rows_are_picked_by_kind_and_distance_whatever_their_order():
    g = torch.Generator().manual_seed(0)
    x, query = torch.randn(300, 4, generator=g).double(), torch.randn(9, 4, generator=g).double()
    x[5, 2] = torch.nan
    labels = torch.full((300,), -1)
    labels[torch.randperm(300, generator=g)[:40]] = torch.tensor([0] * 10 + [1] * 30)
    stats = ColumnStatistics.of(x, labels != 1)
    for most, counts in ((300, (30, 10, 260)), (100, (30, 10, 60)), (30, (15, 10, 5)), (8, (4, 4, 0)), (1, (0, 1, 0))):
        picked = pick_rows(stats, x, labels, most)
        assert len(set(picked.tolist())) == most
        assert tuple(int((labels[picked] == kind).sum()) for kind in (1, 0, -1)) == counts
    picked = pick_rows(stats, x, torch.zeros(300), 30)
    distance = ((x - stats.centre) / stats.spread).nan_to_num(0).abs().sum(1)
    ranks = distance.argsort().argsort()[picked].sort().values
    assert ranks.tolist() == list(range(9, 300, 10)), "evenly spaced"
    learner, order = learner_of(InContextDetector, max_rows=50), torch.randperm(300, generator=g)
    expected = scores(learner, x, query, labels)
    torch.testing.assert_close(scores(learner, x[order], query, labels[order]), expected)
    adapted = learner.adapt({"tabular": x}, labels)
    assert adapted.notes == ["samples are compared with 50 of the 300 (setting max_rows)"]
    assert learner.adapt({"tabular": x[:50]}, labels[:50]).notes == []
    both = torch.stack([x, x[order]])  # picked for each task alone
    reading = learner.read(both, torch.stack([labels, labels[order]]))
    assert reading["rows"].shape == (2, 6, 50, 4)
    assert not any(tensor.requires_grad for tensor in adapted.reading.values())


@pytest.mark.parametrize("limit", [1, 5_000])
def test_scores_do_not_depend_on_the_parts_that_limit_memory(limit, monkeypatch):
    learner, (support, query) = learner_of(InContextDetector), table(7, 40, 33)
    labels = torch.arange(40) % 7 == 3
    expected = scores(learner, support, query, labels.long())
    monkeypatch.setattr("metaad_zoo.learners.in_context.CELLS_AT_ONCE", limit)
    monkeypatch.setattr("metaad_zoo.learners.soft_neighbours.DISTANCES_AT_ONCE", limit)
    torch.testing.assert_close(scores(learner, support, query, labels.long()), expected)


@pytest.mark.parametrize("present", ["all", "some", "none"])
def test_attention_of_each_token_to_a_set_of_its_own_is_that_to_a_shared_set(present):
    torch.manual_seed(0)
    own, shared = AttendOwn(8, 2).double(), Attend(8, 2).double()
    shared.load_state_dict(own.state_dict())
    tokens, context = torch.randn(3, 5, 8).double(), torch.randn(3, 5, 6, 8).double()
    mask = {"all": torch.ones(3, 1, 6), "some": torch.rand(3, 1, 6).round(), "none": torch.zeros(3, 1, 6)}[
        present
    ].bool()
    expected = shared(tokens.unsqueeze(-2), context, mask.expand(3, 5, 6)).squeeze(-2)
    torch.testing.assert_close(own(tokens, context, mask), expected)


def test_distinct_values_of_a_column_are_counted_among_observed_rows():
    x = torch.tensor([[1.0, 2, torch.nan], [1, 3, torch.nan], [2, torch.nan, torch.nan], [7, 2, torch.nan], [8, 9, 4]])
    stats = ColumnStatistics.of(x, torch.tensor([True, True, True, True, False]))
    assert (stats.tokens()[:2, 6] * torch.tensor([4, 3])).tolist() == [3, 2]
    assert stats.tokens()[2].tolist() == [0] * STATISTICS, "an absent column"


def test_a_labelled_anomaly_raises_scores_beside_it():
    learner, (support, query) = learner_of(InContextDetector, correct=False), table()
    near = query[:1] + 1e-3
    without = scores(learner, support, query, torch.zeros(6))
    labelled = scores(learner, torch.cat([support, near]), query, torch.tensor([0, 0, 0, 0, 0, 0, 1]))
    assert labelled[0] - without[0] > (labelled[1:] - without[1:]).max()


def test_dropped_columns_are_absent_from_support_and_query_alike():
    support, query = (x.float().expand(50, -1, -1) for x in table(12))
    labels = torch.zeros(50, 9, dtype=torch.long)
    batch = EpisodeBatch({"tabular": support}, labels[:, :6], {"tabular": query}, labels, ["t"] * 50)
    torch.manual_seed(0)
    dropped = drop_columns(batch, 0.5)
    absent = dropped.support["tabular"].isnan().all(1)
    assert torch.equal(absent, dropped.query["tabular"].isnan().all(1))
    assert (~absent).sum(1).min() >= 2
    assert 0.2 < float((~absent).all(1).float().mean()) < 0.9
    assert not dropped.support["tabular"].isnan().any(1)[~absent].any()


@both
def test_it_learns_generated_tables(kind):
    """A few steps on generated tables lower the loss on them, and scores are better than chance on others."""
    torch.manual_seed(0)
    learner = kind(input_shapes=SHAPES)
    spec, rng = EpisodeSpec(support_normal=8, query_normal=12, query_anomalous=12), np.random.default_rng(0)
    pool = GeneratedTables(TablePrior(max_columns=6, anomalies=("local", "clustered")), "train", 0)
    batch = EpisodeBatch.collate([pool.draw(i, spec, rng) for i in range(8)])
    optimiser = torch.optim.Adam(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = learner.task_losses(batch).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]
    learner.eval()
    episodes = [pool.draw(i, spec, rng) for i in range(100, 112)]
    values = [auroc(learner.adapt(e.support, e.support_labels).score(e.query), e.query_labels) for e in episodes]
    assert np.mean(values) > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": ["standart"]}, "did you mean"),
        ({"units": []}, "at least one"),
        ({"width": 30}, "divide the width"),
        ({"attention_heads": -1}, "divide"),
    ],
)
def test_bad_settings_of_the_detector_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        InContextDetector(input_shapes=SHAPES, **options)
