from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from metaad_zoo.evaluation import metrics

labelled_scores = st.lists(
    st.tuples(st.one_of(st.floats(-1e6, 1e6), st.sampled_from([-100.0, 0.0, 0.5, 40.0, 41.0])), st.integers(0, 1)),
    min_size=2,
    max_size=60,
).filter(lambda rows: len({label for _, label in rows}) == 2)


@settings(max_examples=200, deadline=None)
@given(labelled_scores)
def test_rank_metrics_agree_with_scikit_learn_on_raw_scores(rows):
    scores = torch.tensor([s for s, _ in rows], dtype=torch.float64)
    labels = torch.tensor([y for _, y in rows])
    assert metrics.auroc(scores, labels) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-6)
    assert metrics.average_precision(scores, labels) == pytest.approx(
        sk.average_precision_score(labels, scores), abs=1e-6
    )
    expected = sk.roc_auc_score(labels, scores, max_fpr=0.1)
    assert metrics.partial_auroc(scores, labels) == pytest.approx(expected, abs=1e-5)


def test_partial_auroc_by_hand():
    """Twenty normal samples: with one of them above one of two anomalies, the curve is at 1/2 up to 1/20, then at 1."""
    scores = torch.cat([torch.arange(19.0), torch.tensor([100.0, 99.0, 101.0])])
    labels = torch.cat([torch.zeros(20), torch.ones(2)]).long()
    least, most = 0.1**2 / 2, 0.1
    area = 0.05 * 0.5 + 0.05 * 1
    assert metrics.partial_auroc(scores, labels) == pytest.approx((1 + (area - least) / (most - least)) / 2)
    assert metrics.partial_auroc(torch.zeros(22), labels) == pytest.approx(0.5)
    assert set(metrics.all_metrics(scores, labels, scores > 99)) == set(metrics.METRICS)


@settings(max_examples=100, deadline=None)
@given(labelled_scores)
def test_decision_metrics_agree_with_scikit_learn(rows):
    flagged = torch.tensor([s > 0 for s, _ in rows])
    labels = torch.tensor([y for _, y in rows])
    ours = metrics.decision_metrics(flagged, labels)
    flagged, labels = flagged.numpy(), labels.numpy()
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, flagged, average="binary", zero_division=0.0)
    true_negative, false_positive, *_ = sk.confusion_matrix(labels, flagged).ravel()
    expected = {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "fpr": false_positive / (false_positive + true_negative),
    }
    assert ours == pytest.approx(expected, abs=1e-6)


def test_large_scores_are_not_squashed():
    """torchmetrics alone ties these three through its sigmoid and gives 0.5."""
    scores, labels = torch.tensor([500.0, 600.0, 700.0]), torch.tensor([0, 0, 1])
    assert metrics.auroc(scores, labels) == 1.0
    assert metrics.auroc(torch.tensor([-torch.inf, 0.0, torch.inf]), labels) == 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "complaint"),
    [
        ([0.1, float("nan")], [0, 1], "1 of 2 scores are NaN"),
        ([0.1, 0.2], [0, 0], r"both of them, saw \[0\]"),
        ([0.1, 0.2], [-1, 1], r"saw \[-1, 1\]"),
        ([0.1, 0.2, 0.3], [0, 1], "one shape"),
    ],
)
def test_refuses_what_no_figure_can_be_taken_from(scores, labels, complaint):
    with pytest.raises(ValueError, match=complaint):
        metrics.auroc(torch.tensor(scores), torch.tensor(labels))


def test_ranks_keep_order_and_ties():
    scores = torch.tensor([3.0, -1e9, 3.0, 7.0])
    assert np.allclose(metrics.ranks(scores), [0.5, 0.0, 0.5, 1.0])
