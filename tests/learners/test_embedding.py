"""What every learner without an inner loop owes: over all backbones, tasks apart, supports of every kind."""

from __future__ import annotations

import copy
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch

from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.learners import learner_class
from metaad_zoo.learners.embedding import EmbeddingLearner
from metaad_zoo.learners.training import trainable
from tests.learners.test_training import QUIET
from tests.tiny import (
    ANY_WIDTH,
    EMBEDDING_LEARNERS,
    REGISTERED,
    meta_gradient,
    relative_difference,
    tiny_batch,
    tiny_embedding_learner,
)

NEED_A_WIDTH = ("pairwise",)
every_learner = pytest.mark.parametrize("name", EMBEDDING_LEARNERS)
episodic_learner = pytest.mark.parametrize(
    "name", [x for x in EMBEDDING_LEARNERS if x != "pretrained" and not learner_class(x).reads_unlabelled]
)
"""The loss of one that is pretrained is not that of its episodes; these episodes have no unlabelled samples, by which
others are trained (see test_weighted_experts.py)."""


@pytest.fixture
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def first_task(batch: EpisodeBatch):
    return next(iter(batch))[:4]


without_unlabelled = pytest.mark.filterwarnings(
    "ignore:some training episodes have fewer than 20 unlabelled:UserWarning"
)
"""These supports have no unlabelled samples, of which ``weighted_experts`` warns."""


@without_unlabelled
@every_learner
def test_it_trains_on_one_class_supports(name, digits):
    """Real steps of a real trainer, on digits: every weight moves, and scores come out."""
    learner = tiny_embedding_learner(name, "conv4")
    before = copy.deepcopy(learner.state_dict())
    trainer = pl.Trainer(**QUIET, max_epochs=1, enable_checkpointing=False, limit_val_batches=1)
    trainer.fit(trainable(learner), datamodule=digits)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert 0 <= trainer.callback_metrics["val/auroc"] <= 1
    for key, p in learner.named_parameters():
        assert torch.isfinite(p).all(), key
        if p.requires_grad and "blocks" not in key and not learner.reads_unlabelled:  # these supports have none
            assert not torch.equal(p, before[key]), key
    e = next(digits.episodes("test", 1))
    learner.eval()
    for labels in ([0, 0, 0], [0, 0, 1], [0, -1, -1], [-1, -1, -1]):
        scores = learner.adapt(e.support, torch.tensor(labels)).score(e.query)
        assert scores.shape == (8,)
        assert torch.isfinite(scores).all()


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("backbone", REGISTERED)
@episodic_learner
def test_tasks_at_once_equal_tasks_apart(name, backbone):
    if name in NEED_A_WIDTH and backbone in ANY_WIDTH:
        with pytest.raises(ValueError, match="gives embeddings of any width"):
            tiny_embedding_learner(name, backbone)
        return
    batch = tiny_batch(backbone)
    together = tiny_embedding_learner(name, backbone)
    apart = tiny_embedding_learner(name, backbone, tasks_at_once=1)
    assert relative_difference(meta_gradient(together, batch), meta_gradient(apart, batch)) <= 1e-8


@pytest.mark.usefixtures("_float64")
@episodic_learner
def test_the_loss_is_that_of_the_adapted_scores(name):
    """Training and use compute the same logits."""
    learner, batch = tiny_embedding_learner(name, "resnet_mlp").eval(), tiny_batch("resnet_mlp")
    losses = []
    for support, labels, query, query_labels, _ in batch:
        adapted = learner.adapt(support, labels)
        losses.append(learner.task_loss(_stack(adapted.reading), adapted.embed(query)[None], query_labels[None]))
    torch.testing.assert_close(learner.task_losses(batch), torch.cat(losses).detach())


def _stack(reading):
    return {key: x.unsqueeze(0) for key, x in reading.items()}


