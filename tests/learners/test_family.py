"""Each learner does what its paper says: against hand-derived cases; and each trains one-class."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from metaad_zoo.backbones import EpisodicBatchNorm
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner, learner_class, untrained
from metaad_zoo.learners.gradient import multi_step_weights
from metaad_zoo.learners.training import trainable
from tests.learners.test_training import QUIET
from tests.tiny import GRADIENT_LEARNERS, meta_gradient, relative_difference, tiny_batch, tiny_learner

LR = 0.05


@pytest.fixture
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def one_task(batch):
    return next(iter(batch))[:4]


@pytest.mark.parametrize("engine", ["higher", "vectorized"])
@pytest.mark.parametrize("name", GRADIENT_LEARNERS)
def test_every_learner_trains_on_one_class_supports(name, engine, digits):
    """Real steps of a real trainer, on digits: all weights that should move do, and scores come out."""
    learner = tiny_learner(name, "conv4", engine=engine)
    before = copy.deepcopy(learner.state_dict())
    trainer = pl.Trainer(**QUIET, max_epochs=1, enable_checkpointing=False, limit_val_batches=1)
    trainer.fit(trainable(learner), datamodule=digits)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert 0 <= trainer.callback_metrics["val/auroc"] <= 1
    for key, x in learner.state_dict().items():
        assert torch.isfinite(x).all(), key
        if key.startswith("network") and key.endswith("weight") and "blocks" in key:
            assert not torch.equal(x, before[key]), key
    e = next(digits.episodes("test", 1))
    learner.eval()
    assert learner.adapt(e.support, e.support_labels).score(e.query).shape == (8,)
    labels = torch.tensor([0, 0, 1])
    assert torch.isfinite(learner.adapt(e.support, labels).score(e.query)).all(), "labelled anomalies are taken too"


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [("fomaml", "order", "implicit"), ("anil", "adapt", ("backbone.*",)), ("meta_sgd", "learn_lr", "parameter")],
)
def test_a_name_is_not_contradicted(name, setting, value):
    settings = {setting: value, "proximal": 1.0}
    with pytest.raises(ValueError, match=rf"{name} is inner_loop.{setting}=.*take the learner 'maml'"):
        learner_class(name)("mlp", {}, {"tabular": (5,)}, InnerLoopConfig(**settings))


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", ["fomaml", "anil", "boil", "meta_sgd", "imaml"])
def test_names_are_settings_of_maml(name):
    learner = tiny_learner(name, "mlp")
    plain = tiny_learner("maml", "mlp", **{**learner.arguments()["inner_loop"]})
    batch = tiny_batch("mlp")
    assert relative_difference(meta_gradient(plain, batch), meta_gradient(learner, batch)) == 0


@pytest.mark.usefixtures("_float64")
def test_anil_is_logistic_regression_on_the_embedding():
    """w' = w - lr * mean_i (sigmoid(w e_i + b) - 0) e_i, and the backbone as it was."""
    learner = tiny_learner("anil", "mlp", steps=1, lr=LR)
    support, labels, *_ = one_task(tiny_batch("mlp"))
    embeddings = learner.network.backbone(support["tabular"])
    w, b = learner.network.head.weight, learner.network.head.bias
    error = torch.sigmoid(embeddings @ w[0] + b)
    adapted = learner.adapt(support, labels).parameters
    torch.testing.assert_close(adapted["head.weight"][0], (w[0] - LR * (error[:, None] * embeddings).mean(0)).detach())
    torch.testing.assert_close(adapted["head.bias"], (b - LR * error.mean()).detach())
    for key, p in learner.network.backbone.named_parameters():
        assert torch.equal(adapted[f"backbone.{key}"], p)


def test_boil_leaves_the_head_alone():
    learner = tiny_learner("boil", "mlp")
    support, labels, *_ = one_task(tiny_batch("mlp"))
    adapted = learner.adapt(support, labels).parameters
    assert torch.equal(adapted["head.weight"], learner.network.head.weight)
    assert not torch.equal(adapted["backbone.layers.0.weight"], learner.network.backbone.layers[0].weight)


