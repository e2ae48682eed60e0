"""The LightningModule: what it minimises, resuming, processes and precision."""

from __future__ import annotations

import copy
from functools import cache

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.func import functional_call

from metaad_zoo.data import ImageEpisodes
from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.inner_loop import InnerLoopConfig, adapt_parameters
from metaad_zoo.learners import GradientLearner, Learner, from_scratch, learner_class, list_learners, untrained
from metaad_zoo.learners.training import trainable
from tests.conftest import digit_episodes, small_learner

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "inference_mode": False,
}


def batch(data: ImageEpisodes, n: int = 2) -> EpisodeBatch:
    return EpisodeBatch.collate(list(data.episodes("train", n)))


def test_maml_is_listed():
    assert "maml" in list_learners()


def test_outer_loss_is_the_mean_over_tasks_of_the_adapted_query_loss(digits):
    learner, episodes = small_learner(), list(digits.episodes("train", 3))
    expected = []
    for e in episodes:
        adapted = adapt_parameters(
            learner.network,
            learner.inner_loop,
            lambda net, e=e: F.softplus(net(e.support)).mean(),  # cross-entropy with the label 0
            meta_gradient=True,
        )
        logits = functional_call(learner.network, adapted, (e.support, e.query))
        sign = 2.0 * e.query_labels - 1
        expected.append(F.softplus(-sign * logits).mean())
    torch.testing.assert_close(learner.outer_loss(EpisodeBatch.collate(episodes)), torch.stack(expected).mean())


def test_unlabelled_support_counts_as_normal_and_labelled_anomalies_as_such(digits):
    learner, e = small_learner(), next(digits.episodes("train", 1))
    normal, unlabelled, anomalous = (
        learner.adapt(e.support, torch.full((3,), label)).score(e.query) for label in (0, -1, 1)
    )
    assert torch.equal(normal, unlabelled)
    assert (anomalous > normal).all(), "a support called anomalous pulls scores up"


def test_scores_do_not_depend_on_the_other_queries(digits):
    learner, e = small_learner(), next(digits.episodes("train", 1))
    adapted = learner.adapt(e.support, e.support_labels)
    together = adapted.score(e.query)
    alone = torch.cat([adapted.score({"image": x[None]}) for x in e.query["image"]])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_adapting_works_in_inference_mode(digits):
    learner, e = small_learner(), next(digits.episodes("train", 1))
    expected = learner.adapt(e.support, e.support_labels).score(e.query)
    with torch.inference_mode():
        support = {name: x + 0 for name, x in e.support.items()}
        scores = learner.adapt(support, e.support_labels + 0).score(e.query)
    assert torch.equal(scores, expected)


def test_controls_share_the_architecture_and_nothing_else(digits):
    learner, e = small_learner(), next(digits.episodes("train", 1))
    before = copy.deepcopy(learner.state_dict())
    fresh, scratch = untrained(learner, 5), from_scratch(learner, 5, steps=40, lr=0.05)
    for control in (fresh, scratch):
        assert {n: p.shape for n, p in control.network.named_parameters()} == {
            n: p.shape for n, p in learner.network.named_parameters()
        }
    assert not torch.equal(fresh.network.head.weight, learner.network.head.weight)
    assert torch.equal(fresh.network.head.weight, scratch.network.head.weight), "one seed, one start"
    fitted = scratch.adapt(e.support, e.support_labels).score(e.support)
    assert (fitted < -1).all(), "trained from scratch, it calls its support normal"
    assert all(torch.equal(x, before[n]) for n, x in learner.state_dict().items())


def test_learned_rates_escape_weight_decay():
    learner = small_learner(learn_lr="parameter")
    groups = learner.outer_parameters()
    assert groups[1]["weight_decay"] == 0.0
    assert groups[1]["params"][0] is learner.inner_loop.rates
    assert sum(len(g["params"]) for g in groups) == len(list(learner.parameters()))


def test_missing_and_foreign_inputs_are_refused():
    with pytest.raises(ValueError, match="input_shapes is missing"):
        GradientLearner()
    with pytest.raises(ValueError, match="reads the modality 'image' but the data has"):
        GradientLearner("conv4", {"in_channels": 1}, {"tabular": (7,)})


def test_a_diverging_task_is_named(digits):
    learner = small_learner(lr=1e30, steps=3)
    with pytest.raises(FloatingPointError, match=r"digits/.*the support loss is .* at inner step"):
        learner.outer_loss(batch(digits))


