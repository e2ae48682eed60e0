"""Meta-gradients against finite differences, a closed form, and a hand-written first-order gradient; all in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.inner_loop import InnerLoop, InnerLoopConfig, adapt_parameters
from metaad_zoo.learners import GradientLearner


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mlp() -> nn.Module:
    # Smooth all over: finite differences across a kink of ReLU would not be the gradient.
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def task():
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(6, 3, generator=g), torch.randn(6, 1, generator=g)
    return x[:4], y[:4], x[4:], y[4:]


def outer_loss(network, loop):
    xs, ys, xq, yq = task()
    adapted = adapt_parameters(network, loop, lambda net: F.mse_loss(net(xs), ys), meta_gradient=True)
    return F.mse_loss(functional_call(network, adapted, (xq,)), yq)


def finite_differences(network, loop, parameter, eps=1e-6):
    flat = parameter.data.view(-1)
    gradient = torch.zeros_like(flat)
    for i in range(len(flat)):
        start = flat[i].item()
        values = []
        for sign in (1, -1):
            flat[i] = start + sign * eps
            values.append(outer_loss(network, loop).item())
        flat[i] = start
        gradient[i] = (values[0] - values[1]) / (2 * eps)
    return gradient.view_as(parameter)


SETTINGS = [
    {"steps": 1},
    {"steps": 3},
    {"steps": 0},
    {"steps": 3, "momentum": 0.9},
    {"steps": 3, "rule": "adam", "lr": 0.05},
    {"steps": 3, "learn_lr": "parameter"},
    {"steps": 3, "learn_lr": "parameter_and_step"},
    {"steps": 3, "rule": "adam", "learn_lr": "parameter_and_step", "lr": 0.05},
    {"steps": 2, "adapt": ("2.*",)},
    {"steps": 2, "adapt": ("0.weight", "2.bias"), "momentum": 0.5, "learn_lr": "parameter"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_second_order_equals_finite_differences(settings):
    network = mlp()
    loop = InnerLoop(InnerLoopConfig(**{"lr": 0.1, **settings}), network)
    everything = [*network.parameters(), *loop.parameters()]
    gradients = torch.autograd.grad(outer_loss(network, loop), everything, allow_unused=True)
    for parameter, gradient in zip(everything, gradients, strict=True):
        expected = finite_differences(network, loop, parameter)
        values = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-8)


class Weight(nn.Module):
    """A linear model whose weight may carry a task axis."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.5], [-1.0], [2.0]]))

    def forward(self, x):
        return x @ self.w


@pytest.mark.parametrize(
    ("order", "meta_gradient", "tasks"), [(2, True, None), (2, True, 1), (1, True, None), (2, False, None)]
)
def test_each_step_has_its_own_rate(order, meta_gradient, tasks):
    """Gradient descent on |Xw - y|^2 written out with numpy."""
    rates, network, (xs, ys, *_) = [0.3, 0.01, 0.1], Weight(), task()
    loop = InnerLoop(InnerLoopConfig(steps=3, order=order, learn_lr="parameter_and_step"), network)
    loop.rates.data.copy_(torch.tensor([rates]))

    def loss(net):
        return (net(xs) - ys).square().flatten(-2).sum(-1)

    adapted = adapt_parameters(network, loop, loss, meta_gradient=meta_gradient, tasks=tasks)
    w, x, y = network.w.detach().numpy(), xs.numpy(), ys.numpy()
    for rate in rates:
        w = w - rate * 2 * x.T @ (x @ w - y)
    np.testing.assert_allclose(adapted["w"].detach().reshape(3, 1), w, rtol=1e-12)


