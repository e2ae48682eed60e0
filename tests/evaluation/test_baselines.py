"""Every registered baseline behind its two calls, and each against an independent reference."""

from __future__ import annotations

import copy
import importlib.util
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import Ridge
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

from metaad_zoo.backbones.window_statistics import WindowStatistics
from metaad_zoo.evaluation.baselines import (
    FlagEverything,
    NearestNeighbour,
    OnEmbedding,
    OnNetwork,
    create_baseline,
    list_baselines,
    modalities_of,
    pyod_detectors,
    reads_unlabelled,
    register_baseline,
)
from metaad_zoo.evaluation.baselines.series_experts import EXPERTS, _Experts
from metaad_zoo.learners.network import EpisodeNetwork

SHAPES = {"image": (1, 6, 6), "sequence": (24, 2), "tabular": (8,)}
CASES = [(name, m) for m in SHAPES for name in list_baselines(modality=m)]
KNOWS_NOTHING = ("flag_everything", "random")
NEEDS_ONE = ("knn", "pile_knn", "ocsvm", "linear_ar", "pca_subwindows", "series_experts", *KNOWS_NOTHING)
HAS_PYOD = importlib.util.find_spec("pyod") is not None


def draw(modality, n, seed=0):
    """Noise around two patterns that each sample mixes in its own way."""
    g, size = torch.Generator().manual_seed(seed), math.prod(SHAPES[modality])
    steps = torch.linspace(0, 6, size)
    mixed = torch.randn(n, 2, generator=g) @ torch.stack([steps.sin(), (3 * steps).cos()])
    return {modality: (mixed + 0.5 * torch.randn(n, size, generator=g)).view(n, *SHAPES[modality])}


def scored(name, support, query, labels=None, **options):
    n = len(next(iter(support.values())))
    labels = torch.zeros(n, dtype=torch.int64) if labels is None else labels
    return create_baseline(name, **options).adapt(support, labels).score(query)


@pytest.mark.parametrize("k", [2, 3, 5, 50])
@pytest.mark.parametrize(("name", "modality"), CASES)
def test_scores_are_finite_repeatable_and_of_each_sample_alone(name, modality, k):
    support, query = draw(modality, k), draw(modality, 7, seed=1)
    scores = scored(name, support, query)
    assert scores.shape == (7,)
    assert scores.isfinite().all()
    adapted = create_baseline(name).adapt(support, torch.zeros(k, dtype=torch.int64))
    assert torch.equal(scores, adapted.score(query))
    alone = torch.cat([adapted.score({modality: row[None]}) for row in query[modality][:3]])
    torch.testing.assert_close(scores[:3], alone)
    assert adapted.score({modality: query[modality][:0]}).shape == (0,)


@pytest.mark.parametrize("k", [2, 5, 50])
@pytest.mark.parametrize(("name", "modality"), [c for c in CASES if c[0] not in KNOWS_NOTHING])
def test_a_far_outlier_scores_higher_than_typical_samples(name, modality, k):
    typical = draw(modality, 20, seed=1)[modality]
    query = {modality: torch.cat([typical, 9 * typical[:3].sign()])}
    scores = scored(name, draw(modality, k), query)
    if name == "iforest" and k == 2:
        assert scores.unique().numel() == 1  # as its docstring says
    else:  # few random cuts find a single outlier by luck
        outliers = scores[20:].mean() if name == "iforest" else scores[20:].min()
        assert outliers > scores[:20].median()


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_missing_values_constant_columns_and_equal_samples(name, modality):
    support, query = draw(modality, 5)[modality], draw(modality, 6, seed=1)[modality]
    support[..., 0], support[0, ..., 1], query[1, ..., 1], query[2] = 3.0, torch.nan, torch.nan, torch.nan
    assert scored(name, {modality: support}, {modality: query}).isfinite().all()
    equal = {modality: query[3:4].expand(5, *query.shape[1:])}
    scores = scored(name, equal, {modality: torch.cat([query[3:4], query[3:4] + 5])})
    assert scores.isfinite().all()
    if name not in (*KNOWS_NOTHING, "iforest"):
        assert scores[1] > scores[0]


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_known_anomalies_of_the_support_do_not_count(name, modality):
    support, odd, query = (draw(modality, n, seed=i)[modality] for i, n in enumerate((5, 2, 4)))
    both, labels = torch.cat([support, 30 + odd]), torch.tensor([0, -1, 0, 0, -1, 1, 1])
    scores = scored(name, {modality: both}, {modality: query}, labels)
    without = labels[:5] if reads_unlabelled(name) else None  # any other takes unlabelled samples as normal
    torch.testing.assert_close(scores, scored(name, {modality: support}, {modality: query}, without))


