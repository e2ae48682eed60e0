"""Prototypes, smallest balls and robust centres against numpy, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.covariance import EmpiricalCovariance
from sklearn.datasets import make_blobs

from metaad_zoo.learners import AdaptiveCentredRepresentations, MetaSVDD, PrototypicalNetwork
from metaad_zoo.learners.prototypes import clusters
from metaad_zoo.learners.statistics import median
from metaad_zoo.learners.svdd import ball_weights

SHAPES = {"backbone": "mlp", "input_shapes": {"tabular": [5]}, "scaling": {"tabular": "none"}}


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def prototypes(**arguments) -> PrototypicalNetwork:
    return PrototypicalNetwork(**SHAPES, **arguments)


def softplus(x: torch.Tensor) -> float:
    return float(np.log1p(np.exp(float(x.detach()))))


def embeddings(learner, n: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, learner.network.backbone.embedding_dim, generator=generator)


@torch.no_grad()
def test_euclidean_prototype_by_numpy():
    learner = prototypes()
    support, query = embeddings(learner, 4), embeddings(learner, 3, seed=2)
    scores = learner.compare(learner.read(support, torch.zeros(4)), query).numpy()
    x, q = support.numpy(), query.numpy()
    centre = x.mean(0)
    k, typical = softplus(learner.spread_weight), softplus(learner.typical_spread)
    radius = softplus(learner.radius) * (((x - centre) ** 2).mean(1).sum() + k * typical) / (4 + k)
    np.testing.assert_allclose(scores, np.exp(2) * (((q - centre) ** 2).mean(1) - radius))


@torch.no_grad()
def test_cosine_prototype_by_numpy():
    learner = prototypes(distance="cosine")
    support, query = embeddings(learner, 4), embeddings(learner, 3, seed=2)
    reading = learner.read(support, torch.zeros(4))
    scores = learner.compare(reading, query) / np.exp(2) + reading["radius"]
    x = support.numpy() / np.linalg.norm(support.numpy(), axis=1, keepdims=True)
    q = query.numpy() / np.linalg.norm(query.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(scores.numpy(), 1 - q @ x.mean(0) / np.linalg.norm(x.mean(0)))


@torch.no_grad()
def test_mahalanobis_without_prior_is_scikit_learns():
    learner = prototypes(distance="mahalanobis", backbone_options={"widths": (6,)})
    learner.prior_weight.fill_(-30)  # weighs as much as 1e-13 samples
    support, query = embeddings(learner, 40), embeddings(learner, 7, seed=2)
    reading = learner.read(support, torch.zeros(40))
    scores = learner.compare(reading, query) / np.exp(2) + reading["radius"]
    expected = EmpiricalCovariance().fit(support.numpy()).mahalanobis(query.numpy())
    np.testing.assert_allclose(scores.numpy() * 6, expected)


@torch.no_grad()
def test_mahalanobis_of_one_shot_is_the_prior():
    learner = prototypes(distance="mahalanobis", backbone_options={"widths": (6,)})
    learner.log_variance.copy_(torch.linspace(-1, 1, 6))
    support, query = embeddings(learner, 1), embeddings(learner, 7, seed=2)
    reading = learner.read(support, torch.zeros(1))
    scores = learner.compare(reading, query) / np.exp(2) + reading["radius"]
    m = softplus(learner.prior_weight)
    variance = m / (1 + m) * np.exp(np.linspace(-1, 1, 6))
    np.testing.assert_allclose(scores.numpy(), ((query - support).numpy() ** 2 / variance).mean(1))


@torch.no_grad()
def test_a_known_anomaly_is_a_rival_of_the_radius():
    learner = prototypes()
    support, query = embeddings(learner, 4), embeddings(learner, 3, seed=2)
    labels = torch.tensor([0, 1, 0, -1])
    scores = learner.compare(learner.read(support, labels), query).numpy()
    normal = support[labels != 1]
    alone = learner.read(normal, torch.zeros(3))
    scale = np.exp(2)
    to_anomaly = ((query - support[1]).numpy() ** 2).mean(1)
    radius = np.full(3, float(alone["radius"]))
    rival = -logsumexp(-scale * np.stack([radius, to_anomaly]), axis=0) / scale
    distance = ((query - normal.mean(0)).numpy() ** 2).mean(1)
    np.testing.assert_allclose(scores, scale * (distance - rival))


def test_clusters_are_k_means():
    x, _ = make_blobs(30, n_features=4, centers=3, cluster_std=0.5, random_state=0)
    outlier = np.full((1, 4), 100.0)
    chosen = torch.tensor([True] * 30 + [False])
    centres, own = clusters(torch.tensor(np.concatenate([x, outlier])), chosen, 3)
    expected = KMeans(3, n_init=10, random_state=0).fit(x)
    order = np.lexsort(centres.numpy().T)
    np.testing.assert_allclose(
        centres.numpy()[order], expected.cluster_centers_[np.lexsort(expected.cluster_centers_.T)]
    )
    np.testing.assert_allclose(own.numpy()[:30], expected.cluster_centers_[expected.labels_])


@torch.no_grad()
def test_two_clusters_need_two_prototypes():
    """Half way between two kinds of normal samples lies an anomaly; one prototype calls it the most normal of all."""
    support = torch.cat([torch.randn(5, 64) * 0.1 - 1, torch.randn(5, 64) * 0.1 + 1])
    query = torch.stack([torch.full((64,), -1.0), torch.full((64,), 1.0), torch.zeros(64)])
    one, two = (prototypes(prototypes=k) for k in (1, 2))
    labels = torch.zeros(10)
    assert one.compare(one.read(support, labels), query).argmin() == 2
    assert two.compare(two.read(support, labels), query).argmax() == 2


def test_more_prototypes_than_samples():
    centres, _ = clusters(torch.tensor([[0.0], [2.0]]), torch.tensor([True, True]), 3)
    assert sorted(set(centres.flatten().tolist())) == [0.0, 2.0]


@pytest.mark.parametrize("penalty", [0.0, 0.1, 1.0])
def test_ball_weights_solve_the_dual(penalty):
    """Against scipy's constrained optimiser; without penalty, the ball is the smallest one."""
    x = torch.randn(6, 3)
    n = len(x)
    unit = float(((x - x.mean(0)) ** 2).mean())
    gram = (x @ x.T / 3 / unit).numpy()

    def objective(w):
        entropy = penalty * np.sum(w * np.log(np.maximum(w, 1e-12)) - w)
        return -(w @ np.diag(gram) - w @ gram @ w) + entropy

    expected = minimize(
        objective,
        np.full(n, 1 / n),
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    weights = ball_weights(x, torch.ones(n, dtype=torch.bool), penalty, 3000)
    np.testing.assert_allclose(weights.numpy(), expected.x, atol=2e-3)


@torch.no_grad()
def test_the_ball_holds_its_support():
    learner = MetaSVDD(**SHAPES, penalty=0.0, iterations=3000)
    support = embeddings(learner, 5)
    reading = learner.read(support, torch.zeros(5))
    inside = (support - reading["centre"]).square().mean(-1)
    assert float(inside.max()) == pytest.approx(float(reading["radius"]), rel=0.01)


@torch.no_grad()
def test_with_much_penalty_the_centre_is_the_mean():
    learner = MetaSVDD(**SHAPES, penalty=1e4)
    support = embeddings(learner, 5)
    labels = torch.tensor([0, 0, 1, 0, -1])
    centre = learner.read(support, labels)["centre"]
    torch.testing.assert_close(centre, support[labels != 1].mean(0), atol=1e-3, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("centre", ["mean", "median", "reweighted"])
def test_a_robust_centre_bears_a_fifth_of_anomalies(centre):
    learner = AdaptiveCentredRepresentations(**SHAPES, centre=centre)
    normal = torch.randn(16, 64)
    anomalies = torch.randn(4, 64) + 4
    reading = learner.read(torch.cat([normal, anomalies]), torch.full((20,), -1))
    off = ((reading["centre"] * reading["spread"] + reading["mean"] - normal.mean(0)) ** 2).mean().sqrt()
    assert (off > 0.7) if centre == "mean" else (off < 0.4)
    scores = learner.compare(reading, torch.cat([torch.randn(50, 64), torch.randn(50, 64) + 4]))
    if centre != "mean":
        assert scores[50:].min() > scores[:50].max()


@torch.no_grad()
def test_known_anomalies_are_no_part_of_the_statistics():
    learner = AdaptiveCentredRepresentations(**SHAPES)
    support = embeddings(learner, 6)
    labels = torch.tensor([0, 1, -1, 0, 1, 0])
    some, rest = learner.read(support, labels), learner.read(support[labels != 1], torch.zeros(4))
    for name, x in some.items():
        torch.testing.assert_close(x, rest[name])


@pytest.mark.parametrize("n", [1, 4, 5])
def test_median_is_numpys_lower_one(n):
    x = torch.randn(n + 2, 3)
    mask = torch.tensor([True] * n + [False, False]).unsqueeze(-1)
    expected = np.quantile(x[:n].numpy(), 0.5, axis=0, method="lower")
    np.testing.assert_allclose(median(x, mask).numpy(), expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: prototypes(distance="euclidian"), "euclidean"),
        (lambda: prototypes(prototypes=0), "prototypes is 0"),
        (lambda: MetaSVDD(**SHAPES, penalty=-1), "penalty is -1"),
        (lambda: AdaptiveCentredRepresentations(**SHAPES, centre="medain"), "median"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
