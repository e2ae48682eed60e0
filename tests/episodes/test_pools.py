"""Properties of drawn episodes, for any spec, class sizes, seed and place in the stream."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaad_zoo.episodes import (
    ANOMALOUS,
    NORMAL,
    UNLABELLED,
    ClassTaskPool,
    Domain,
    DomainTaskPool,
    EpisodeSampler,
    EpisodeSpec,
    NeighbourhoodTaskPool,
    require_disjoint,
)


class Numbers:
    """A source whose sample is its own position, so that a test sees what was drawn."""

    name = "numbers"

    def __init__(self, sizes):
        self.labels = np.repeat(np.arange(len(sizes)), sizes)
        self.class_names = [f"c{i}" for i in range(len(sizes))]

    def read(self, ids, rng):
        return {"tabular": torch.as_tensor(ids, dtype=torch.float64)[:, None]}


specs = st.builds(
    EpisodeSpec,
    support_normal=st.integers(1, 5),
    support_anomalous=st.integers(0, 3),
    support_unlabelled=st.integers(1, 6),
    contamination=st.floats(0, 0.9) | st.tuples(st.floats(0, 0.4), st.floats(0.4, 0.9)),
    query_normal=st.integers(0, 5),
    query_anomalous=st.integers(1, 5),
)


def every_pool(source, classes):
    pools = [ClassTaskPool(source, classes, kind) for kind in ("pair", "rest")]
    features = np.random.default_rng(0).normal(size=(len(source.labels), 2))
    anomalous = np.arange(len(source.labels)) % 2 == 1
    return [
        *pools,
        NeighbourhoodTaskPool(pools[0], features, 1.0),
        DomainTaskPool.from_source(source, classes, anomalous),
    ]


@settings(max_examples=60, deadline=None)
@given(
    spec=specs, sizes=st.lists(st.integers(70, 90), min_size=3, max_size=5), seed=st.integers(0, 2**31), data=st.data()
)
def test_episodes_are_what_was_asked_for(spec, sizes, seed, data):
    source = Numbers(sizes)
    pool = data.draw(st.sampled_from(every_pool(source, source.class_names)))
    split = data.draw(st.sampled_from(["train", "val", "test"]))
    sampler = EpisodeSampler(pool, spec, split, seed)
    epoch, index = data.draw(st.integers(0, 1000)), data.draw(st.integers(0, 10**6))
    episode = sampler.episode(epoch, index)

    counts = {kind: int((episode.support_labels == kind).sum()) for kind in (NORMAL, ANOMALOUS, UNLABELLED)}
    assert counts == {0: spec.support_normal, 1: spec.support_anomalous, -1: spec.support_unlabelled}
    assert int((episode.query_labels == ANOMALOUS).sum()) == spec.query_anomalous
    assert int((episode.query_labels == NORMAL).sum()) == spec.query_normal

    drawn = torch.cat([episode.support_ids, episode.query_ids])
    assert len(drawn.unique()) == len(drawn), "support and query share a sample"
    assert torch.equal(episode.support["tabular"][:, 0], episode.support_ids.double())
    assert torch.equal(episode.query["tabular"][:, 0], episode.query_ids.double())

    again = EpisodeSampler(pool, spec, split, seed).episode(epoch, index)
    assert again.task == episode.task
    assert torch.equal(torch.cat([again.support_ids, again.query_ids]), drawn)


@settings(max_examples=40, deadline=None)
@given(spec=specs, seed=st.integers(0, 2**31), index=st.integers(0, 10**6))
def test_labels_and_contamination_are_true(spec, seed, index):
    source = Numbers([70, 70, 70])
    pool = ClassTaskPool(source, source.class_names, "pair")
    episode = EpisodeSampler(pool, spec, "train", seed).episode(0, index)
    normal_class = source.labels[episode.support_ids[episode.support_labels == NORMAL][0]]
    in_normal_class = torch.as_tensor(source.labels == normal_class)
    assert in_normal_class[episode.query_ids].equal(episode.query_labels == NORMAL)
    assert in_normal_class[episode.support_ids[episode.support_labels == NORMAL]].all()
    assert not in_normal_class[episode.support_ids[episode.support_labels == ANOMALOUS]].any()
    unlabelled = episode.support_ids[episode.support_labels == UNLABELLED]
    low, high = spec.unlabelled_anomalous_range
    assert low <= int((~in_normal_class[unlabelled]).sum()) <= high


def marked_anomalous(samples, donors, rng):
    return {name: -x for name, x in samples.items()}


def of_classes(episode):
    """Where anomalies are drawn from a class of their own: positions from 70 on."""
    return episode.support["tabular"][:, 0] >= 70


def made(episode):
    """Where anomalies are made by :func:`marked_anomalous`."""
    return episode.support["tabular"][:, 0] < 0


@pytest.mark.parametrize(
    ("corrupt", "is_anomalous"), [(None, of_classes), (marked_anomalous, made)], ids=["drawn", "synthetic"]
)
def test_anomalies_stand_anywhere_in_the_unlabelled_support(corrupt, is_anomalous):
    """Three of five in each of the ten possible orders, about equally often: the position says nothing."""
    spec = EpisodeSpec(support_normal=2, support_unlabelled=5, contamination=0.6, query_normal=1, query_anomalous=1)
    domain = Domain("d", Numbers([70, 70]), np.arange(1, 70), np.arange(70, 140))
    orders: Counter[tuple[bool, ...]] = Counter()
    for seed in range(400):
        episode = domain.draw(spec, np.random.default_rng(seed), corrupt)
        orders[tuple(is_anomalous(episode)[episode.support_labels == UNLABELLED].tolist())] += 1
    assert set(orders) == {tuple(i in places for i in range(5)) for places in combinations(range(5), 3)}
    assert max(orders.values()) < 2 * 400 / len(orders)


def test_support_comes_from_the_history_and_made_anomalies_from_the_rest():
    spec = EpisodeSpec(support_normal=3, support_unlabelled=4, contamination=0.5, query_normal=5, query_anomalous=6)
    domain = Domain("d", Numbers([100]), np.arange(60, 100), np.arange(0), support=np.arange(20, 40))
    episode = domain.draw(spec, np.random.default_rng(0), marked_anomalous)
    drawn = torch.cat([episode.support_ids, episode.query_ids])
    is_made = torch.cat([made(episode), episode.query["tabular"][:, 0] < 0])
    assert (len(episode.support_ids), len(episode.query_ids), len(drawn.unique())) == (7, 11, 18)
    assert episode.query_labels.equal(is_made[7:].long())
    assert is_made[:7].tolist().count(True) == 2
    assert ((drawn[:7] >= 20) & (drawn[:7] < 40)).equal(~is_made[:7])
    assert (drawn[7:] >= 60).all()
    assert episode.contamination == 0.5


@pytest.mark.parametrize(
    ("history", "normal", "complaint"),
    [
        (4, 30, "4 normal samples that may be support but an episode draws 5"),
        (5, 15, "d has 15 normal samples but an episode draws 16"),
        (5, 16, None),
    ],
)
def test_a_domain_needs_a_history_and_a_query_of_its_own(history, normal, complaint):
    spec = EpisodeSpec(support_normal=5, query_normal=10, query_anomalous=6)
    domain = Domain("d", Numbers([100]), np.arange(normal), np.arange(0), support=np.arange(50, 50 + history))
    if complaint:
        with pytest.raises(ValueError, match=complaint):
            domain.check(spec, synthetic=True)
    else:
        domain.check(spec, synthetic=True)
        domain.draw(spec, np.random.default_rng(0), marked_anomalous)


def test_a_finer_task_may_need_normals_and_anomalies_from_one_class():
    source, features = Numbers([30, 40]), np.arange(70.0)[:, None]
    pool = NeighbourhoodTaskPool(ClassTaskPool(source, source.class_names), features, 1.0)
    fits, too_large = (EpisodeSpec(support_normal=5, query_normal=10, query_anomalous=n) for n in (15, 16))
    pool.check(fits)
    pool.pool.check(too_large)
    with pytest.raises(ValueError, match="has 30 samples but a finer task may draw normals and anomalies, together 31"):
        pool.check(too_large)


def test_anomalies_of_finer_tasks_are_neighbours_from_either_class():
    source, features = Numbers([50, 50]), np.arange(100.0)[:, None]
    pool = NeighbourhoodTaskPool(ClassTaskPool(source, source.class_names), features, 1.0)
    spec, classes = EpisodeSpec(support_normal=2, query_normal=2, query_anomalous=5), []
    for seed in range(60):
        episode = pool.draw(0, spec, np.random.default_rng(seed))
        anomalies = episode.query_ids[episode.query_labels == ANOMALOUS]
        normals = torch.cat([episode.support_ids, episode.query_ids[episode.query_labels == NORMAL]])
        assert source.labels[normals].tolist() == [0] * 4
        span = np.setdiff1d(np.arange(int(anomalies.min()), int(anomalies.max()) + 1), normals)
        assert len(span) == 5, "the nearest, apart from the normal samples"
        classes.append(int(source.labels[anomalies[0]]))
    assert 15 < sum(classes) < 45


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_out_of_range_are_refused(share):
    source = Numbers([30, 30])
    with pytest.raises(ValueError, match=f"share is {share}"):
        NeighbourhoodTaskPool(ClassTaskPool(source, source.class_names), np.zeros((60, 1)), share)
    with pytest.raises(ValueError, match=f"synthetic anomalies is {share}"):
        DomainTaskPool([Domain("d", source, np.arange(30), np.arange(30, 60))], marked_anomalous, share)


@pytest.mark.parametrize("shape", [(60,), (59, 2)])
def test_neighbourhoods_need_a_row_of_features_for_each_sample(shape):
    source = Numbers([30, 30])
    with pytest.raises(ValueError, match=r"expected features \(n, d\) of 60 samples"):
        NeighbourhoodTaskPool(ClassTaskPool(source, source.class_names), np.zeros(shape), 0.5)


def test_sizes_count_normal_and_anomalous_samples():
    source = Numbers([3, 5])
    classes = ClassTaskPool(source, source.class_names)
    assert classes.sizes() == [("numbers/c0", 3, 0), ("numbers/c1", 5, 0)]
    assert NeighbourhoodTaskPool(classes, np.zeros((8, 1)), 0.5).sizes() == classes.sizes()
    domains = [
        Domain("a", source, np.arange(4), np.arange(4, 6)),
        Domain("b", source, np.arange(2), np.arange(0), np.arange(2, 5)),
    ]
    assert DomainTaskPool(domains).task_name(1) == "b"
    assert DomainTaskPool(domains).sizes() == [("a", 4, 2), ("b", 5, 0)]


def test_small_domains_are_left_out_with_a_reason():
    source, spec = Numbers([100]), EpisodeSpec(support_normal=3, query_normal=2, query_anomalous=2)
    domains = [Domain(f"d{n}", source, np.arange(n), np.arange(50, 52)) for n in (4, 5, 6)]
    pool = DomainTaskPool(domains)
    (reason,) = pool.leave_out_small(spec)
    assert reason.startswith("d4 has 4 normal samples but an episode draws 5")
    assert pool.members == {"d5", "d6"}
    with pytest.raises(ValueError, match="d4 has 4 normal samples"):
        DomainTaskPool(domains[:1]).leave_out_small(spec)


def test_seed_split_epoch_and_index_each_matter():
    source = Numbers([100, 100])
    pool = ClassTaskPool(source, source.class_names)

    def drawn(split="val", seed=0, epoch=0, index=0):
        return tuple(EpisodeSampler(pool, EpisodeSpec(), split, seed).episode(epoch, index).query_ids.tolist())

    assert len({drawn(), drawn(seed=1), drawn(split="test"), drawn(epoch=1), drawn(index=2)}) == 5


def test_evaluation_gives_each_task_its_turn():
    source = Numbers([40] * 4)
    sampler = EpisodeSampler(ClassTaskPool(source, source.class_names), EpisodeSpec(), "test", 0)
    tasks = [sampler.episode(0, i).task for i in range(24)]
    assert len(set(tasks[:12])) == 12
    assert tasks[:12] == tasks[12:]


def test_pair_names_are_all_different_and_true():
    source = Numbers([40] * 4)
    pool = ClassTaskPool(source, source.class_names)
    names = [pool.task_name(i) for i in range(len(pool))]
    assert len(set(names)) == 12
    assert "numbers/c1-vs-c1" not in names
    for i, name in enumerate(names):
        normal, anomalous = pool.ids_of(i)
        assert name == f"numbers/c{source.labels[normal[0]]}-vs-c{source.labels[anomalous[0]]}"


@pytest.mark.parametrize("contamination", [0.0, 0.3, (0.0, 0.4)])
def test_a_small_task_gives_fewer_unlabelled_samples(contamination):
    """Beside 3 normal samples and a query of 4 and 4; anomalies come from the same class in a part of finer tasks."""
    source, spec = Numbers([60] * 3), EpisodeSpec(3, 0, 1000, contamination, 4, 4, fewer_unlabelled=True)
    history = Domain("d", source, np.arange(40), np.arange(60, 90), np.arange(100, 140))
    for pool in [*every_pool(source, source.class_names), DomainTaskPool([history])]:
        with pytest.raises(ValueError, match=r"1000|fewer_unlabelled=true|set finer_tasks=0"):
            EpisodeSampler(pool, replace(spec, fewer_unlabelled=False), "test", 0)
        sampler = EpisodeSampler(pool, spec, "test", 0)
        for i in range(20):
            episode = sampler.episode(0, i)
            drawn = torch.cat([episode.support_ids, episode.query_ids])
            assert len(drawn.unique()) == len(drawn)
            assert episode.support_labels[:3].tolist() == [NORMAL] * 3
            assert 20 <= (episode.support_labels == UNLABELLED).sum() < 1000


def test_finer_tasks_stay_within_their_neighbourhoods():
    source = Numbers([100, 100])
    features = np.arange(200.0)[:, None]  # neighbours are neighbouring numbers
    pool = NeighbourhoodTaskPool(ClassTaskPool(source, source.class_names), features, 1.0)
    spec = EpisodeSpec(support_normal=5, query_normal=5, query_anomalous=6)
    for i in range(50):
        episode = EpisodeSampler(pool, spec, "train", 0).episode(0, i)
        normals = torch.cat([episode.support_ids, episode.query_ids[episode.query_labels == NORMAL]])
        assert int(normals.max() - normals.min()) == 9, "ten nearest numbers are ten in a row"
        assert "/near-" in episode.task


def test_a_class_that_is_too_small_is_named():
    source = Numbers([30, 8, 30])
    pool = ClassTaskPool(source, source.class_names)
    with pytest.raises(
        ValueError, match=r"class 'c1' of numbers has 8 normal samples but an episode draws 15.*lower support_normal"
    ):
        EpisodeSampler(pool, EpisodeSpec(), "train", 0)
    with pytest.raises(ValueError, match=r"class 'c1' of numbers has 8 anomalous samples but an episode draws 10"):
        EpisodeSampler(pool, EpisodeSpec(support_normal=1, query_normal=1), "train", 0)


@pytest.mark.parametrize(
    ("classes", "complaint"),
    [(["c0", "cx"], r"no class \['cx'\]"), (["c0", "c0"], "named twice"), (["c0"], "at least two classes")],
)
def test_a_pool_refuses_classes_it_cannot_serve(classes, complaint):
    with pytest.raises(ValueError, match=complaint):
        ClassTaskPool(Numbers([30, 30]), classes)


def test_splits_that_share_a_class_are_refused():
    source = Numbers([30] * 4)
    train, test = ClassTaskPool(source, ["c0", "c1", "c2"]), ClassTaskPool(source, ["c2", "c3"])
    with pytest.raises(ValueError, match=r"train and test splits share \['numbers/c2'\]"):
        require_disjoint(train=train, test=test)
    require_disjoint(train=ClassTaskPool(source, ["c0", "c1"]), test=test)


def test_synthetic_anomalies_are_drawn_and_asked_for_where_real_ones_are_too_few():
    spec = EpisodeSpec(support_normal=5, query_normal=5, query_anomalous=4)
    few, enough = (Domain("d", Numbers([30]), np.arange(12), np.arange(12, 12 + n)) for n in (3, 8))

    def corrupt(samples, rest, rng):
        return {name: x + 100 for name, x in samples.items()}

    pool = DomainTaskPool([enough], corrupt)
    pool.check(spec)
    episode = pool.draw(0, spec, np.random.default_rng(0))
    anomalies = episode.query["tabular"][episode.query_labels == ANOMALOUS]
    assert ((anomalies >= 12) & (anomalies < 20)).all()
    for refused in (DomainTaskPool([enough], corrupt, share=0.5), DomainTaskPool([few], corrupt)):
        with pytest.raises(ValueError, match="d has 12 normal samples but an episode draws 14"):
            refused.check(spec)
    smaller = replace(spec, query_normal=3)
    pool = DomainTaskPool([few], corrupt)
    pool.check(smaller)
    episode = pool.draw(0, smaller, np.random.default_rng(0))
    anomalies = episode.query["tabular"][episode.query_labels == ANOMALOUS]
    assert ((anomalies >= 100) & (anomalies < 112)).all()