@pytest.mark.usefixtures("_float64")
def test_meta_sgd_rates_get_the_product_of_both_gradients():
    """One step: w' = w - a * g with a rate for each weight, so d loss / d a = -g * d loss / d w'."""
    learner, batch = tiny_learner("meta_sgd", "mlp", steps=1), tiny_batch("mlp", tasks=1)
    support, labels, query, query_labels = one_task(batch)
    network, names = learner.network, learner.inner_loop.names
    parameters = dict(network.named_parameters())
    inner = torch.autograd.grad(
        F.binary_cross_entropy_with_logits(network(support), labels.double()), [parameters[n] for n in names]
    )
    adapted = {n: (parameters[n] - 0.05 * g).detach().requires_grad_() for n, g in zip(names, inner, strict=True)}
    loss = F.binary_cross_entropy_with_logits(
        functional_call(network, adapted, (support, query)), query_labels.double()
    )
    outer = torch.autograd.grad(loss, list(adapted.values()))
    learner.outer_loss(batch).backward()
    for rate, g, o in zip(learner.inner_loop.parameters(), inner, outer, strict=True):
        torch.testing.assert_close(rate.grad, -g * o)


def test_meta_sgd_rates_stay_between_0_and_1(digits):
    learner = tiny_learner("meta_sgd", "conv4")
    learner._optimizer = lambda p: torch.optim.SGD(p, lr=1e3)
    start = [p.clone() for p in learner.inner_loop.parameters()]
    trainer = pl.Trainer(**QUIET, max_steps=1, enable_checkpointing=False, limit_val_batches=0)
    trainer.fit(trainable(learner), datamodule=digits)
    rates = torch.cat([p.flatten() for p in learner.inner_loop.parameters()])
    assert rates.min() == 0
    assert rates.max() == 1, "without bounds, steps of 1e3 end far outside"
    assert not all(torch.equal(a, b) for a, b in zip(start, learner.inner_loop.parameters(), strict=True))


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("one_class", [True, False])
def test_proto_maml_starts_as_a_difference_of_squared_distances(one_class):
    learner = tiny_learner("proto_maml", "mlp", steps=0)
    support, _, query, _ = one_task(tiny_batch("mlp"))
    labels = torch.tensor([0, 0, -1, 0 if one_class else 1])
    e, q = learner.network.embed(support), learner.network.embed(query)
    normal = e.mean(0) if one_class else e[:3].mean(0)
    anomalous = learner.network.head.weight[0] / 2 if one_class else e[3]
    expected = (q - normal).square().sum(1) - (q - anomalous).square().sum(1) + learner.network.head.bias
    torch.testing.assert_close(learner.adapt(support, labels).score(query), expected.detach())


def test_proto_maml_knows_no_anomaly_at_first():
    learner = learner_class("proto_maml")("mlp", {}, {"tabular": (5,)})
    assert not learner.network.head.weight.any()


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("engine", ["higher", "vectorized"])
def test_reptile_goes_where_plain_sgd_ends(engine):
    """Two steps on the support and one on the query by torch.optim.SGD; the gradient is start minus end."""
    batch = tiny_batch("mlp", tasks=2)
    learner = tiny_learner("reptile", "mlp", engine=engine, lr=LR)
    expected = [torch.zeros_like(p) for p in learner.network.parameters()]
    for support, labels, query, query_labels, _ in batch:
        network = copy.deepcopy(learner.network)
        optimiser = torch.optim.SGD(network.parameters(), lr=LR)
        for logits, targets in (
            (lambda n=network, s=support: n(s), labels),
            (lambda n=network, s=support: n(s), labels),
            (lambda n=network, s=support, q=query: n(s, q), query_labels),
        ):
            optimiser.zero_grad()
            F.binary_cross_entropy_with_logits(logits(), targets.double()).backward()
            optimiser.step()
        for total, start, end in zip(expected, learner.network.parameters(), network.parameters(), strict=True):
            total += (start - end).detach() / 2
    learner.outer_loss(batch).backward()
    for p, gradient in zip(learner.network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("engine", ["higher", "vectorized"])
def test_imaml_differentiates_the_optimum(engine):
    """Whole episodes, against finite differences of the loss at the optimum."""
    learner = tiny_learner("imaml", "mlp", engine=engine, steps=400, lr=0.3, proximal=1.0, cg_steps=60)
    with torch.no_grad():  # smooth, for finite differences
        learner.network.backbone.layers[1] = learner.network.backbone.layers[3] = torch.nn.Tanh()
    batch = tiny_batch("mlp", tasks=2)
    p = learner.network.backbone.layers[0].weight
    direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    derivative = (meta_gradient(learner, batch)[0] * direction).sum()
    values, eps = [], 1e-5
    for sign in (1, -2):
        with torch.no_grad():
            p += sign * eps * direction
        values.append(learner.outer_loss(batch).item())
    assert derivative.item() == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-4)