@pytest.mark.parametrize(("name", "modality"), CASES)
def test_one_support_sample_is_scored_by_or_refused(name, modality):
    support, query = draw(modality, 1), draw(modality, 3, seed=1)
    if name in NEEDS_ONE:
        assert scored(name, support, query).isfinite().all()
    else:
        with pytest.raises(ValueError, match=f"{name} needs at least 2 support samples.*saw 1"):
            scored(name, support, query)


@pytest.mark.parametrize("name", [n for n in list_baselines() if set(SHAPES) <= set(modalities_of(n))])
def test_several_modalities_are_read_together(name):
    support, query = ({m: x for mm in SHAPES for m, x in draw(mm, n, i).items()} for i, n in enumerate((5, 4)))
    assert scored(name, support, query).shape == (4,)


def rows(k=12, d=4):
    """Correlated rows and queries, and the options that leave them as they are."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(k, d)) @ mix, rng.normal(size=(9, d)) @ mix * 2


REFERENCES = {
    "knn": lambda a, b: NearestNeighbors(n_neighbors=3).fit(a).kneighbors(b)[0][:, -1],
    "lof": lambda a, b: -LocalOutlierFactor(n_neighbors=min(10, len(a) - 1), novelty=True).fit(a).score_samples(b),
    "ocsvm": lambda a, b: -OneClassSVM(kernel="rbf", gamma="scale", nu=0.1).fit(a).decision_function(b),
    "iforest": lambda a, b: -IsolationForest(n_estimators=100, random_state=0).fit(a).score_samples(b),
    "mahalanobis": lambda a, b: np.sqrt(LedoitWolf().fit(a).mahalanobis(b)),
}


@pytest.mark.parametrize("shape", [(12, 4), (5, 30)])
@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_agrees_with_scikit_learn(name, shape):
    support, query = rows(*shape)
    options = {"k": 3} if name == "knn" else {}
    scores = scored(
        name, {"tabular": torch.tensor(support)}, {"tabular": torch.tensor(query)}, standardise="none", **options
    )
    np.testing.assert_allclose(scores, REFERENCES[name](support, query), rtol=2e-4)


@pytest.mark.parametrize("shape", [(12, 4), (5, 30)])
def test_pca_agrees_with_scikit_learn(shape):
    support, query = rows(*shape)
    model = PCA(n_components=0.9, svd_solver="full").fit(support)
    expected = np.linalg.norm(query - model.inverse_transform(model.transform(query)), axis=1)
    scores = scored("pca", {"tabular": torch.tensor(support)}, {"tabular": torch.tensor(query)}, standardise="none")
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_ecod_by_hand():
    """Support 1, 2, 2, 4: of the five numbers with the scored one, so many are as small or as large."""
    support = {"tabular": torch.tensor([[1.0], [2.0], [2.0], [4.0]])}
    scores = scored("ecod", support, {"tabular": torch.tensor([[0.0], [2.0], [3.0], [9.0]])})
    np.testing.assert_allclose(scores, -np.log([1 / 5, 4 / 5, 2 / 5, 1 / 5]))


def windows(k):
    rng = np.random.default_rng(k)
    t = np.arange(40)[:, None] + rng.uniform(0, 9, (k, 1, 1))
    return np.sin(t / [2.0, 3.0]) + 0.1 * rng.normal(size=(k, 40, 2))


def standard(support, *queries):
    mean, spread = support.mean((0, 1)), support.std((0, 1))
    return [(x - mean) / spread for x in (support, *queries)]


def test_linear_ar_agrees_with_a_regression_step_by_step():
    support, query = windows(3), windows(4)
    a, b = standard(support, query)

    def steps(x):
        past = [[x[i, t - 5 : t].T.ravel() for t in range(5, 40)] for i in range(len(x))]
        return np.array(past), x[:, 5:]

    past, following = steps(a)
    model = Ridge(alpha=1.0).fit(past.reshape(-1, 10), following.reshape(-1, 2))
    past, following = steps(b)
    expected = [np.mean((following[i] - model.predict(past[i])) ** 2) for i in range(4)]
    scores = scored("linear_ar", {"sequence": torch.tensor(support)}, {"sequence": torch.tensor(query)})
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize(("pool", "pooled"), [("max", np.max), ("mean", np.mean)])
def test_pca_subwindows_agrees_with_scikit_learn(pool, pooled):
    support, query = windows(3), windows(4)
    a, b = standard(support, query)
    cut = [[x[i, t : t + 8].T.ravel() for i in range(len(x)) for t in range(33)] for x in (a, b)]
    model = PCA(n_components=0.9, svd_solver="full").fit(np.array(cut[0]))
    residual = np.array(cut[1]) - model.inverse_transform(model.transform(np.array(cut[1])))
    expected = pooled(np.sqrt((residual**2).mean(1)).reshape(4, 33), axis=1)
    samples = {"sequence": torch.tensor(support)}, {"sequence": torch.tensor(query)}
    np.testing.assert_allclose(scored("pca_subwindows", *samples, window=8, pool=pool), expected, rtol=1e-6)


def test_one_piece_of_a_window_is_its_mean():
    """Windows of 6 steps: a single forecast, and a single sub-window; the channel without values does not count."""
    support, query = (x[:, :6] for x in (windows(30), windows(4)))
    query[0, :, 1] = np.nan
    samples = {"sequence": torch.tensor(support)}, {"sequence": torch.tensor(query)}
    a, b = standard(support, np.where(np.isnan(query), support.mean((0, 1)), query))
    model = Ridge(alpha=1.0).fit(a[:, :5].transpose(0, 2, 1).reshape(30, -1), a[:, 5])
    squares = (b[:, 5] - model.predict(b[:, :5].transpose(0, 2, 1).reshape(4, -1))) ** 2
    expected = [squares[0, 0], *squares[1:].mean(1)]
    np.testing.assert_allclose(scored("linear_ar", *samples), expected, rtol=1e-6)
    cut = [x.transpose(0, 2, 1).reshape(len(x), -1) for x in (a, b)]
    pca = PCA(n_components=0.9, svd_solver="full").fit(cut[0])
    expected = np.sqrt(((cut[1] - pca.inverse_transform(pca.transform(cut[1]))) ** 2).mean(1))
    for pool in ("mean", "max"):
        np.testing.assert_allclose(scored("pca_subwindows", *samples, window=6, pool=pool), expected, rtol=1e-6)
    adapted = create_baseline("linear_ar").adapt(samples[0], torch.zeros(30))
    units = adapted.units(samples[1])
    np.testing.assert_allclose(adapted.embed(units), b.reshape(4, -1), atol=1e-6)
    np.testing.assert_allclose(adapted.embed(), a.reshape(30, -1), atol=1e-6)
    assert adapted.score({"sequence": samples[1]["sequence"][:0]}).shape == (0,)


def standard_features(support, query, least):
    centre, spread = support.mean(0), support.std(0) + least
    return (support - centre) / spread, (query - centre) / spread


def test_each_expert_on_series_agrees_with_a_computation_step_by_step():
    support, query = windows(6), windows(4)
    a, b = standard(support, query)
    statistics = [WindowStatistics(2)(torch.tensor(x)).numpy() for x in (a, b)]
    spectra = [
        np.log1p(np.abs(np.fft.rfft(x - x.mean(1, keepdims=True), axis=1))[:, 1:]).reshape(len(x), -1) for x in (a, b)
    ]
    near, query_statistics = standard_features(*statistics, 0.05)
    covariance = LedoitWolf().fit(near)
    _, query_spectra = standard_features(*spectra, 0.1)
    past = [np.array([[x[i, t - 5 : t].T.ravel() for t in range(5, 40)] for i in range(len(x))]) for x in (a, b)]
    model = Ridge(alpha=1.0).fit(past[0].reshape(-1, 10), a[:, 5:].reshape(-1, 2))
    residuals = [x[:, 5:] - np.array([model.predict(p) for p in rows]) for x, rows in zip((a, b), past, strict=True)]
    usual_residual = np.sqrt((residuals[0] ** 2).mean((0, 1))) + 0.01
    relative = np.abs(residuals[1]) / usual_residual
    expected = {
        "nearest": cdist(query_statistics, near).min(1),
        "mahalanobis": np.sqrt(covariance.mahalanobis(query_statistics)),
        "roughness": np.abs(query_statistics[:, 5::10]).mean(1),
        "spectrum": np.sqrt((query_spectra**2).mean(1)),
        "forecast_channels": relative.mean(1).mean(1),
        "forecast_steps": relative.mean(2).max(1),
    }
    scores = _Experts.of(torch.tensor(a)).scores(torch.tensor(b))
    assert tuple(expected) == EXPERTS
    for name, values in zip(EXPERTS, scores.T, strict=True):
        np.testing.assert_allclose(values, expected[name], rtol=2e-4, err_msg=name)


def test_the_mean_of_experts_takes_each_in_the_units_of_windows_that_it_was_not_fitted_to():
    support, query = windows(10), windows(4)
    a, b = (torch.tensor(x) for x in standard(support, query))
    own = torch.cat(
        [_Experts.of(torch.cat([a[: 2 * i], a[2 * i + 2 :]])).scores(a[2 * i : 2 * i + 2]) for i in range(5)]
    )
    centre = own.sort(0).values[4]
    z = (_Experts.of(a).scores(b) - centre) / (own.std(0, correction=0) + 0.02 * centre + 1e-6)
    expected = (z.sign() * (1 + z.abs()).log()).mean(1)
    scores = scored("series_experts", {"sequence": torch.tensor(support)}, {"sequence": torch.tensor(query)})
    torch.testing.assert_close(scores, expected)
    with pytest.raises(ValueError, match="did you mean 'spectrum'"):
        create_baseline("series_experts", weights={"spectrun": 1.0})
    with pytest.raises(ValueError, match="one of them above 0"):
        create_baseline("series_experts", weights={"spectrum": 0.0})
    with pytest.raises(ValueError, match="more than 5 steps, saw sequences of 4"):
        scored("series_experts", *[{"sequence": torch.tensor(x)[:, :4]} for x in (support, query)])


@pytest.mark.parametrize(("shots", "steps", "channels"), [(30, 32, 5), (1, 7, 2), (4, 6, 1)])
def test_windows_without_missing_values_score_the_same_in_numpy_as_in_torch(shots, steps, channels):
    generator = torch.Generator().manual_seed(0)
    support = torch.randn(shots, steps, channels, generator=generator).cumsum(1)
    support[..., 0] = 3.0  # a channel that does not vary
    query = torch.cat([support[:2], support[:1] + 1e4, torch.randn(50, steps, channels, generator=generator)])
    query[5, 3, -1] = query[6, :, -1] = torch.nan
    adapted = create_baseline("series_experts").adapt({"sequence": support}, torch.zeros(shots))
    units = adapted.units({"sequence": query})["sequence"].requires_grad_()
    expected = adapted.logits({"sequence": units})
    torch.testing.assert_close(adapted.score({"sequence": query}), expected.detach(), rtol=1e-9, atol=1e-6)
    (gradient,) = torch.autograd.grad(expected.sum(), units)
    assert gradient[7:].flatten(1).any(1).all()


def test_a_constant_series_is_no_more_unusual_than_its_support():
    constant = {"sequence": torch.full((12, 32, 3), 5.3)}
    adapted = create_baseline("series_experts").adapt(constant, torch.zeros(12))
    assert adapted.score(constant).unique().tolist() == [0.0]
    assert (adapted.score({"sequence": constant["sequence"] + torch.linspace(0, 1, 32).view(1, 32, 1)}) > 0.5).all()


@pytest.mark.parametrize("name", ["linear_ar", "pca_subwindows"])
def test_padding_at_the_end_changes_no_score_of_pieces(name):
    support, query = torch.tensor(windows(3)), torch.tensor(windows(4))[:, :24]
    padded = torch.cat([query, torch.full((4, 16, 2), torch.nan)], dim=1)
    a, b = (scored(name, {"sequence": support}, {"sequence": x}) for x in (query, padded))
    if name == "linear_ar":
        torch.testing.assert_close(a, b)
    else:  # sub-windows that reach into the padding are scored by what they have
        assert (b >= a).all()


def test_random_scores_are_uniform_by_content_and_seed():
    samples = draw("tabular", 2000)
    scores, other = (scored("random", samples, samples, seed=seed) for seed in (0, 1))
    assert abs(scores.mean() - 0.5) < 0.03
    assert abs(scores.var() - 1 / 12) < 0.01
    assert abs(np.corrcoef(scores, other)[0, 1]) < 0.1
    assert isinstance(create_baseline("flag_everything"), FlagEverything)


def test_names_and_options_are_checked():
    assert isinstance(create_baseline("knn"), NearestNeighbour)
    assert {"linear_ar", "pca_subwindows", "series_experts"} == set(list_baselines()) - set(
        list_baselines(modality="image")
    )
    for call, match in [
        (lambda: create_baseline("mahalanobi"), "did you mean 'mahalanobis'"),
        (lambda: modalities_of("iforrest"), "did you mean 'iforest'"),
        (lambda: create_baseline("ocsvm", mu=0.2), "did you mean 'nu'"),
        (lambda: create_baseline("knn", standardise="suport"), "did you mean 'support'"),
        (lambda: create_baseline("knn", k=0), "k is 0"),
        (lambda: register_baseline("knn")(FlagEverything), "registered already"),
        (lambda: scored("linear_ar", draw("tabular", 3), draw("tabular", 3)), "reads sequences, saw"),
        (lambda: scored("pca_subwindows", draw("sequence", 3), draw("sequence", 3), window=30), "lower window"),
        (lambda: scored("knn", draw("tabular", 3), {"tabular": torch.zeros(2, 3)}), "support's shapes .*8.*saw .*3"),
    ]:
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize("data", ["array", "frame", "dict"])
@pytest.mark.parametrize("name", ["knn", "linear_ar"])
def test_what_is_no_tensors_by_modality_is_refused_by_name(name, data):
    modality, shape = ("sequence", (6, 32, 2)) if name == "linear_ar" else ("tabular", (6, 2))
    rows = np.random.default_rng(0).normal(size=shape)
    wrong, saw = {
        "array": (rows, "saw ndarray"),
        "frame": (pd.DataFrame(rows.reshape(6, -1)), "saw DataFrame"),
        "dict": ({modality: rows}, "saw a dict of ndarray"),
    }[data]
    complaint = rf"expected tensors by modality.*{saw}: metaad_zoo\.modality\.samples\.as_samples"
    with pytest.raises(TypeError, match=complaint):
        create_baseline(name).adapt(wrong, torch.zeros(6))
    adapted = create_baseline(name).adapt({modality: torch.as_tensor(rows)}, np.zeros(6))
    with pytest.raises(TypeError, match=complaint):
        adapted.score(wrong)


@pytest.mark.parametrize("name", [n for n in list_baselines(modality="tabular") if n not in KNOWS_NOTHING])
def test_on_the_embedding_of_a_plain_function(name):
    support, query = draw("image", 6), draw("image", 4, seed=1)

    def embed(samples):
        return samples["image"].flatten(2).mean(1)[:, :7]

    labels = torch.tensor([0, 0, 1, 0, -1, 0])
    scores = OnEmbedding(create_baseline(name), embed).adapt(support, labels).score(query)
    expected = scored(name, {"tabular": embed(support)}, {"tabular": embed(query)}, labels)
    torch.testing.assert_close(scores, expected)
    with pytest.raises(ValueError, match="flatten or pool"):
        OnEmbedding(create_baseline(name), lambda samples: samples["image"]).adapt(support, labels)


def test_on_the_embedding_of_a_network():
    network = EpisodeNetwork("mlp", {"widths": (6,)}, {"tabular": (8,)}, "support")
    support, query = draw("tabular", 5), draw("tabular", 4, seed=1)
    method = OnNetwork(create_baseline("knn", standardise="none"), network)
    with pytest.raises(ValueError, match="call its eval"):
        method.adapt(support, torch.zeros(5))
    network.eval()
    by = network.scalings(support)["tabular"]
    a, b = ({"tabular": by.apply(x["tabular"])} for x in (support, query))
    with torch.no_grad():
        expected = torch.cdist(network.embed(a, b), network.embed(a)).amin(1)
    torch.testing.assert_close(method.adapt(support, torch.zeros(5)).score(query).float(), expected)
    assert method.reads_unlabelled is False
    assert OnNetwork(create_baseline("pile_knn"), network).reads_unlabelled is True


def test_pyod_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(pyod_detectors, "find_spec", lambda name: None)
    pyod_detectors.detectors.cache_clear()
    try:
        assert list_baselines("pyod/*") == []
        with pytest.raises(ValueError, match=r"pip install 'metaad_zoo\[pyod\]'"):
            create_baseline("pyod/KNN")
    finally:
        pyod_detectors.detectors.cache_clear()


@pytest.mark.skipif(not HAS_PYOD, reason="pip install 'metaad_zoo[pyod]'")
@pytest.mark.filterwarnings("ignore")  # PyOD's own
class TestPyOD:
    @pytest.mark.parametrize("name", ["pyod/KNN", "pyod/ECOD", "pyod/COF", "pyod/IForest", "pyod/PCA"])
    def test_detectors_are_baselines(self, name):
        assert name in list_baselines("pyod/*", modality="tabular")
        typical = draw("tabular", 20, seed=1)["tabular"]
        query = {"tabular": torch.cat([typical, 9 * typical[:1].sign()])}
        scores = scored(name, draw("tabular", 10), query)
        assert scores[20] > scores[:20].median()
        torch.testing.assert_close(scores[:2], scored(name, draw("tabular", 10), {"tabular": typical[:2]}))

    def test_copies_score_alike(self):  # export and serve copy
        support, query = ({"tabular": torch.tensor(x)} for x in rows())
        copied = copy.deepcopy(create_baseline("pyod/KNN")).adapt(support, torch.zeros(len(support["tabular"])))
        torch.testing.assert_close(copied.score(query), scored("pyod/KNN", support, query))

    def test_knn_and_ecod_agree_with_ours(self):
        support, query = ({"tabular": torch.tensor(x)} for x in rows())
        for theirs, ours, options in [("pyod/KNN", "knn", {"n_neighbors": 2}), ("pyod/ECOD", "ecod", {})]:
            scores = scored(theirs, support, query, **options)
            torch.testing.assert_close(scores, scored(ours, support, query, **({"k": 2} if options else {})))
        few = {"tabular": support["tabular"][:4]}
        torch.testing.assert_close(scored("pyod/KNN", few, query), scored("knn", few, query, k=3))
        with pytest.raises(ValueError, match=r"can't be fitted to 4 support samples: .* Got 2\.5"):
            scored("pyod/KNN", few, query, n_neighbors=2.5)

    def test_names_and_options_are_checked(self):
        with pytest.raises(ValueError, match="did you mean 'IForest'"):
            create_baseline("pyod/Iforest")
        with pytest.raises(ValueError, match="did you mean 'n_estimators'"):
            create_baseline("pyod/IForest", n_estimator=3)
