"""Plain pretraining as the control: its loss by its published formula, its heads by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_distances

from metaad_zoo.learners import ContrastivePretraining
from metaad_zoo.learners.pretrained import contrastive_loss
from tests.tiny import tiny_batch, tiny_embedding_learner


def by_hand(x: np.ndarray, classes: list[int], anomalous: list[bool], temperature: float) -> float:
    """Sample by sample."""
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    losses = []
    for i in range(len(z)):
        likes = [j for j in range(len(z)) if j != i and classes[j] == classes[i] and not anomalous[j]]
        if anomalous[i] or not likes:
            continue
        negatives = [j for j in range(len(z)) if (classes[j] != classes[i]) != anomalous[j]]
        total = sum(np.exp(z[i] @ z[j] / temperature) for j in [*likes, *negatives])
        losses.append(-np.mean([np.log(np.exp(z[i] @ z[j] / temperature) / total) for j in likes]))
    return float(np.mean(losses))


def test_the_loss_is_khoslas_over_what_is_known_to_be_alike_or_not():
    x = torch.randn(8, 4, dtype=torch.float64)
    classes, anomalous = [0, 0, 0, 1, 1, 2, 0, 1], [False] * 6 + [True] * 2
    loss = contrastive_loss(x, torch.tensor(classes), torch.tensor(anomalous), 0.3)
    assert float(loss) == pytest.approx(by_hand(x.numpy(), classes, anomalous, 0.3))


def test_tasks_of_one_class_are_not_told_apart():
    learner, batch = tiny_embedding_learner("pretrained", "mlp"), tiny_batch("mlp", tasks=2)
    losses = []
    for names in (["a/0-vs-1", "a/0-vs-2"], ["a/0-vs-1", "a/2-vs-0"]):
        batch.tasks = names
        losses.append(float(learner.outer_loss(batch).detach()))
    assert losses[0] != pytest.approx(losses[1])


@pytest.mark.parametrize("head", ["prototype", "nearest"])
def test_heads_are_cosine_distances(head):
    learner = tiny_embedding_learner("pretrained", "mlp", head=head)
    support, _, query, *_ = next(iter(tiny_batch("mlp")))
    e, q = (learner.network.embed(x).detach().numpy() for x in (support, query))
    usual = e[[0, 1, 3]] / np.linalg.norm(e[[0, 1, 3]], axis=1, keepdims=True)
    expected = (
        cosine_distances(q, usual.mean(0)[None])[:, 0] if head == "prototype" else cosine_distances(q, usual).min(1)
    )
    scores = learner.adapt(support, torch.tensor([0, -1, 1, 0])).score(query)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "protoype"}, "prototype"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"tasks_at_once": 2}, "lower tasks_per_batch"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ContrastivePretraining(backbone="mlp", input_shapes={"tabular": (5,)}, **settings)