def at_epoch(learner: GradientLearner, epoch: int) -> GradientLearner:
    """The learner as its trainer would have it in that epoch."""
    trainable(learner).trainer = pl.Trainer(**QUIET)
    learner.trainer.fit_loop.epoch_progress.current.completed = epoch
    learner.trainer.fit_loop.epoch_progress.current.processed = epoch
    assert learner.epoch == epoch
    return learner


def test_multi_step_weights_move_to_the_last_step():
    assert multi_step_weights(5, 0, 10) == pytest.approx([0.2] * 5)
    for epoch in range(10):
        weights = multi_step_weights(5, epoch, 10)
        assert sum(weights) == pytest.approx(1)
        assert min(weights) == pytest.approx(max(0.2 - 0.02 * epoch, 0.006))
    assert multi_step_weights(1, 3, 10) == [1.0]


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("engine", ["higher", "vectorized"])
@pytest.mark.parametrize("order", [1, 2])
def test_multi_step_loss_is_the_weighted_sum_of_shorter_inner_loops(engine, order):
    """With fixed rates, the loss behind step s is that of an inner loop of s steps."""
    batch = tiny_batch("mlp")

    def learner(steps: int, epochs: int) -> GradientLearner:
        built = tiny_learner("maml", "mlp", steps=steps, engine=engine, order=order)
        built.multi_step_epochs = epochs
        return built

    shorter = [meta_gradient(learner(steps, 0), batch) for steps in (1, 2, 3)]
    gradient = meta_gradient(at_epoch(learner(3, 10), 4), batch)
    weights = multi_step_weights(3, 4, 10)
    expected = [sum(w * g for w, g in zip(weights, gs, strict=True)) for gs in zip(*shorter, strict=True)]
    assert relative_difference(gradient, expected) < 1e-12
    over = meta_gradient(at_epoch(learner(3, 10), 10), batch)
    assert relative_difference(over, shorter[2]) < 1e-12, "behind the last epoch of the schedule, the last step alone"


@pytest.mark.usefixtures("_float64")
def test_first_order_epochs_come_before_the_second_order():
    batch = tiny_batch("mlp")
    learner = at_epoch(tiny_learner("maml", "mlp"), 1)
    learner.first_order_epochs = 2
    first, second = (meta_gradient(tiny_learner("maml", "mlp", order=order), batch) for order in (1, 2))
    assert relative_difference(meta_gradient(learner, batch), first) == 0
    at_epoch(learner, 2)
    assert relative_difference(meta_gradient(learner, batch), second) == 0


