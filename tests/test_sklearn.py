from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import metaad_zoo as mz
from metaad_zoo.detector import Detector
from metaad_zoo.learners import InContextDetector
from metaad_zoo.sklearn import FewShotOutlierDetector, unflattened
from metaad_zoo.zoo import Checkpoint, save_checkpoint
from tests.conftest import small_learner
from tests.tiny import tiny_learner

SOME_TRAINING_SAMPLES_ARE_OUTLIERS = ("check_outliers_fit_predict", "check_outliers_train")


@pytest.fixture(scope="session")
def tumours():
    """Benign rows to learn from; then benign (+1) and malignant (-1) ones to tell apart, and which are which."""
    x, y = load_breast_cancer(return_X_y=True)
    benign = x[y == 1]
    return benign[:20], np.concatenate([benign[20:120], x[y == 0][:100]]), np.repeat([1, -1], 100)


def keeps_its_samples():
    """An untrained detector whose learner compares with the support's own rows."""
    return Detector(Checkpoint(InContextDetector(width=8, input_shapes={"tabular": (-1,)}).eval(), [], {}))


@pytest.mark.parametrize("kind", ["default", "loaded", "named"])
def test_all_of_check_estimator(kind, table_model):
    given = {"default": (), "loaded": (keeps_its_samples(),), "named": (str(table_model),)}
    estimator = FewShotOutlierDetector(*given[kind])
    results = check_estimator(estimator, on_skip=None)
    assert len(results) > 40
    assert {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")} == {}


def test_with_the_conformal_threshold_training_samples_may_all_be_inliers(table_model):
    estimator = FewShotOutlierDetector(table_model, contamination="auto", precision="float32")
    expected = dict.fromkeys(SOME_TRAINING_SAMPLES_ARE_OUTLIERS, "the threshold does not come from them")
    invariance = ("check_methods_subset_invariance", "check_methods_sample_order_invariance", "check_fit_idempotent")
    expected |= dict.fromkeys(invariance, "float32 is exact to seven digits")
    results = check_estimator(estimator, on_skip=None, on_fail=None, expected_failed_checks=expected)
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []


def test_scores_and_threshold_are_those_of_the_detector(table_model, tumours):
    support, query, _ = tumours
    detector = mz.load_detector(table_model).fit(support)
    auto = FewShotOutlierDetector(table_model, contamination="auto", alpha=0.2).fit(support)
    np.testing.assert_allclose(auto.score_samples(query), -detector.score(query), rtol=1e-4, atol=1e-4)
    assert np.array_equal(auto.predict(query) == -1, detector.predict(query, alpha=0.2) == 1)
    share = FewShotOutlierDetector(table_model, contamination=0.25).fit(support)
    assert (share.predict(support) == -1).sum() == 5
    assert np.array_equal(share.fit_predict(support), share.predict(support))


@pytest.mark.parametrize("n", [20, 60])
def test_new_normal_rows_are_called_outliers_about_as_often_as_training_ones(n, table_model):
    """Also with a learner that keeps its samples, whose scores of these are next to nothing."""
    x, y = load_breast_cancer(return_X_y=True)
    benign = x[y == 1]
    for model in (table_model, keeps_its_samples()):
        alarms = []
        for seed in range(12):
            rows = np.random.default_rng(seed).permutation(benign)
            fitted = FewShotOutlierDetector(model).fit(rows[:n])
            assert (fitted.predict(rows[:n]) == -1).sum() == n // 10
            alarms.append((fitted.predict(rows[n : n + 200]) == -1).mean())
        expected = 1 - (0.9 * (n - 1) + 1) / (n + 1)  # above the 90th percentile of n exchangeable scores
        assert np.mean(alarms) == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_training_samples_give_no_threshold(table_model, tumours, n):
    with pytest.raises(ValueError, match=rf"{n} sample.*give 3 or more"):
        FewShotOutlierDetector(table_model).fit(tumours[0][:n])
    assert FewShotOutlierDetector(table_model, contamination="auto").fit(tumours[0][:n]).offset_ < np.inf
    assert np.isfinite(FewShotOutlierDetector(table_model).fit(tumours[0][:3]).offset_)


@pytest.mark.parametrize("model", ["knn", "default"])
def test_unlabelled_samples_join_the_normal_ones_where_y_says_so(model, tumours):
    given = None if model == "default" else mz.load_detector(model)
    support, rest, truth = tumours
    pile = np.concatenate([rest[truth == 1][:54], rest[truth == -1][:6]])
    x, y = np.concatenate([pile, support]), np.repeat([-1, 0], [60, 20])
    fitted = FewShotOutlierDetector(given, precision="float32").fit(x, y)
    assert (fitted.detector_.shots, fitted.detector_.unlabelled) == (20, 60)
    expected = mz.load_detector("tabular" if given is None else model).fit(support, unlabelled=pile)
    np.testing.assert_allclose(fitted.detector_.score(rest), expected.score(rest), rtol=1e-4, atol=1e-5)
    assert (fitted.predict(pile) == -1).sum() == 6, "the expected share of the unlabelled samples"
    assert np.array_equal(clone(fitted).fit_predict(x, y), fitted.predict(x))
    auto = FewShotOutlierDetector(given, contamination="auto", alpha=0.2, precision="float32").fit(x, y)
    assert auto.offset_ == pytest.approx(-expected.threshold(0.2), rel=1e-4)
    anomalies = FewShotOutlierDetector(given).fit(np.concatenate([x, rest[-2:]]), [*y, 1, 1])
    assert anomalies.detector_.support_labels.tolist().count(1) == 2
    with pytest.raises(ValueError, match="y has 79 labels for 80 samples"):
        FewShotOutlierDetector(given).fit(x, y[:-1])


@pytest.mark.parametrize("y", [[1, -1] * 10, [0, 1] * 10, [0] * 20, [-1] * 20, [0, -1, 2, 3] * 5, ["a", "b"] * 10])
def test_any_other_y_is_ignored(y, tumours):
    fitted, without = (FewShotOutlierDetector(mz.load_detector("knn")).fit(tumours[0], z) for z in (y, None))
    assert np.array_equal(fitted.detector_.support_labels, without.detector_.support_labels)
    assert fitted.offset_ == without.offset_


def test_in_a_pipeline_it_finds_malignant_rows(table_model, tumours):
    support, query, truth = tumours
    steps = make_pipeline(StandardScaler(), FewShotOutlierDetector(str(table_model))).fit(support)
    assert roc_auc_score(truth, steps.decision_function(query)) > 0.7
    assert set(steps.predict(query)) == {1, -1}


def test_grid_search(table_model, tumours):
    _, query, truth = tumours
    steps = make_pipeline(StandardScaler(), FewShotOutlierDetector(mz.load_detector(table_model)))
    shares = {"fewshotoutlierdetector__contamination": [0.05, 0.5]}
    search = GridSearchCV(steps, shares, scoring="accuracy", cv=3).fit(query[::2], truth[::2])
    flagged = [(steps.set_params(**p).fit_predict(query) == -1).mean() for p in search.cv_results_["params"]]
    assert flagged == [0.05, 0.5]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() > 0.4


def test_copies_and_pickles_score_alike_and_leave_the_given_detector_alone(table_model, tumours):
    support, query, _ = tumours
    given = mz.load_detector(table_model)
    fitted = FewShotOutlierDetector(given).fit(support)
    assert not given.is_fitted
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.score_samples(query), fitted.score_samples(query))
    assert not hasattr(clone(fitted), "detector_")


