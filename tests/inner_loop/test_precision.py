"""Half precision: gradients of the inner loop neither underflow nor overflow, and the defaults keep the direction."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from metaad_zoo.inner_loop import InnerLoop, InnerLoopConfig, adapt_parameters
from tests.tiny import WITH_WEIGHTS, meta_gradient, tiny_batch, tiny_learner

HALVES = [torch.bfloat16, torch.float16]


def step(network, scale: float, precision: str, order: int) -> torch.Tensor:
    """How far one inner step of rate 1 moves a linear network, its loss and its input scaled."""
    x = torch.full((4, 2), 0.5)
    loop = InnerLoop(InnerLoopConfig(steps=1, lr=1.0, precision=precision, order=order), network)
    adapted = adapt_parameters(network, loop, lambda net: (net(x) * scale).mean(), meta_gradient=True)
    return adapted["weight"] - network.weight


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e3])
def test_float16_gradients_neither_underflow_nor_overflow(scale, order):
    """A gradient of 1e-8 is 0 in float16, and one of 1e3 overflows at the scale that saves the first."""
    network = nn.Linear(2, 1)
    expected = step(network, scale, "full", order)
    with torch.autocast("cpu", torch.float16):
        found = step(network, scale, "mixed", order)
        plain = torch.autograd.grad((network(torch.full((4, 2), 0.5)) * scale).mean(), network.weight)[0]
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0.0)
    assert (plain == 0).all() == (scale == 1e-7), "without help the smallest is lost"


def test_a_static_scale_would_overflow():
    network = nn.Linear(2, 1)
    with torch.autocast("cpu", torch.float16):
        logits = network(torch.full((4, 2), 0.5))
        gradient = torch.autograd.grad((logits * 1e3 * 2.0**16).mean(), network.weight)[0]
    assert not torch.isfinite(gradient).all()


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("engine", ["higher", "vectorized"])
@pytest.mark.parametrize("backbone", WITH_WEIGHTS)
def test_the_default_keeps_the_direction_of_float32(backbone, engine, half):
    batch = tiny_batch(backbone)
    expected = torch.cat([g.flatten() for g in meta_gradient(tiny_learner("maml", backbone, steps=5), batch)])
    learner = tiny_learner("maml", backbone, steps=5, engine=engine)
    learner.loss_scale = lambda: 1024.0  # as the trainer's scaler does under 16-mixed
    with torch.autocast("cpu", half):
        loss = learner.outer_loss(batch)
    found = torch.autograd.grad(loss * 1024, list(learner.parameters()), materialize_grads=True)
    assert cosine_similarity(torch.cat([g.flatten() for g in found]), expected, dim=0) >= 0.99


def test_batch_normalisation_is_why_the_default_differs():
    assert tiny_learner("maml", "conv4").inner_loop.precision == "full"
    assert tiny_learner("maml", "transformer").inner_loop.precision == "mixed"
    assert tiny_learner("maml", "conv4", precision="mixed").inner_loop.precision == "mixed"
