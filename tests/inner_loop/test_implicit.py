"""Implicit meta-gradients against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from metaad_zoo.inner_loop import InnerLoop, InnerLoopConfig, adapt_parameters
from metaad_zoo.inner_loop.implicit import conjugate_gradients
from tests.tiny import bytes_kept, tiny_batch, tiny_learner


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_quadratic_has_the_closed_form():
    """|Xw - y|^2 / 2 with pull p: w* = (A + p)^-1 (X'y + p w0), and the meta-gradient is p (A + p)^-1 g."""
    x, y, g = torch.randn(6, 3), torch.randn(6, 1), torch.randn(3)
    network = nn.Linear(3, 1, bias=False)
    config = InnerLoopConfig(steps=2000, lr=0.02, order="implicit", proximal=0.7, cg_steps=3)

    def loss(net):
        return (net(x) - y).square().sum() / 2

    adapted = adapt_parameters(network, InnerLoop(config, network), loss, meta_gradient=True)["weight"]
    curvature = x.T @ x + 0.7 * torch.eye(3)
    optimum = torch.linalg.solve(curvature, x.T @ y + 0.7 * network.weight.detach().T)
    torch.testing.assert_close(adapted.T, optimum)
    (adapted @ g).sum().backward()
    torch.testing.assert_close(network.weight.grad[0], 0.7 * torch.linalg.solve(curvature, g))


def test_a_parameter_that_is_not_adapted_moves_the_optimum():
    """Against finite differences of the optimum itself; the backbone is not adapted, the head is."""
    network = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    x, y, xq = torch.randn(5, 3), torch.randn(5, 1), torch.randn(4, 3)
    config = InnerLoopConfig(steps=3000, lr=0.3, order="implicit", proximal=0.5, adapt=("2.*",), cg_steps=10)
    loop = InnerLoop(config, network)

    def outer():
        adapted = adapt_parameters(network, loop, lambda net: (net(x) - y).square().mean(), meta_gradient=True)
        return functional_call(network, adapted, (xq,)).sin().sum()

    gradient = torch.autograd.grad(outer(), network[0].weight)[0]
    eps = 1e-5
    for i, j in ((0, 0), (1, 2)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                network[0].weight[i, j] += sign * eps
            values.append(outer().item())
            with torch.no_grad():
                network[0].weight[i, j] -= sign * eps
        assert gradient[i, j].item() == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-4)


def test_conjugate_gradients_solve_each_tasks_own_system():
    roots = torch.randn(4, 5, 5)
    systems = roots @ roots.transpose(1, 2) + torch.eye(5)
    b = torch.randn(4, 5)
    (solution,) = conjugate_gradients(lambda v: [(systems @ v[0].unsqueeze(2)).squeeze(2)], [b], steps=5, per_task=True)
    torch.testing.assert_close(solution, torch.linalg.solve(systems, b))


def test_conjugate_gradients_stop_at_negative_curvature():
    b = torch.tensor([1.0, 1.0])
    (solution,) = conjugate_gradients(lambda v: [torch.tensor([1.0, -3.0]) * v[0]], [b], steps=9)
    assert torch.equal(solution, torch.zeros(2))


@pytest.mark.parametrize("engine", ["higher", "vectorized"])
def test_memory_does_not_grow_with_the_steps(engine):
    """Bytes that autograd keeps for the outer backward pass, against those of second order, which grow."""

    def outer_bytes(steps: int, **settings) -> int:
        learner = tiny_learner("maml", "mlp", engine=engine, steps=steps, tasks_at_once=10, **settings)
        return bytes_kept(learner, tiny_batch("mlp"))[1]

    assert outer_bytes(20, order="implicit", proximal=1.0) == outer_bytes(5, order="implicit", proximal=1.0)
    assert outer_bytes(20) > 3 * outer_bytes(5)
