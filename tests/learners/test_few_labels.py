"""Learners for a handful of labelled anomalies, against their papers' formulae in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call

from metaad_zoo.learners import learner_class
from metaad_zoo.learners.deep_sad import SMALLEST, sad_loss
from metaad_zoo.learners.deviation import deviation_loss, reference
from tests.tiny import tiny_batch, tiny_embedding_learner, tiny_learner

LABELS = torch.tensor([0, -1, 1, -1])
FEW_LABELS = ["deviation", "deep_sad", "pairwise"]


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def one_task():
    return next(iter(tiny_batch("mlp")))[:4]


def any_learner(name: str):
    return (tiny_embedding_learner if name == "pairwise" else tiny_learner)(name, "mlp")


def test_the_reference_is_that_of_scores_and_a_standard_normal_prior():
    """By moments of a sample in which N(0, 1) weighs as much as three scores."""
    scores, labels = torch.randn(2, 6), torch.tensor([[0, -1, 1, 0, 0, 1], [0, 0, 0, 0, -1, -1]])
    mean, deviation = reference(scores, labels, 3.0)
    for i, is_usable in enumerate(labels != 1):
        own = scores[i][is_usable].numpy()
        shrunk = own.sum() / (len(own) + 3)
        spread = (((own - shrunk) ** 2).sum() + 3 * (1 + shrunk**2)) / (len(own) + 3)
        assert mean[i].item() == pytest.approx(shrunk)
        assert deviation[i].item() == pytest.approx(np.sqrt(spread))


def test_the_losses_are_the_papers():
    x, labels = torch.rand(3, 5) * 8, torch.tensor([0, 1, -1, 1, 0]).expand(3, 5)
    y = (labels == 1).numpy()
    deviation = (1 - y) * np.abs(x.numpy()) + y * np.maximum(0, 5 - x.numpy())
    np.testing.assert_allclose(deviation_loss(x, labels, 5.0).numpy(), deviation.mean(1))
    sad = np.where(y, 0.5 / (x.numpy() + SMALLEST), x.numpy())
    np.testing.assert_allclose(sad_loss(x, labels, 0.5).numpy(), sad.mean(1))


@pytest.mark.parametrize("steps", [0, 2])
def test_deviations_are_those_from_the_supports_scores(steps):
    learner = tiny_learner("deviation", "mlp", steps=steps)
    support, _, query, _ = one_task()
    adapted = learner.adapt(support, LABELS)
    of_support, of_query = adapted.score(support).numpy(), adapted.score(query).numpy()
    # An affine map of scores s: (s - m) / d; in these units the reference has mean 0 and deviation 1.
    if steps == 0:
        s, q = (learner.network(support, x).detach().numpy() for x in (None, query))
        m, d = (float(v) for v in reference(torch.as_tensor(s), LABELS, learner.prior))
        np.testing.assert_allclose(of_query, (q - m) / d)
        np.testing.assert_allclose(of_support, (s - m) / d)
    anomaly, rest = of_support[2], of_support[[0, 1, 3]]
    start = tiny_learner("deviation", "mlp", steps=0).adapt(support, LABELS).score(support).numpy()
    if steps:
        assert anomaly - rest.mean() > start[2] - start[[0, 1, 3]].mean()


def test_deep_sad_is_the_distance_to_the_mean_embedding_at_the_start():
    learner = tiny_learner("deep_sad", "mlp", steps=1, lr=0.1, adapt=("backbone.*",))
    support, _, query, _ = one_task()
    offset = learner.network.head.centre
    before = offset.detach().clone()
    centre = learner.network.embed(support)[LABELS != 1].mean(0) + offset
    adapted = learner.adapt(support, LABELS)
    torch.testing.assert_close(adapted.parameters["head.centre"], centre.detach())
    names = learner.inner_loop.names
    start = dict(learner.network.named_parameters())
    fixed = centre.detach()
    loss = sad_loss((learner.network.embed(support) - fixed).square().mean(1), LABELS, 1.0)
    gradients = torch.autograd.grad(loss, [start[n] for n in names])
    by_hand = {n: start[n] - 0.1 * g for n, g in zip(names, gradients, strict=True)}
    expected = functional_call(learner.network, {**by_hand, "head.centre": fixed}, (support, query))
    torch.testing.assert_close(adapted.score(query), expected.detach())
    assert torch.equal(offset, before), "the learner's own stays as it was"


def test_pairs_are_scored_one_by_one():
    learner = tiny_embedding_learner("pairwise", "mlp")
    support, _, query, query_labels = one_task()
    adapted = learner.adapt(support, LABELS)
    s, q = (learner.network.embed(x).detach() for x in (support, query))
    scores = np.array(
        [
            [
                learner.relation(torch.cat([(a - b).square(), a * b])).detach()[int(label == 1)].item()
                for b, label in zip(s, LABELS, strict=True)
            ]
            for a in q
        ]
    )
    rises = (scores[:, [0, 1, 3]].mean(1) - 0, scores[:, 2] - 4)
    np.testing.assert_allclose(adapted.score(query).numpy(), np.mean(rises, 0) - 2)
    one_class = learner.adapt(support, torch.zeros(4)).score(query)
    assert one_class.shape == (6,)
    y = query_labels.numpy()
    loss = np.abs(scores[:, 2] - np.where(y, 8, 4)).mean()
    loss += np.abs(scores[:, [0, 1, 3]] - np.where(y, 4, 0)[:, None]).mean()
    task_loss = learner.task_loss(adapted.reading, q, query_labels).detach()
    assert float(task_loss) == pytest.approx(loss)


def test_pairs_start_half_way():
    """With outputs that tell nothing yet, a query is neither normal nor anomalous, and no pair's score is far off."""
    learner = tiny_embedding_learner("pairwise", "mlp")
    with torch.no_grad():
        learner.relation[-1].weight.zero_()
    support, _, query, query_labels = one_task()
    adapted = learner.adapt(support, LABELS)
    torch.testing.assert_close(adapted.score(query), torch.zeros(6))
    loss = learner.task_loss(adapted.reading, adapted.embed(query), query_labels)
    assert float(loss.detach()) == pytest.approx(2 + 2)


@pytest.mark.parametrize("name", FEW_LABELS)
def test_a_labelled_anomaly_is_no_normal_sample(name):
    support, _, query, _ = one_task()
    learner = any_learner(name)
    labelled, unknown = (learner.adapt(support, labels).score(query) for labels in (LABELS, torch.zeros(4)))
    assert not torch.allclose(labelled, unknown)
    same = learner.adapt(support, torch.tensor([-1, 0, 1, 0])).score(query)
    torch.testing.assert_close(same, labelled)  # unlabelled samples count as normal


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("deviation", {"margin": 0.0}, "margin is 0.0"),
        ("deviation", {"prior": 0.0}, "prior 0.0"),
        ("deep_sad", {"eta": -1.0}, "eta is -1.0"),
        ("pairwise", {"hidden": 0}, "hidden is 0"),
    ],
)
def test_bad_settings_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        learner_class(name)(backbone="mlp", input_shapes={"tabular": (5,)}, **settings)
