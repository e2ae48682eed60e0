from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from metaad_zoo.pyod import FewShotDetector


@pytest.fixture(scope="module")
def rows():
    x, y = load_breast_cancer(return_X_y=True)
    return np.concatenate([x[y == 1][:36], x[y == 0][:4]])


def test_high_scores_are_abnormal_and_a_share_is_flagged(table_model, rows):
    detector = FewShotDetector(table_model, contamination=0.1)
    assert np.array_equal(detector.fit_predict(rows), detector.labels_)
    assert detector.labels_.sum() == 4
    assert roc_auc_score(np.arange(40) >= 36, detector.decision_scores_) > 0.7, "the malignant rows"
    assert np.array_equal(detector.decision_scores_, detector.decision_function(rows))
    assert np.array_equal(detector.predict(rows), detector.labels_)
    assert detector.get_params()["contamination"] == 0.1


def test_a_share_of_the_unlabelled_samples_is_flagged_beside_normal_ones(table_model, rows):
    y = np.repeat([0, -1], [10, 30])
    detector = FewShotDetector(table_model, contamination=0.1).fit(rows, y)
    assert detector.labels_[y == -1].sum() == 3
    assert np.array_equal(detector.fit_predict(rows, y), detector.labels_)
    assert np.array_equal(detector.decision_scores_, detector.decision_function(rows))
    truth = np.repeat([0, 1], [36, 4])
    assert FewShotDetector(table_model).fit(rows, truth).threshold_ == FewShotDetector(table_model).fit(rows).threshold_


@pytest.mark.parametrize("method", ["linear", "unify"])
def test_conventions_are_those_of_pyod(method, table_model, rows):
    """PyOD's own base class over the same scores."""
    base = pytest.importorskip("pyod.models.base", reason="needs the extra pyod")

    class Same(base.BaseDetector):
        def __init__(self, contamination):
            super().__init__(contamination)

        def fit(self, x, y=None):
            self._set_n_classes(y)
            self.decision_scores_ = self.decision_function(x)
            self._process_decision_scores()
            return self

        def decision_function(self, x):
            return FewShotDetector(table_model).fit(rows).decision_function(x)

    x = rows[::-1] * np.linspace(0.5, 1.5, len(rows))[:, None]
    ours, theirs = FewShotDetector(table_model, 0.2).fit(rows), Same(0.2).fit(rows)
    assert ours.threshold_ == pytest.approx(theirs.threshold_)
    assert np.array_equal(ours.labels_, theirs.labels_)
    assert np.array_equal(ours.predict(x), theirs.predict(x))
    np.testing.assert_allclose(ours.predict_proba(x, method), theirs.predict_proba(x, method), atol=1e-12)


def test_probabilities_lie_between_0_and_1(table_model, rows):
    detector = FewShotDetector(table_model).fit(rows)
    for method in ("linear", "unify"):
        p = detector.predict_proba(rows, method)
        assert p.min() >= 0
        np.testing.assert_allclose(p.sum(1), 1)
        assert (np.diff(p[np.argsort(detector.decision_scores_), 1]) >= 0).all()
    with pytest.raises(ValueError, match=r"'linaer'.*linear"):
        detector.predict_proba(rows, "linaer")
    with pytest.raises(ValueError, match="PyOD's face expects a share"):
        FewShotDetector(table_model, contamination="auto").fit(rows)