def test_second_order_equals_the_closed_form_of_a_linear_model():
    """Loss |Xw - y|^2 / 2: w' = w - a A (Xs'Xs w - Xs'ys); the meta-gradient is (I - a Xs'Xs) Xq'(Xq w' - yq)."""
    xs, ys, xq, yq = task()
    network = nn.Linear(3, 1, bias=False)
    rate, w = 0.07, network.weight.detach().T.clone()
    loop = InnerLoop(InnerLoopConfig(steps=1, lr=rate), network)

    def half_square(net, x, y):
        return (net(x) - y).square().sum() / 2

    adapted = adapt_parameters(network, loop, lambda net: half_square(net, xs, ys), meta_gradient=True)
    half_square(lambda x: functional_call(network, adapted, (x,)), xq, yq).backward()

    hessian = xs.T @ xs
    w_adapted = w - rate * (hessian @ w - xs.T @ ys)
    torch.testing.assert_close(adapted["weight"].T, w_adapted)
    at_query = xq.T @ (xq @ w_adapted - yq)
    torch.testing.assert_close(network.weight.grad.T, (torch.eye(3) - rate * hessian) @ at_query)


@pytest.mark.parametrize("settings", SETTINGS[:2] + SETTINGS[3:5] + SETTINGS[8:9], ids=str)
def test_first_order_is_the_query_gradient_at_the_adapted_point(settings):
    network = mlp()
    loop = InnerLoop(InnerLoopConfig(**{"lr": 0.1, "order": 1, **settings}), network)
    outer_loss(network, loop).backward()

    xs, ys, xq, yq = task()
    by_hand = mlp()
    by_hand.load_state_dict(network.state_dict())
    adapted_names = set(loop.names)
    chosen = [p for name, p in by_hand.named_parameters() if name in adapted_names]
    kind = torch.optim.Adam if loop.config.rule == "adam" else torch.optim.SGD
    extra = {} if loop.config.rule == "adam" else {"momentum": loop.config.momentum}
    optimiser = kind(chosen, lr=loop.config.lr, **extra)
    for _ in range(loop.config.steps):
        by_hand.zero_grad()
        F.mse_loss(by_hand(xs), ys).backward()
        optimiser.step()
    by_hand.zero_grad()
    F.mse_loss(by_hand(xq), yq).backward()
    # Here and in higher, Adam's eps is added before the bias is corrected; in torch after it.
    close = {"rtol": 1e-4, "atol": 1e-5} if loop.config.rule == "adam" else {"rtol": 1e-10, "atol": 1e-12}
    for ours, theirs in zip(network.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **close)


def test_first_order_rates_learn_along_the_descent_direction():
    """With gradients held constant, d loss / d rate is minus the inner gradient times the outer one."""
    network = nn.Linear(3, 1, bias=False)
    loop = InnerLoop(InnerLoopConfig(steps=1, lr=0.1, order=1, learn_lr="parameter"), network)
    outer_loss(network, loop).backward()
    xs, ys, xq, yq = task()
    w = network.weight.detach()
    inner = 2 * (xs @ w.T - ys).T @ xs / len(xs)
    outer = 2 * (xq @ (w - 0.1 * inner).T - yq).T @ xq / len(xq)
    torch.testing.assert_close(loop.rates.grad, -(inner * outer).sum().view(1, 1))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_both_orders_adapt_alike(settings):
    network = mlp()
    xs, ys, *_ = task()
    results = []
    for order, meta_gradient in ((2, True), (1, True), (2, False)):
        loop = InnerLoop(InnerLoopConfig(**{"lr": 0.1, "order": order, **settings}), network)
        results.append(
            adapt_parameters(network, loop, lambda net: F.mse_loss(net(xs), ys), meta_gradient=meta_gradient)
        )
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(results[2][name], expected, rtol=1e-10, atol=1e-12)
        assert not results[2][name].requires_grad


def test_adapting_leaves_the_network_alone():
    network = mlp()
    before = {name: p.clone() for name, p in network.named_parameters()}
    xs, ys, *_ = task()
    for order in (1, 2):
        loop = InnerLoop(InnerLoopConfig(steps=2, order=order), network)
        adapt_parameters(network, loop, lambda net: F.mse_loss(net(xs), ys), meta_gradient=True)
    for name, p in network.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None


