from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from metaad_zoo.evaluation.labelled import Figure, in_words, labelled_figures
from metaad_zoo.evaluation.metrics import all_metrics


def judged(n=200, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(int)
    scores = rng.normal(size=n) + labels
    return np.round(scores) if ties else scores, labels, (scores > 0.8).astype(int)


@pytest.mark.parametrize("ties", [False, True])
def test_values_are_those_of_torchmetrics(ties):
    scores, labels, flagged = judged(ties=ties)
    expected = all_metrics(*(torch.as_tensor(x) for x in (scores, labels)), torch.as_tensor(flagged == 1))
    figures = labelled_figures(scores, labels, flagged)
    assert set(figures) == set(expected) - {"pauroc"}
    for name, figure in figures.items():
        assert figure.value == pytest.approx(expected[name], abs=1e-6), name


def test_the_interval_of_auroc_is_that_of_a_bootstrap_of_normal_and_anomalous_samples():
    scores, labels, _ = judged(300)
    groups = scores[labels == 1], scores[labels == 0]

    def statistic(anomalous, normal):
        return roc_auc_score([1] * len(anomalous) + [0] * len(normal), np.concatenate([anomalous, normal]))

    reference = bootstrap(
        groups, statistic, n_resamples=1000, method="percentile", vectorized=False, rng=np.random.default_rng(1)
    ).confidence_interval
    assert labelled_figures(scores, labels)["auroc"].ci95 == pytest.approx(tuple(reference), abs=0.015)


def test_unknown_labels_are_left_out_and_one_kind_gives_no_figures():
    scores, labels, flagged = judged()
    unknown = np.append(labels, [-1, -1])
    more = labelled_figures(np.append(scores, [99, -99]), unknown, np.append(flagged, [0, 1]))
    assert more == labelled_figures(scores, labels, flagged)
    assert labelled_figures(scores, np.zeros(200), flagged) == {}
    assert set(labelled_figures(scores, labels)) == {"auroc", "ap"}


def test_nothing_flagged_has_no_precision():
    figures = labelled_figures(np.array([0.0, 1.0]), np.array([0, 1]), np.zeros(2))
    assert figures["precision"] == figures["f1"] == Figure(0.0, (0.0, 0.0))


def test_figures_stand_on_one_line_in_per_cent():
    figures = {"auroc": Figure(0.876, (0.8, 0.95)), "fpr": Figure(0.0, (0.0, 0.0125))}
    assert in_words(figures) == "AUROC 87.6 [80.0, 95.0], false alarms 0.0 [0.0, 1.2]"
