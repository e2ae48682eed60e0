"""Baselines that weigh unlabelled samples, against references in numpy, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

import metaad_zoo as mz
from metaad_zoo.evaluation.baselines import create_baseline, reads_unlabelled, unlabelled
from metaad_zoo.evaluation.baselines.subspaces import FLOOR, ShrunkCovariance, ledoit_wolf
from metaad_zoo.export import export_detector, load_exported

METHODS = ("pile_knn", "experts")
RNG = np.random.default_rng(0)
SIZE = 5


def rows(n, anomalies=0):
    """Rows of correlated columns on very different scales; the anomalies come last."""
    mix = np.random.default_rng(1).normal(size=(SIZE, SIZE))
    x = RNG.normal(size=(n + anomalies, SIZE))
    x[n:] = 2 * x[n:] + 2.5 * np.sign(RNG.normal(size=(anomalies, SIZE)))
    return (x @ mix) * 10.0 ** np.arange(-1, SIZE - 1) + 3


NORMAL, CLEAN, CONTAMINATED, QUERY = rows(10), rows(100), rows(80, 20), rows(60, 60)


def support_of(pile, normal=NORMAL):
    x = torch.as_tensor(np.concatenate([normal, pile]))
    return {"tabular": x}, torch.tensor([0] * len(normal) + [-1] * len(pile))


def scored(name, pile, query=QUERY, normal=NORMAL, **options):
    scorer = create_baseline(name, **options).adapt(*support_of(pile, normal))
    return scorer.score({"tabular": torch.as_tensor(query)}).numpy()


def logarithms_in_units_of(*parts):
    """A function that standardises columns by median and quartiles and takes signed logarithms."""
    low, centre, high = np.quantile(np.concatenate(parts), [0.25, 0.5, 0.75], axis=0)
    z = lambda x: (x - centre) / ((high - low) / 1.349)  # noqa: E731
    return lambda x: np.sign(z(x)) * np.log1p(np.abs(z(x)))


def order_of(normal, pile):
    own, by_all = logarithms_in_units_of(normal), logarithms_in_units_of(normal, pile)
    near_in_own = cdist(own(pile), own(normal), "cityblock").min(1)
    near = cdist(by_all(pile), by_all(normal), "cityblock").min(1)
    sparse = np.sort(cdist(by_all(pile), by_all(pile), "cityblock"), axis=1)[:, len(pile) // 10]
    total = sum(rankdata(x) for x in (near_in_own, near, sparse))
    return np.lexsort((sparse, near, near_in_own, total))


def pile_neighbour(normal, pile, query, share, k=3):
    units, half = logarithms_in_units_of(normal, pile), pile[order_of(normal, pile)[: round(share * len(pile))]]
    return np.sort(cdist(units(query), units(np.concatenate([normal, half])), "cityblock"), axis=1)[:, k - 1] / SIZE


@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
@pytest.mark.parametrize("pile", [CLEAN, CONTAMINATED], ids=["clean", "contaminated"])
def test_pile_knn_by_its_definition(pile, share):
    np.testing.assert_allclose(scored("pile_knn", pile, share=share), pile_neighbour(NORMAL, pile, QUERY, share))


def test_pile_knn_without_unlabelled_samples_is_the_nearest_neighbour():
    units = logarithms_in_units_of(NORMAL)
    expected = cdist(units(QUERY), units(NORMAL), "cityblock").min(1) / SIZE
    np.testing.assert_allclose(scored("pile_knn", NORMAL[:0]), expected)
    alone = create_baseline("pile_knn").adapt({"tabular": torch.as_tensor(NORMAL)}, torch.full((10,), -1))
    np.testing.assert_allclose(alone.score({"tabular": torch.as_tensor(QUERY)}), expected)


def clipped(logarithms):
    return np.clip(np.sign(logarithms) * np.expm1(np.abs(logarithms)), -10, 10)


def mahalanobis(fit, query):
    covariance = LedoitWolf().fit(fit / SIZE**0.5)
    return np.sqrt(covariance.mahalanobis(query / SIZE**0.5))


@pytest.mark.parametrize("landmarks", [2000, 10, 4])
def test_experts_without_unlabelled_samples_are_relative_to_their_own_distances(landmarks, monkeypatch):
    """Own distances are those of evenly spaced normal samples, where there are more than the landmarks."""
    monkeypatch.setattr(unlabelled, "LANDMARKS", landmarks)
    some = np.arange(min(landmarks, 10)) * 10 // min(landmarks, 10)
    units = logarithms_in_units_of(NORMAL)
    a, q = units(NORMAL), units(QUERY)
    expected = np.zeros(len(q))
    for x, y in ((a, q), (clipped(a), clipped(q))):
        own = np.sort(cdist(x[some], x, "cityblock"), axis=1)[:, 1]
        expected += np.log(cdist(y, x, "cityblock").min(1) / np.sort(own)[(len(own) - 1) // 2] + 1e-3)
    own = ShrunkCovariance.of(torch.as_tensor(clipped(a) / SIZE**0.5)).leave_one_out
    own = own(torch.as_tensor(clipped(a) / SIZE**0.5)).median().item()
    expected += np.log(mahalanobis(clipped(a), clipped(q)) / own + 1e-3)
    np.testing.assert_allclose(scored("experts", NORMAL[:0]), expected / 3, rtol=1e-4, atol=1e-4)


def place(values, own):
    """Rank of each value among the own distances, interpolated."""
    knots, m = np.unique(own), len(own)
    heights = np.array([rankdata(own)[own == x][0] for x in knots]) / m
    inside = np.interp(values, np.concatenate([[0], knots]), np.concatenate([[0], heights]))
    return inside + np.log(np.maximum(values / own.max(), 1)) / m


def test_experts_are_the_mean_of_ranks_among_the_unlabelled_samples():
    units, order = logarithms_in_units_of(NORMAL, CONTAMINATED), order_of(NORMAL, CONTAMINATED)
    a, u, q = (units(x) for x in (NORMAL, CONTAMINATED[order], QUERY))
    half = u[:50]
    parts = []
    for x, y, z in ((a, u, q), (clipped(a), clipped(u), clipped(q))):
        parts.append(place(cdist(z, x, "cityblock").min(1), cdist(y, x, "cityblock").min(1)))
    parts.append(place(*(mahalanobis(clipped(a), clipped(x)) for x in (q, u))))
    memory = np.concatenate([half, a])
    own = cdist(u, memory, "cityblock")
    own[np.arange(50), np.arange(50)] = np.inf
    parts.append(place(np.sort(cdist(q, memory, "cityblock"))[:, 2], np.sort(own)[:, 2]))
    both = torch.as_tensor(clipped(memory) / SIZE**0.5)
    own = np.concatenate(
        [ShrunkCovariance.of(both).leave_one_out(both)[:50], mahalanobis(both * SIZE**0.5, clipped(u[50:]))]
    )
    parts.append(place(mahalanobis(both * SIZE**0.5, clipped(q)), own))
    np.testing.assert_allclose(scored("experts", CONTAMINATED), np.mean(parts, axis=0), rtol=1e-4, atol=1e-4)


def own_scores(name, pile, **options):
    return create_baseline(name, **options).adapt(*support_of(pile)).unlabelled_scores.numpy()


def test_unlabelled_samples_are_scored_by_the_others_in_their_order():
    units, order = logarithms_in_units_of(NORMAL, CONTAMINATED), order_of(NORMAL, CONTAMINATED)[:70]
    distances = cdist(units(CONTAMINATED), units(np.concatenate([CONTAMINATED[order], NORMAL])), "cityblock")
    distances[order, np.arange(70)] = np.inf
    expected = np.sort(distances, axis=1)[:, 2] / SIZE
    np.testing.assert_allclose(own_scores("pile_knn", CONTAMINATED, share=0.7), expected)
    truth = [0] * 80 + [1] * 20
    for name in METHODS:
        assert roc_auc_score(truth, own_scores(name, CONTAMINATED)) > 0.95
        assert own_scores(name, CLEAN[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(12, 4), (5, 30), (3, 2)])
def test_leave_one_out_of_a_covariance_is_that_of_the_others_with_the_shrinkage_of_all(shape):
    x = RNG.normal(size=shape)
    shrinkage, variance = ledoit_wolf(torch.as_tensor(x - x.mean(0)))
    floor = (shrinkage * variance + FLOOR / shape[1]) * np.eye(shape[1])
    expected = []
    for i in range(len(x)):
        others = np.delete(x, i, axis=0)
        covariance = (1 - shrinkage) * np.cov(others.T, bias=True) + floor
        difference = x[i] - others.mean(0)
        expected.append(np.sqrt(difference @ np.linalg.solve(covariance, difference)))
    own = ShrunkCovariance.of(torch.as_tensor(x)).leave_one_out(torch.as_tensor(x))
    np.testing.assert_allclose(own, expected, rtol=1e-5)


@pytest.mark.parametrize("pile", [CLEAN, CONTAMINATED], ids=["clean", "contaminated"])
@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_unlabelled_samples_has_no_influence(name, pile):
    repeated = np.concatenate([pile.round(), pile[:5].round()])  # with ties
    shuffled = np.random.default_rng(2).permutation(repeated)
    np.testing.assert_allclose(scored(name, shuffled), scored(name, repeated), rtol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_each_sample_is_scored_alone(name):
    whole = scored(name, CONTAMINATED)
    np.testing.assert_allclose(scored(name, CONTAMINATED, QUERY[7:8]), whole[7:8])


@pytest.mark.parametrize("pile", [CLEAN, CONTAMINATED], ids=["clean", "contaminated"])
@pytest.mark.parametrize("name", METHODS)
def test_unlabelled_samples_improve_on_few_normal_ones_also_if_contaminated(name, pile):
    def auroc(pile):
        return np.mean(
            [roc_auc_score([0] * 60 + [1] * 60, scored(name, pile, normal=n)) for n in (CLEAN[10:15], CLEAN[20:25])]
        )

    assert auroc(pile) > auroc(pile[:0]) + 0.01


def test_a_stated_contamination_sets_the_share():
    expected = scored("pile_knn", CONTAMINATED, share=0.8)
    told = create_baseline("pile_knn", k=3).expecting(0.2).adapt(*support_of(CONTAMINATED))
    np.testing.assert_allclose(told.score({"tabular": torch.as_tensor(QUERY)}), expected)
    detector = mz.load_detector("pile_knn").fit(NORMAL, unlabelled=CONTAMINATED, contamination=0.2)
    np.testing.assert_allclose(detector.score(QUERY), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="experts has no use for the share"):
        mz.load_detector("experts").fit(NORMAL, unlabelled=CONTAMINATED, contamination=0.2)


@pytest.mark.parametrize("name", METHODS)
def test_far_samples_are_not_tied(name):
    far = NORMAL[:1] + 10.0 ** np.arange(2, 12)[:, None] * np.ones((1, SIZE))
    for pile in (CLEAN[:0], CONTAMINATED):
        assert (np.diff(scored(name, pile, far)) > 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_samples_without_any_value_are_left_out_and_missing_values_are_not(name):
    padded = np.concatenate([CONTAMINATED, np.full((30, SIZE), np.nan)])
    np.testing.assert_allclose(scored(name, padded), scored(name, CONTAMINATED))
    np.testing.assert_allclose(scored(name, padded[100:]), scored(name, padded[:0]))
    holes = np.where(RNG.random(CONTAMINATED.shape) < 0.2, np.nan, CONTAMINATED)
    holes[:, 1] = np.nan
    assert np.isfinite(scored(name, holes)).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("normal", "pile"), [(1, 1), (1, 2), (2, 1), (1, 40), (3, 5)])
def test_few_and_equal_samples(name, normal, pile):
    assert np.isfinite(scored(name, CLEAN[:pile], normal=NORMAL[:normal])).all()
    equal = np.repeat(NORMAL[:1], pile, axis=0)
    low, high = scored(name, equal, np.concatenate([NORMAL[:1], NORMAL[:1] + 5]), np.repeat(NORMAL[:1], normal, axis=0))
    assert low < high


@pytest.mark.parametrize("name", METHODS)
def test_many_unlabelled_samples_are_reduced_to_evenly_spaced_ones(name, monkeypatch):
    monkeypatch.setattr(unlabelled, "LANDMARKS", 25)
    np.testing.assert_allclose(scored(name, CONTAMINATED), scored(name, CONTAMINATED[::4]))
    assert np.isfinite(scored(name, CLEAN[:0], normal=CLEAN)).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_fitted_method_is_exported(name, tmp_path):
    detector = mz.load_detector(name).fit(NORMAL, unlabelled=CONTAMINATED)
    for suffix in ("pt2", "onnx"):
        export_detector(detector, tmp_path / f"graph.{suffix}")
        run, _ = load_exported(tmp_path / f"graph.{suffix}")
        outputs = run({"tabular": QUERY.astype(np.float32)})
        np.testing.assert_allclose(outputs["score"], detector.score(QUERY), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_several_modalities(name):
    g = torch.Generator().manual_seed(0)
    parts = {"image": torch.rand(60, 1, 4, 4, generator=g), "tabular": torch.randn(60, 3, generator=g)}
    labels = torch.tensor([0] * 10 + [-1] * 50)
    parts["tabular"][40:] = torch.nan
    query = {m: x[:8] for m, x in parts.items()}
    assert create_baseline(name).adapt(parts, labels).score(query).isfinite().all()


def test_names_and_options_are_checked():
    assert all(reads_unlabelled(name) for name in METHODS)
    for options, match in [({"share": 0.0}, "share is 0"), ({"share": 1.1}, "at most 1"), ({"k": 0}, "k is 0")]:
        with pytest.raises(ValueError, match=match):
            create_baseline("pile_knn", **options)