@pytest.mark.parametrize("engine", ["higher", "vectorized"])
def test_per_step_statistics_are_averages_of_the_supports(engine):
    learner, batch = tiny_learner("maml", "conv4", batch_norm="per_step", engine=engine, lr=0.5), tiny_batch("conv4")
    layer = next(m for m in learner.network.modules() if isinstance(m, EpisodicBatchNorm))
    assert layer.step_mean.shape == (3, 4), "before each of two steps, and behind"
    convolution = learner.network.backbone.blocks[0][0]
    passing = torch.stack([convolution(x).detach() for x in batch.support["image"]])
    same = tiny_learner("maml", "conv4", batch_norm="support", engine=engine, lr=0.5)
    assert relative_difference(meta_gradient(learner, batch), meta_gradient(same, batch)) < 1e-6
    torch.testing.assert_close(layer.step_mean[0], 0.1 * passing.mean((0, 1, 3, 4)))
    variance = passing.var((1, 3, 4), correction=0).mean(0)
    torch.testing.assert_close(layer.step_var[0], 0.9 + 0.1 * variance)
    assert not torch.allclose(layer.step_mean[0], layer.step_mean[2], atol=1e-4), "each step has its own"
    assert not layer.observed


def test_per_step_statistics_replace_the_supports_in_evaluation():
    learner = tiny_learner("maml", "conv4", batch_norm="per_step").eval()
    support, labels, query, _ = one_task(tiny_batch("conv4"))
    before = learner.adapt(support, labels).score(query)
    for layer in learner.network.modules():
        if isinstance(layer, EpisodicBatchNorm):
            layer.step_var[-1] *= 4  # seen by the queries alone
    after = learner.adapt(support, labels)
    assert not torch.allclose(after.score(query), before)
    shifted = {"image": support["image"] + 5}
    one, other = (learner.adapt(s, labels).score(query) for s in (support, shifted))
    assert not torch.allclose(one, other), "it still adapts to the support by its steps"


@pytest.mark.parametrize("checkpoint_steps", [False, True])
def test_recomputed_steps_leave_no_statistics_behind(checkpoint_steps):
    means = []
    for recompute in (False, checkpoint_steps):
        settings = {"batch_norm": "per_step", "engine": "vectorized", "checkpoint_steps": recompute}
        learner = tiny_learner("maml", "conv4", **settings, tasks_at_once=3)
        for scale in (1, 2):
            batch = tiny_batch("conv4")
            batch.support["image"] *= scale
            learner.outer_loss(batch).backward()
        means.append(next(m for m in learner.network.modules() if isinstance(m, EpisodicBatchNorm)).step_mean)
    torch.testing.assert_close(*means)


def test_an_untrained_control_has_working_statistics():
    control = untrained(tiny_learner("maml_pp", "conv4"), seed=0)
    support, labels, query, _ = one_task(tiny_batch("conv4"))
    assert control.inner_loop.config.batch_norm == "support"
    assert control.adapt(support, labels).score(query).std() > 0


def test_maml_pp_is_all_its_parts():
    learner = learner_class("maml_pp")(backbone="mlp", input_shapes={"tabular": (5,)})
    config = learner.inner_loop.config
    assert (config.learn_lr, config.batch_norm, config.order) == ("parameter_and_step", "per_step", 2)
    assert (learner.multi_step_epochs, learner.first_order_epochs, learner._schedule) == (10, 10, "cosine")


def test_settings_that_do_not_go_together_are_refused():
    shape = {"tabular": (5,)}
    with pytest.raises(ValueError, match="must be 0 or more"):
        GradientLearner("mlp", {}, shape, multi_step_epochs=-1)
    with pytest.raises(ValueError, match="order='implicit' uses only the last step"):
        GradientLearner("mlp", {}, shape, InnerLoopConfig(order="implicit", proximal=1.0), multi_step_epochs=3)
    with pytest.raises(ValueError, match="query_steps is 0"):
        learner_class("reptile")(backbone="mlp", input_shapes=shape, query_steps=0)
    with pytest.raises(ValueError, match=r"reptile is inner_loop.adapt=\('\*',\), saw \('head.\*',\)"):
        learner_class("reptile")(backbone="mlp", input_shapes=shape, inner_loop=InnerLoopConfig(adapt="head.*"))
    with pytest.raises(ValueError, match="reptile has no query loss"):
        learner_class("reptile")(backbone="mlp", input_shapes=shape, multi_step_epochs=3)