@pytest.mark.parametrize(("order", "meta_gradient"), [(2, True), (1, True), (2, False)])
def test_frozen_parameters_stay_as_they_are_on_every_route(order, meta_gradient):
    network = mlp()
    network[0].requires_grad_(False)
    loop = InnerLoop(InnerLoopConfig(steps=2, order=order), network)
    assert loop.names == ["2.weight", "2.bias"]
    xs, ys, *_ = task()
    adapted = adapt_parameters(network, loop, lambda net: F.mse_loss(net(xs), ys), meta_gradient=meta_gradient)
    assert torch.equal(adapted["0.weight"], network[0].weight)
    assert not torch.equal(adapted["2.weight"], network[2].weight)
    assert not network[0].weight.requires_grad


@pytest.mark.parametrize("backbone", ["conv4", "timm/test_resnet"])
@pytest.mark.parametrize("batch_norm", ["support", "transductive", "running"])
def test_a_whole_episode_through_higher_equals_finite_differences(backbone, batch_norm):
    """Support and query through convolution, batch normalisation and pooling, along a random direction."""
    options = {"width": 4} if backbone == "conv4" else {}
    size = 16 if backbone == "conv4" else 32
    config = InnerLoopConfig(steps=2, lr=0.01, batch_norm=batch_norm)
    learner = GradientLearner(backbone, options, {"image": (1, size, size)}, config).double()
    g = torch.Generator().manual_seed(0)
    images = [{"image": torch.randn(1, n, 1, size, size, generator=g)} for n in (4, 6)]
    labels = [torch.zeros(1, 4, dtype=torch.long), torch.tensor([[0, 0, 0, 1, 1, 1]])]
    batch = EpisodeBatch(images[0], labels[0], images[1], labels[1], ["task"])
    parameters = list(learner.network.parameters())
    with torch.no_grad():  # timm starts residual branches at 0, right on the kink of ReLU, where there is no derivative
        for p in parameters:
            p += 0.05 * torch.randn(p.shape, generator=g)
    direction = [torch.randn(p.shape, generator=g) for p in parameters]
    length = sum(d.square().sum() for d in direction).sqrt()
    direction = [d / length for d in direction]
    gradients = torch.autograd.grad(learner.outer_loss(batch), parameters)
    derivative = sum((a * b).sum() for a, b in zip(gradients, direction, strict=True)).item()
    values, eps = [], 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * eps * d
        values.append(learner.outer_loss(batch).item())
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p -= sign * eps * d
    assert derivative == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-4)


@pytest.mark.parametrize("order", [1, 2])
def test_divergence_is_told_with_its_step(order):
    network = nn.Linear(3, 1)
    loop = InnerLoop(InnerLoopConfig(steps=200, lr=1e6, order=order), network)
    xs, ys, *_ = task()
    with pytest.raises(FloatingPointError, match=r"at inner step \d+.*lower inner_loop.lr"):
        adapt_parameters(network, loop, lambda net: F.mse_loss(net(xs), ys), meta_gradient=True)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"steps": -1}, "steps >= 0"),
        ({"lr": 0.0}, "lr > 0"),
        ({"rule": "sdg"}, "did you mean 'sgd'"),
        ({"engine": "hihger"}, "did you mean 'higher'"),
        ({"learn_lr": "paramter"}, "did you mean 'parameter'"),
        ({"rule": "adam", "momentum": 0.9}, "momentum=0.9 is for rule='sgd'"),
        ({"order": 3}, "expected 1, 2 or 'implicit'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        InnerLoopConfig(**settings)


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"'heads\.\*' matches no trainable parameter; there are weight, bias"):
        InnerLoop(InnerLoopConfig(adapt=("heads.*",)), nn.Linear(2, 1))
