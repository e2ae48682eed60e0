"""Experts on normal and unlabelled samples: against independent references, and what scores must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf

from metaad_zoo.data.generated_tables import GeneratedTables, TablePrior
from metaad_zoo.episodes import EpisodeBatch, EpisodeSpec
from metaad_zoo.learners import WeightedExperts
from metaad_zoo.learners.expert_ranks import EXPERTS, Ranks, _mahalanobis, _whitening, digest, expert_ranks

SPEC = EpisodeSpec(
    support_normal=10, support_unlabelled=120, contamination=(0.0, 0.3), query_normal=20, query_anomalous=20
)


def learner_of(**options) -> WeightedExperts:
    """With a network that is not at its zero start."""
    torch.manual_seed(0)
    learner = WeightedExperts(input_shapes={"tabular": [-1]}, scaling={"tabular": "none"}, **options).double().eval()
    with torch.no_grad():
        for p in learner.parameters():
            p += 0.3 * torch.randn_like(p)
    return learner


def task(columns: int = 5, anomalies: int = 20, units: float = 10.0):
    """Normal rows, unlabelled rows of which the last are anomalous, and as many normal and anomalous queries."""
    rng = np.random.default_rng(columns)
    mix = rng.normal(size=(columns, columns))

    def rows(n, shift):
        return torch.as_tensor((rng.normal(size=(n, columns)) + shift) @ mix * units ** np.arange(columns))

    normal, pile = rows(10, 0), torch.cat([rows(120 - anomalies, 0), rows(anomalies, 2)])
    return normal, pile, torch.cat([rows(30, 0), rows(30, 2)])


def scores(learner, normal, pile, query):
    labels = torch.tensor([0] * len(normal) + [-1] * len(pile))
    return learner.adapt({"tabular": torch.cat([normal, pile])}, labels).score({"tabular": query})


def batch_of(n=4, spec=SPEC):
    pool = GeneratedTables(TablePrior(family="wide", tables=50, max_columns=8), "train", 0)
    return EpisodeBatch.collate([pool.draw(i, spec, np.random.default_rng(i)) for i in range(n)])


def signed_log(x):
    return np.sign(x) * np.log1p(np.abs(x))


def in_units(x, reference):
    return np.clip((x - reference.mean(0)) / reference.std(0), -10, 10)


def test_experts_by_their_definitions():
    normal, pile, query = task()
    state, _ = digest(normal, pile)
    n, p, q = (signed_log(x.numpy()) for x in (normal, pile, query))
    units = [in_units(x, np.concatenate([n, p])) for x in (n, p, q)]
    own = np.sort(cdist(units[1], units[1], "cityblock") + np.diag([np.inf] * len(p)), axis=1)
    covariance = LedoitWolf().fit(units[0])
    references = {
        "near_support": (cdist(in_units(x, n), in_units(n, n), "cityblock").min(1) for x in (p, q)),
        "near": (cdist(x, units[0], "cityblock").min(1) for x in units[1:]),
        "mahalanobis": (np.sqrt(covariance.mahalanobis(x)) for x in units[1:]),
        "density_log": (own[:, 11], np.sort(cdist(units[2], units[1], "cityblock"), axis=1)[:, 11]),
    }
    ranks = expert_ranks(state, query).numpy()
    for name, (of_pile, of_query) in references.items():
        expected = np.interp(of_query, np.quantile(of_pile, np.linspace(0, 1, 65)), np.linspace(0, 1, 65))
        expected += np.log(np.maximum(of_query / of_pile.max(), 1))
        np.testing.assert_allclose(ranks[:, EXPERTS.index(name)], expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("columns", [3, 40])
def test_whitening_by_ledoit_and_wolf(columns):
    rng = np.random.default_rng(0)
    x, query = (rng.normal(size=(n, columns)) @ rng.normal(size=(columns, columns)) for n in (15, 9))
    state = _whitening("all", torch.as_tensor(x))
    expected = np.sqrt(LedoitWolf().fit(x).mahalanobis(query))
    np.testing.assert_allclose(_mahalanobis(state, "all", torch.as_tensor(query)), expected, rtol=1e-4)


def test_ranks_of_the_reference_are_uniform_and_grow_beyond_it():
    values = torch.rand(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranks = Ranks.of(values)
    np.testing.assert_allclose(ranks(values)[:, 0], values[:, 0].argsort().argsort() / 499, atol=0.02)
    beyond = ranks(torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64))[:, 0]
    assert beyond[0] >= 1
    assert torch.allclose(beyond.diff(), torch.tensor(math.log(2), dtype=torch.float64))


def test_neither_the_order_of_rows_and_columns_nor_absent_columns_and_rows_change_scores():
    learner, (normal, pile, query) = learner_of(), task()
    expected = scores(learner, normal, pile, query)
    assert expected.std() > 1e-3
    rows, columns = torch.randperm(len(pile)), torch.randperm(5)
    moved = scores(learner, normal.flip(0)[:, columns], pile[rows][:, columns], query[:, columns])
    torch.testing.assert_close(moved, expected)
    wide = [torch.cat([x, torch.full((len(x), 2), torch.nan)], 1) for x in (normal, pile, query)]
    torch.testing.assert_close(scores(learner, *wide), expected)
    padded = torch.cat([pile, torch.full((7, 5), torch.nan)])
    torch.testing.assert_close(scores(learner, normal, padded, query), expected)


def test_each_sample_is_scored_alone_and_missing_values_count_as_usual():
    learner, (normal, pile, query) = learner_of(), task()
    query[3, 2] = torch.nan
    expected = scores(learner, normal, pile, query)
    assert expected.isfinite().all()
    torch.testing.assert_close(scores(learner, normal, pile, query[3:4]), expected[3:4])


@pytest.mark.parametrize("pile", [0, 19])
def test_with_few_unlabelled_samples_it_is_a_mean_of_distances_to_the_normal_ones(pile):
    normal, unlabelled, query = task()
    labels = torch.tensor([0] * 10 + [-1] * pile)
    adapted = learner_of().adapt({"tabular": torch.cat([normal, unlabelled[:pile]])}, labels)

    def own(x):
        return np.sort(cdist(x, x, "cityblock"), axis=1)[:, 1]

    def relative(distances, reference):  # the median of an even number is the lower one, as torch has it
        return np.log1p(distances / np.sort(reference)[(len(reference) - 1) // 2])

    def expected(n, q):
        logs, log_queries = in_units(signed_log(n), signed_log(n)), in_units(signed_log(q), signed_log(n))
        plain, plain_queries = in_units(n, n), in_units(q, n)
        covariance = LedoitWolf().fit(logs)
        scores = (
            relative(cdist(log_queries, logs, "cityblock").min(1), own(logs)),
            relative(cdist(plain_queries, plain, "cityblock").min(1), own(plain)),
            relative(covariance.mahalanobis(log_queries) ** 0.5, covariance.mahalanobis(logs) ** 0.5),
        )
        return np.mean(scores, 0)

    low, middle, high = np.quantile(normal, [0.25, 0.5, 0.75], axis=0)
    robust = [(x.numpy() - middle) / (high - low) * 1.349 for x in (normal, query)]
    both = (expected(normal.numpy(), query.numpy()) + expected(*robust)) / 2
    np.testing.assert_allclose(adapted.score({"tabular": query}), both, atol=1e-3)
    assert len(adapted.notes) == (pile > 0)


def test_unlabelled_samples_alone_count_as_normal():
    normal, _, query = task()
    learner, x = learner_of(), {"tabular": normal}
    of_unlabelled = learner.adapt(x, torch.full((10,), -1)).score({"tabular": query})
    torch.testing.assert_close(
        of_unlabelled, learner.adapt(x, torch.zeros(10, dtype=torch.int64)).score({"tabular": query})
    )


def test_more_unlabelled_samples_than_landmarks_are_reduced_and_noted():
    normal, pile, query = task()
    learner = learner_of(landmarks=40)
    expected = scores(learner, normal, pile[torch.arange(40) * 3], query)
    torch.testing.assert_close(scores(learner, normal, pile, query), expected)
    labels = torch.tensor([0] * 10 + [-1] * 120)
    assert learner.adapt({"tabular": torch.cat([normal, pile])}, labels).notes == [
        "40 of the 120 unlabelled samples are used, evenly spaced in their order"
    ]


def test_a_stated_contamination_changes_scores_and_leaves_the_learner_as_it_is():
    learner, given = learner_of(), task()
    before = scores(learner, *given)
    assert not torch.allclose(scores(learner.expecting(0.0), *given), scores(learner.expecting(0.3), *given))
    torch.testing.assert_close(scores(learner, *given), before)
    with pytest.raises(ValueError, match="contamination is 1"):
        learner.expecting(1.0)


def test_an_untrained_network_refuses_a_stated_contamination():
    with pytest.raises(ValueError, match="not trained"):
        WeightedExperts(input_shapes={"tabular": [-1]}).expecting(0.1)


def test_losses_of_a_batch_are_those_of_its_tasks_and_train_the_weights():
    learner = learner_of(caution=1.0)
    batch = batch_of()
    losses = learner.task_losses(batch)
    alone = torch.cat([learner.task_losses(part) for part in batch.parts(1)])
    torch.testing.assert_close(losses, alone)
    losses.mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.trainable())


def test_training_prefers_the_experts_that_are_right():
    torch.manual_seed(0)
    learner = WeightedExperts(input_shapes={"tabular": [-1]})
    batch = batch_of(8)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = learner.task_losses(batch).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_training_without_unlabelled_samples_says_that_it_learns_nothing():
    learner = learner_of().train()
    with pytest.warns(UserWarning, match="fewer than 20 unlabelled samples .* set data.episode.support_normal"):
        losses = learner.task_losses(batch_of(2, EpisodeSpec(support_normal=10, query_normal=5, query_anomalous=5)))
    assert losses.tolist() == [0, 0]
    losses.sum().backward()  # a batch without unlabelled samples must not end a training


@pytest.mark.parametrize("unlabelled", [0, 60])
def test_many_normal_samples_take_memory_in_proportion(monkeypatch, unlabelled):
    rng = torch.Generator().manual_seed(0)
    normal, pile, query = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for n in (300, unlabelled, 50))
    learner = learner_of()
    expected = scores(learner, normal, pile, query)
    monkeypatch.setattr("metaad_zoo.learners.expert_ranks.OWN", 50)
    monkeypatch.setattr("metaad_zoo.learners.weighted_experts.DISTANCES_AT_ONCE", 2000)
    largest = 0

    def measured(x, y, p=2.0):
        nonlocal largest
        largest = max(largest, len(x) * len(y))
        return between(x, y, p)

    between = torch.cdist
    monkeypatch.setattr(torch, "cdist", measured)
    torch.testing.assert_close(scores(learner, normal, pile, query), expected, rtol=0.1, atol=0.1)
    assert largest <= 300 * max(50, unlabelled), "no matrix of all normal samples with each other"
