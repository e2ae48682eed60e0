"""A look into the inner loop: what is logged, that looking changes nothing, and who diverged where."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metaad_zoo.learners.gradient import look_inside, meta_gradient_norms
from metaad_zoo.learners.training import trainable
from tests.conftest import small_learner
from tests.learners.test_training import QUIET
from tests.tiny import tiny_batch, tiny_learner


def test_losses_by_step_and_norms_by_block_reach_tensorboard(tmp_path, digits):
    learner = small_learner()
    learner.diagnose_every = 2
    logger = TensorBoardLogger(tmp_path)
    settings = {**QUIET, "logger": logger}
    pl.Trainer(**settings, max_steps=4, log_every_n_steps=1, enable_checkpointing=False, limit_val_batches=0).fit(
        trainable(learner), datamodule=digits
    )
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"inner/{kind}_loss/{s}" for kind in ("support", "query") for s in (0, 1, 2)} <= tags
    assert {"inner/one_class_cosine", "meta_gradient/head", "meta_gradient/backbone.blocks.0"} <= tags
    assert len(events.Scalars("inner/support_loss/0")) == 2, "steps 0 and 2 of 4"


def test_losses_are_those_of_shorter_inner_loops():
    batch = tiny_batch("mlp", tasks=1)
    support, labels, query, query_labels, _ = next(iter(batch))
    figures = look_inside(tiny_learner("maml", "mlp", steps=2), batch)
    for steps in (0, 1, 2):
        adapted = tiny_learner("maml", "mlp", steps=steps).adapt(support, labels)
        for name, x, y in (("support", support, labels), ("query", query, query_labels)):
            loss = F.binary_cross_entropy_with_logits(adapted.score(x), y.float())
            assert figures[f"inner/{name}_loss/{steps}"] == pytest.approx(loss.item(), rel=1e-5)
    assert -1 <= figures["inner/one_class_cosine"] <= 1


def test_the_cosine_is_1_where_both_gradients_are_the_same():
    batch = tiny_batch("mlp", tasks=1)
    batch.query, batch.query_labels = batch.support, batch.support_labels
    assert look_inside(tiny_learner("maml", "mlp"), batch)["inner/one_class_cosine"] == pytest.approx(1)


def test_norms_are_of_the_gradient():
    learner = tiny_learner("maml", "mlp")
    learner.outer_loss(tiny_batch("mlp")).backward()
    head = learner.network.head
    expected = torch.cat([head.weight.grad.flatten(), head.bias.grad]).norm()
    assert meta_gradient_norms(learner)["head"] == pytest.approx(expected.item())


def test_looking_changes_nothing(digits):
    ends = []
    for every in (0, 1):
        torch.manual_seed(0)
        learner, data = small_learner(batch_norm="per_step"), copy.deepcopy(digits)
        learner.diagnose_every = every
        pl.Trainer(**QUIET, max_steps=3, enable_checkpointing=False, limit_val_batches=0).fit(
            trainable(learner), datamodule=data
        )
        ends.append((learner.state_dict(), torch.rand(1)))
    assert all(torch.equal(x, ends[1][0][key]) for key, x in ends[0][0].items())
    assert torch.equal(ends[0][1], ends[1][1]), "no random number is taken"


@pytest.mark.parametrize("engine", ["higher", "vectorized"])
@pytest.mark.parametrize("order", [1, 2])
def test_divergence_names_the_task_and_the_step(engine, order):
    batch = tiny_batch("mlp")
    batch.support["tabular"][1] *= 1e30
    learner = tiny_learner("maml", "mlp", engine=engine, order=order, lr=1e3, steps=5, tasks_at_once=3)
    with pytest.raises(
        FloatingPointError, match=r"^task1: the support loss is .* at inner step \d.*lower inner_loop.lr"
    ):
        learner.outer_loss(batch)