class _Stop(pl.Callback):
    """Ends the training as a kill would: in the batch after a step whose checkpoint has been written."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            raise KilledError


class KilledError(Exception):
    pass


def train(folder, data, *, stop=None, resume=None, keep=1, **length):
    torch.manual_seed(3)
    learner = GradientLearner(
        "conv4",
        {"width": 4},
        data.input_shapes,
        InnerLoopConfig(steps=2, learn_lr="parameter_and_step"),
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
    )
    name = "last" if keep == 1 else "{step}"
    callbacks = [
        ModelCheckpoint(folder, filename=name, every_n_train_steps=1, save_top_k=keep, enable_version_counter=False)
    ]
    callbacks += [_Stop(stop)] if stop else []
    trainer = pl.Trainer(**QUIET, callbacks=callbacks, gradient_clip_val=1.0, **length)
    trainer.fit(trainable(learner), datamodule=data, ckpt_path=resume, weights_only=True)
    return learner, trainer


LENGTHS = (
    {"max_steps": 7},
    {"max_epochs": 3},
    {"max_epochs": 4, "accumulate_grad_batches": 2},
    {"max_epochs": 4, "accumulate_grad_batches": 3},
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Trains without a stop, once for each length, and keeps the checkpoint of every step."""

    @cache
    def train_once(length):
        folder = tmp_path_factory.mktemp("straight")
        return *train(folder, digit_episodes(), keep=-1, **dict(length)), folder

    return train_once


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("stop", [1, 3, 4, 6])
@pytest.mark.parametrize("length", LENGTHS, ids=str)
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(tmp_path, digits, straight, stop, length):
    """Epochs have four batches: the stops lie inside an epoch, at its end, and in later ones."""
    learner, expected, folder = straight(tuple(length.items()))
    resumed, trainer = train(tmp_path, digits, resume=str(folder / f"step={stop}.ckpt"), **length)
    assert trainer.global_step == expected.global_step
    for (name, a), b in zip(learner.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("length", LENGTHS, ids=str)
def test_a_killed_run_leaves_the_checkpoint_of_its_last_step(tmp_path, digits, straight, length):
    learner, expected, folder = straight(tuple(length.items()))
    with pytest.raises(KilledError):
        train(tmp_path, copy.deepcopy(digits), stop=3, **length)
    last, third = (torch.load(path, weights_only=True) for path in (tmp_path / "last.ckpt", folder / "step=3.ckpt"))
    assert last["global_step"] == third["global_step"] == 3
    for name, x in third["state_dict"].items():
        assert torch.equal(x, last["state_dict"][name]), name
    resumed, trainer = train(tmp_path, digits, resume=str(tmp_path / "last.ckpt"), **length)
    assert trainer.global_step == expected.global_step
    for (name, a), b in zip(learner.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_resumed_run_draws_the_same_dropout(tmp_path, digits):
    ends = []
    for stop in (None, 3):
        for resume in [None] if stop is None else [None, str(tmp_path / "last.ckpt")]:
            torch.manual_seed(3)
            learner = small_learner()
            learner.network.backbone.blocks.append(torch.nn.Dropout(0.5))
            callbacks = [
                ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
            ]
            callbacks += [_Stop(stop)] if stop and not resume else []
            trainer = pl.Trainer(**QUIET, max_steps=6, callbacks=callbacks)
            try:
                trainer.fit(trainable(learner), datamodule=copy.deepcopy(digits), ckpt_path=resume, weights_only=True)
            except KilledError:
                continue
            ends.append(learner.state_dict())
    assert len(ends) == 2
    for name, x in ends[0].items():
        assert torch.equal(x, ends[1][name]), name


def test_resuming_with_another_length_is_refused(tmp_path, digits):
    train(tmp_path, digits, max_epochs=1)
    with pytest.raises(ValueError, match="cosine schedule ends at step 4, this run at 8"):
        train(tmp_path, digits, max_epochs=2, resume=str(tmp_path / "last.ckpt"))


@pytest.mark.parametrize("stop", [2, 3])
def test_resuming_a_run_of_shortened_epochs(tmp_path, digits, stop):
    length = {"max_epochs": 3, "limit_train_batches": 2}
    straight, _ = train(tmp_path / "a", digits, **length)
    with pytest.raises(KilledError):
        train(tmp_path / "b", copy.deepcopy(digits), stop=stop, **length)
    resumed, _ = train(tmp_path / "b", copy.deepcopy(digits), resume=str(tmp_path / "b" / "last.ckpt"), **length)
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(ValueError, match="give whole batches"):
        train(tmp_path / "c", digits, max_epochs=1, limit_train_batches=0.5)


def test_each_validation_sees_the_same_episodes(digits):
    seen = []

    class Watch(pl.Callback):
        def on_validation_batch_start(self, trainer, learner, batch, batch_idx, dataloader_idx=0):
            if not trainer.sanity_checking:
                seen.append((trainer.current_epoch, float(batch.query["image"].sum())))

    pl.Trainer(**QUIET, max_epochs=2, callbacks=[Watch()], enable_checkpointing=False).fit(
        trainable(small_learner()), datamodule=digits
    )
    epochs = [[total for epoch, total in seen if epoch == e] for e in (0, 1)]
    assert len(epochs[0]) == digits.val_episodes
    assert epochs[0] == epochs[1]


def test_a_layer_without_second_derivative_is_named(digits):
    learner = small_learner()
    learner.network.backbone.blocks.append(torch.nn.Hardsigmoid())
    trainer = pl.Trainer(**QUIET, max_steps=1, enable_checkpointing=False, limit_val_batches=0)
    with pytest.raises(ValueError, match=r"no second derivative.*hardsigmoid.*inner_loop.order=1"):
        trainer.fit(trainable(learner), datamodule=digits)


def test_accumulating_two_batches_is_one_batch_of_both(tmp_path, digits):
    learners = []
    for tasks, accumulate in ((2, 2), (4, 1)):
        data = copy.deepcopy(digits)
        data.tasks_per_batch = tasks
        torch.manual_seed(0)
        learner = small_learner().double()
        learner._optimizer = lambda p: torch.optim.SGD(p, lr=0.1)
        trainer = pl.Trainer(
            **QUIET, max_steps=1, precision="64-true", accumulate_grad_batches=accumulate, enable_checkpointing=False
        )
        trainer.fit(trainable(learner), datamodule=data)
        learners.append(learner)
    for a, b in zip(learners[0].parameters(), learners[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["maml", "reptile", "protonet"])
def test_an_epochs_last_step_is_the_mean_of_the_batches_that_it_has(digits, name):
    """Four batches an epoch in groups of three: the second step has one batch, on which Lightning puts a third."""
    learner, steps = tiny(name), []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, learner, batch, batch_idx):
            parameters = [p for p in learner.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(learner.outer_loss(batch), parameters, materialize_grads=True)
            steps.append(([p.detach().clone() for p in parameters], gradients))

    learner._optimizer = lambda p: torch.optim.SGD(p, lr=0.1)
    quiet = {**QUIET, "enable_checkpointing": False, "limit_val_batches": 0, "precision": "64-true"}
    pl.Trainer(**quiet, max_epochs=2, accumulate_grad_batches=3, callbacks=[Watch()]).fit(
        trainable(learner), datamodule=digits
    )
    assert len(steps) == 8
    ends = [steps[3][0], steps[4][0], steps[7][0], [p.detach() for p in learner.parameters() if p.requires_grad]]
    for group, end in zip((steps[:3], steps[3:4], steps[4:7], steps[7:]), ends, strict=True):
        for i, start in enumerate(group[0][0]):
            mean = sum(gradients[i] for _, gradients in group) / len(group)
            torch.testing.assert_close(end[i], start - 0.1 * mean, rtol=1e-10, atol=1e-12)


def tiny(name: str) -> Learner:
    """Narrow, in float64, with a constant outer rate."""
    kwargs = {} if name == "protonet" else {"inner_loop": InnerLoopConfig(steps=2, lr=0.1)}
    learner = learner_class(name)(
        backbone="conv4",
        backbone_options={"width": 4},
        input_shapes={"image": (1, 16, 16)},
        schedule="constant",
        **kwargs,
    )
    return learner.double()


def test_bf16_mixed_trains_on_the_cpu(digits):
    learner = small_learner()
    before = copy.deepcopy(learner.state_dict())
    trainer = pl.Trainer(**QUIET, max_steps=3, precision="bf16-mixed", enable_checkpointing=False)
    trainer.fit(trainable(learner), datamodule=digits)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    for name, x in learner.state_dict().items():
        assert torch.isfinite(x).all(), name
    assert not torch.equal(learner.network.head.weight, before["network.head.weight"])


def test_the_cosine_schedule_ends_at_zero(digits):
    learner = small_learner()
    trainer = pl.Trainer(**QUIET, max_epochs=2, enable_checkpointing=False)
    trainer.fit(trainable(learner), datamodule=digits)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