def test_names_of_columns_and_missing_values(table_model, tumours):
    support, query, _ = tumours
    names = [f"c{i}" for i in range(30)]
    fitted = FewShotOutlierDetector(table_model).fit(pd.DataFrame(support, columns=names))
    assert list(fitted.feature_names_in_) == names
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(pd.DataFrame(query, columns=names[::-1]))
    holes = np.where(np.random.default_rng(0).random(query.shape) < 0.2, np.nan, query)
    assert np.isfinite(fitted.score_samples(pd.DataFrame(holes, columns=names))).all()


def test_images_and_sequences_with_their_axes_or_flattened(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (12, 16, 16), np.uint8)
    models = {"image": small_learner(), "sequence": tiny_learner("maml", "gru")}
    for (modality, learner), x in zip(models.items(), [pictures, rng.normal(size=(12, 7, 2))], strict=True):
        save_checkpoint(tmp_path / modality, Checkpoint(learner, [], {}))
        fitted = FewShotOutlierDetector(tmp_path / modality).fit(x)
        flat = FewShotOutlierDetector(tmp_path / modality).fit(x.reshape(12, -1))
        assert np.array_equal(fitted.score_samples(x), flat.score_samples(x.reshape(12, -1)))
        steps = make_pipeline(FunctionTransformer(lambda x: x.reshape(len(x), -1)), flat)
        assert np.array_equal(steps.fit_predict(x), fitted.predict(x))
        with pytest.raises(
            ValueError, match=r"10 features are no flattened sample of the model's shape \((1, 16|7, 2)"
        ):
            flat.fit(np.zeros((5, 10)))
    with pytest.raises(ValueError, match="NaN"):
        FewShotOutlierDetector(tmp_path / "image").fit(np.full((3, 16, 16), np.nan))


@pytest.mark.parametrize(
    ("shape", "features", "expected"), [((-1, 3), 12, (4, 3)), ((5, -1), 10, (5, 2)), ((-1, -1), 9, (9, 1))]
)
def test_unflattened(shape, features, expected):
    assert unflattened(features, shape) == expected


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"checkpoint": "nowhere"}, "nowhere is no checkpoint"),
        ({"contamination": 0.6}, r"contamination is 0.6; expected 'auto' or a share in \(0, 0.5\]"),
        ({"contamination": "none"}, "contamination is 'none'"),
        ({"contamination": "auto", "alpha": 2}, "alpha is 2"),
        ({"precision": "half"}, "precision is 'half'; expected one of float32, float64"),
    ],
)
def test_bad_parameters_are_refused_at_fit(options, complaint, table_model, tumours):
    with pytest.raises(ValueError, match=complaint):
        FewShotOutlierDetector(**{"checkpoint": table_model, **options}).fit(tumours[0])


def test_what_it_can_not_do(table_model, tumours, tmp_path):
    with pytest.raises(NotFittedError):
        FewShotOutlierDetector(table_model).predict(tumours[0])
    save_checkpoint(tmp_path / "pair", Checkpoint(tiny_learner("maml", "fusion_concat"), [], {}))
    with pytest.raises(ValueError, match="which one array can't hold"):
        FewShotOutlierDetector(tmp_path / "pair").fit(tumours[0])
    save_checkpoint(tmp_path / "bare", Checkpoint(tiny_learner("maml", "columns"), [], {}))
    bare = FewShotOutlierDetector(tmp_path / "bare", contamination="auto")
    with pytest.raises(ValueError, match=r"5 calibration scores can't promise 0\.1 false alarms"):
        bare.fit(tumours[0][:5, :5])
    assert np.isfinite(bare.fit(tumours[0][:, :5]).offset_), "from leave-one-out scores"
