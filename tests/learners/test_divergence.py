"""A training that diverges: which task and step are named, which weights stay, and what a gradient scaler skips."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.experiment.whole_checkpoints import LastCheckpoint, WholeCheckpointIO
from metaad_zoo.learners.training import trainable
from tests.learners.test_training import QUIET
from tests.tiny import EMBEDDING_LEARNERS, GRADIENT_LEARNERS, tiny_batch, tiny_embedding_learner, tiny_learner


def labelled(tasks: int = 3) -> EpisodeBatch:
    """Tasks with unlabelled support samples and an anomalous one, as some learners need."""
    batch = tiny_batch("mlp", tasks=tasks, n_support=24)
    batch.support_labels[:, 2:], batch.support_labels[:, 1] = -1, 1
    return batch


NEVER = ("weighted_experts", "pretrained")
"""Ranks are finite whatever the samples, and a contrast needs the classes of a whole batch."""


class Batches:
    """A loader; Lightning takes a list for several loaders."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def fit(learner, batches, **settings):
    settings = {**QUIET, "max_steps": 1, "enable_checkpointing": False, "limit_val_batches": 0, **settings}
    trainer = pl.Trainer(**settings)
    trainer.fit(trainable(learner), train_dataloaders=Batches(*batches), val_dataloaders=Batches(*batches))
    return trainer


def weights(learner):
    return {name: p.detach().clone() for name, p in learner.named_parameters()}


def unchanged(learner, before) -> bool:
    return all(torch.equal(p, before[name]) for name, p in learner.named_parameters())


@pytest.mark.parametrize(
    ("name", "engine"),
    [(name, engine) for name in GRADIENT_LEARNERS for engine in ("higher", "vectorized")]
    + [(name, "") for name in EMBEDDING_LEARNERS if name not in NEVER],
)
def test_the_task_and_the_step_are_named_and_the_weights_stay(name, engine):
    learner = tiny_learner(name, "mlp", engine=engine) if engine else tiny_embedding_learner(name, "mlp")
    learner.diagnose_every = 0
    batch = labelled()
    (batch.support if engine else batch.query)["tabular"][1] *= 3e38
    before = weights(learner)
    with pytest.raises(FloatingPointError, match=r"^at outer step 0, task1"):
        fit(learner, [batch])
    assert unchanged(learner, before)


@pytest.mark.parametrize("engine", ["higher", "vectorized"])
@pytest.mark.parametrize("order", [1, 2])
def test_adapted_weights_beyond_all_bounds_are_caught_before_the_query(engine, order):
    learner = tiny_learner("maml", "mlp", engine=engine, order=order, steps=1, lr=1e17)
    batch = labelled()
    batch.support["tabular"][1] *= 1e4
    with pytest.raises(FloatingPointError, match=r"task1.*adapted weights are not finite after inner step 0.*lower"):
        learner.outer_loss(batch)
    support = {"tabular": batch.support["tabular"][1]}
    with pytest.raises(FloatingPointError, match="this support set: the adapted weights are not finite"):
        learner.adapt(support, batch.support_labels[1])


def with_endless_slope(learner, task: str):
    """A learner whose loss is right and whose gradient is infinite, on one task."""
    loss_of = learner.outer_loss

    def outer_loss(batch):
        steep = sum((p.sum() - p.sum().detach()).abs().sqrt() for p in learner.parameters())
        return loss_of(batch) + (steep if task in batch.tasks else 0)

    learner.outer_loss = outer_loss
    return learner


def test_an_outer_gradient_that_is_not_finite_changes_no_weight():
    learner = with_endless_slope(tiny_embedding_learner("protonet", "mlp"), "task1")
    before = weights(learner)
    batches = [labelled(1), labelled(2)]
    with pytest.raises(
        FloatingPointError, match=r"at outer step 0, task1: the outer gradient of \S+ is not finite.*lower"
    ):
        fit(learner, batches, accumulate_grad_batches=2, gradient_clip_val=1.0)
    assert unchanged(learner, before)


def test_a_gradient_scaler_skips_infinite_gradients_until_its_scale_is_1():
    learner = with_endless_slope(tiny_embedding_learner("protonet", "mlp", schedule="constant"), "task0")
    before = weights(learner)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    with pytest.raises(FloatingPointError, match=r"task0: the outer gradient of"):
        fit(learner, [labelled()] * 9, plugins=[plugin], max_steps=9)
    assert scaler.get_scale() == 1.0, "scales of 8, 4 and 2 are tried first"
    assert unchanged(learner, before)


def test_weights_that_are_not_finite_replace_no_checkpoint_and_are_named(tmp_path):
    learner = tiny_embedding_learner("protonet", "mlp", schedule="constant")

    def after_outer_step():
        if learner.global_step == 1:  # the second step's is counted later
            next(iter(learner.network.parameters())).data.fill_(torch.inf)

    learner.after_outer_step = after_outer_step
    last = LastCheckpoint(dirpath=tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
    settings = {"callbacks": [last], "plugins": [WholeCheckpointIO()], "enable_checkpointing": True, "max_steps": 3}
    message = r"^network\S+ is not finite after outer step 2.*lower the outer learning rate"
    with pytest.raises(FloatingPointError, match=message):
        fit(learner, [labelled()] * 3, **settings)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 1
    assert all(x.isfinite().all() for x in saved["state_dict"].values())
    with pytest.raises(FloatingPointError, match=message.replace("2", "0")):
        fit(learner, [labelled()])


def test_a_validation_task_that_diverges_is_named():
    learner = trainable(tiny_learner("maml", "mlp"))
    batch = labelled()
    batch.support["tabular"][1] *= 3e38
    with pytest.raises(FloatingPointError, match=r"^task1, after 0 outer steps: .*support loss is .* at inner step 0"):
        learner.validation_step(batch, 0)