@without_unlabelled
@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 0], [0, -1, 1, 1, -1]], ids=["one class", "few labels"])
@every_learner
def test_meta_gradients_equal_finite_differences(name, labels):
    learner, batch = tiny_embedding_learner(name, "resnet_mlp"), tiny_batch("resnet_mlp", n_support=5)
    batch = replace(batch, support_labels=torch.tensor(labels).expand(len(batch), -1))
    result = meta_gradient(learner, batch)
    parameters = [p for p in learner.parameters() if p.requires_grad]
    step = 1e-5
    for p, gradient in zip(parameters, result, strict=True):
        direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=p.dtype)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p += sign * step * direction
                values.append(float(learner.outer_loss(batch)))
                p -= sign * step * direction
        expected = (values[0] - values[1]) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-7)


@every_learner
def test_scores_depend_neither_on_the_order_of_the_support_nor_on_other_queries(name):
    learner = tiny_embedding_learner(name, "conv4").double().eval()
    support, labels, query, _ = first_task(tiny_batch("conv4", n_support=6))
    labels = torch.tensor([0, 0, 1, -1, 0, 0])
    expected = learner.adapt(support, labels).score(query)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    adapted = learner.adapt({"image": support["image"][order]}, labels[order])
    torch.testing.assert_close(adapted.score(query), expected)
    alone = torch.cat([adapted.score({"image": x[None]}) for x in query["image"]])
    torch.testing.assert_close(alone, expected)


@every_learner
def test_adapting_works_in_inference_mode_and_leaves_the_learner_alone(name):
    learner = tiny_embedding_learner(name, "conv4").eval()
    support, labels, query, _ = first_task(tiny_batch("conv4"))
    before = copy.deepcopy(learner.state_dict())
    expected = learner.adapt(support, labels).score(query)
    with torch.inference_mode():
        scores = learner.adapt({"image": support["image"] + 0}, labels + 0).score(query)
    assert torch.equal(scores, expected)
    assert all(torch.equal(x, before[key]) for key, x in learner.state_dict().items())


@pytest.mark.parametrize(("backbone", "shape"), [("raw_columns", [5]), ("window_statistics", [7, 2])])
@pytest.mark.parametrize("name", ["maml", "protonet", "pairwise", "in_context"])
def test_a_column_that_a_sample_lacks_gives_finite_scores(name, backbone, shape):
    modality = "tabular" if len(shape) == 1 else "sequence"
    torch.manual_seed(0)
    learner = learner_class(name)(backbone=backbone, input_shapes={modality: shape}).eval()
    support, query = torch.randn(4, *shape), torch.randn(3, *shape)
    scores = learner.adapt({modality: support}, torch.zeros(4)).score({modality: query})
    support[0, ..., 0] = query[0, ..., 1] = torch.nan
    with_gaps = learner.adapt({modality: support}, torch.zeros(4)).score({modality: query})
    assert with_gaps.isfinite().all()
    assert not torch.equal(with_gaps, scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shapes": None}, "input_shapes is missing"),
        ({"batch_norm": "per_step"}, "takes no steps"),
        ({"tasks_at_once": 0}, "tasks_at_once is 0"),
    ],
)
@every_learner
def test_bad_settings_are_refused(name, arguments, message):
    given = {"backbone": "mlp", "input_shapes": {"tabular": [5]}, **arguments}
    with pytest.raises(ValueError, match=message):
        learner_class(name)(**given)


class _Mixing(torch.nn.Linear):
    """Subtracts the batch's mean, as no layer of an episode's network may."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


def test_a_layer_that_mixes_the_batch_is_found_out():
    learner = tiny_embedding_learner("protonet", "mlp")
    assert isinstance(learner, EmbeddingLearner)
    learner.network.backbone.layers[0].__class__ = _Mixing
    with pytest.raises(ValueError, match=r"mixes the samples of a batch.*set tasks_at_once=1"):
        learner.outer_loss(tiny_batch("mlp"))
