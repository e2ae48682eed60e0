"""The learned metric of patches against scikit-learn's Mahalanobis distance, brute force and finite differences."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.learners import FineTuning, PatchMetric
from metaad_zoo.learners.low_rank import LowRankOptimizer
from metaad_zoo.learners.patch_metric import GAIN
from metaad_zoo.learners.training import trainable
from tests.tiny import tiny_batch, tiny_patch_learner

ADAM = partial(torch.optim.Adam, lr=0.01)
LABELS = torch.tensor([0, -1, 1, 0])
BACKBONES = ("conv4", "vit", "timm/test_resnet")


def moved(backbone: str = "conv4", size: float = 0.05, **settings) -> PatchMetric:
    """A learner whose metric is not Euclidean."""
    learner = tiny_patch_learner("patch_metric", backbone, **settings)
    assert isinstance(learner, PatchMetric)
    noise = torch.randn(learner.change.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        learner.change += size * noise.to(learner.change.dtype)
    return learner


def one_task(backbone: str = "conv4"):
    batch = tiny_batch(backbone)
    return {"image": batch.support["image"][0]}, {"image": batch.query["image"][0]}, batch.query_labels[0]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_untrained_it_is_the_memory(backbone):
    memory = tiny_patch_learner("patch_memory", backbone)
    learner = PatchMetric.on(memory)
    support, query, _ = one_task(backbone)
    before, after = (x.adapt(support, LABELS) for x in (memory, learner))
    torch.testing.assert_close(after.score(query), before.score(query))
    units = before.units(query)
    torch.testing.assert_close(after.heat_map(units), before.heat_map(units))
    weights = memory.network.state_dict()
    assert all(x.equal(weights[key]) for key, x in learner.network.state_dict().items())
    assert [n for n, p in learner.named_parameters() if p.requires_grad] == ["change"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_distances_are_scikit_learns_mahalanobis_distances(backbone):
    learner = moved(backbone, top=0.2, subspace=0)
    memory = tiny_patch_learner("patch_memory", backbone)
    support, query, _ = one_task(backbone)
    stored, asked = (memory.patches(x["image"], x).detach().double() for x in (support, query))
    matrix = np.eye(stored.shape[-1]) + GAIN * learner.change.detach().double().numpy()
    neighbours = NearestNeighbors(
        n_neighbors=1, algorithm="brute", metric="mahalanobis", metric_params={"VI": matrix @ matrix.T}
    ).fit(stored[LABELS != 1].flatten(0, 2).numpy())
    distances = neighbours.kneighbors(asked.flatten(0, 2).numpy())[0].reshape(len(asked), -1)
    share = max(1, round(0.2 * distances.shape[1]))
    expected = np.sort(distances, 1)[:, -share:].mean(1)
    np.testing.assert_allclose(learner.adapt(support, LABELS).score(query).numpy(), expected, rtol=1e-3)


def test_the_loss_is_brute_force_and_its_gradient_that_of_finite_differences():
    learner = moved(top=0.2, subspace=0, penalty=0.1, temperature=0.3).double()
    batch = tiny_batch("conv4")
    batch = EpisodeBatch(
        {"image": batch.support["image"].double()},
        LABELS.expand(3, -1),
        {"image": batch.query["image"].double()},
        batch.query_labels,
        batch.tasks,
    )

    def brute_force() -> float:
        losses = []
        for support, labels, query, query_labels, _ in batch:
            scores = learner.adapt(support, labels).score(query).tolist()
            kinds = query_labels.tolist()
            normal, anomalous = ([s for s, y in zip(scores, kinds, strict=True) if y == kind] for kind in (0, 1))
            losses.append(np.mean([np.log(1 + (n / a) ** (1 / 0.3)) for n in normal for a in anomalous]))
        return float(np.mean(losses) + 0.1 * (GAIN * learner.change).square().sum().item())

    loss = learner.outer_loss(batch)
    assert loss.item() == pytest.approx(brute_force(), rel=1e-6)
    loss.backward()
    assert learner.change.grad is not None
    for place in ((0, 0), (1, 3), (2, 1)):
        step, values = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                learner.change[place] += sign * step
            values.append(brute_force())
            with torch.no_grad():
                learner.change[place] -= sign * step
        assert learner.change.grad[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)


def plates(n_tasks: int, seed: int) -> EpisodeBatch:
    """Tasks of plain RGB images that differ much in red and green; anomalies have a square that is a little bluer."""
    g = torch.Generator().manual_seed(seed)
    colour, noise = torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1), 0.01
    support, query = (
        torch.rand(n_tasks, n, 3, 1, 1, generator=g) * colour + noise * torch.randn(n_tasks, n, 3, 16, 16, generator=g)
        for n in (4, 12)
    )
    query[:, 6:, 2, 4:12, 4:12] += 0.05
    labels = torch.tensor([0] * 6 + [1] * 6).expand(n_tasks, -1)
    zeros = torch.zeros(n_tasks, 4, dtype=torch.long)
    return EpisodeBatch({"image": support}, zeros, {"image": query}, labels, ["task"] * n_tasks)


def mean_auroc(learner, batch: EpisodeBatch) -> float:
    return float(np.mean([auroc(learner.adapt(s, y).score(q), labels) for s, y, q, labels, _ in batch]))


def test_a_metric_learned_on_siblings_finds_the_defects_of_another_task(monkeypatch):
    """The features are the colours; what differs between good images is to count less than what tells defects."""
    learner = PatchMetric(
        backbone="conv4",
        backbone_options={"width": 3},
        input_shapes={"image": (3, 16, 16)},
        layers=[0],
        unit_length=False,
        subspace=0,
        optimizer=ADAM,
        schedule="constant",
    )
    monkeypatch.setattr(learner.network.backbone, "feature_maps", lambda x: [x])
    unseen = plates(6, 99)
    before = mean_auroc(learner, unseen)
    optimizer = trainable(learner).configure_optimizers()
    for step in range(40):
        optimizer.zero_grad()
        learner.outer_loss(plates(3, step)).backward()
        optimizer.step()
    after = mean_auroc(learner, unseen)
    assert before < 0.65
    assert after > 0.95
    metric = torch.eye(3) + GAIN * learner.change.detach()
    red, green, blue = metric.norm(dim=1).tolist()
    assert blue > 2 * max(red, green)


def test_each_image_goes_through_the_backbone_once_in_training(monkeypatch):
    learner = moved()
    counted = []
    monkeypatch.setattr(
        learner.network.backbone,
        "feature_maps",
        lambda x, compute=learner.network.backbone.feature_maps: counted.append(len(x)) or compute(x),
    )
    losses = [learner.outer_loss(tiny_batch("conv4")) for _ in range(2)]
    assert sum(counted) == 3 * (4 + 6)
    torch.testing.assert_close(*losses, rtol=0, atol=0)
    monkeypatch.setattr("metaad_zoo.learners.patch_metric.CACHE_BYTES", 0)
    again = moved()
    torch.testing.assert_close(again.outer_loss(tiny_batch("conv4")), losses[0])
    assert not again._cache
    by_support = moved(batch_norm="support")
    by_support.outer_loss(tiny_batch("conv4"))
    assert not by_support._cache, "features depend on the support"


def test_a_low_rank_change_is_of_low_rank():
    learner = moved(size=0.0)
    FineTuning("low_rank", 2, ADAM, "constant").apply(learner, "parent", "0" * 64, ["a"])
    optimizer = trainable(learner).configure_optimizers()
    assert isinstance(optimizer, LowRankOptimizer)
    for _ in range(3):
        optimizer.zero_grad()
        learner.outer_loss(tiny_batch("conv4")).backward()
        optimizer.step()
    assert int(torch.linalg.matrix_rank(learner.change.detach(), tol=1e-6)) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"penalty": -0.1}, r"penalty is -0\.1"), ({"temperature": 0.0}, r"temperature 0\.0"), ({"top": 2.0}, "top 2")],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_patch_learner("patch_metric", "conv4", **settings)


def test_queries_of_one_kind_have_no_ranking():
    learner = moved(penalty=0.0)
    batch = tiny_batch("conv4")
    batch.query_labels = torch.zeros_like(batch.query_labels)
    assert learner.outer_loss(batch).item() == 0
