"""Steps of gated recurrent units over time, with first and second derivative written by hand.

Autograd takes the gradient of the weights step by step, and each is as large as the weights. In these derivatives the
products of all steps are one. The second derivative is the reverse of the steps' tangent (Pearlmutter, "Fast Exact
Multiplication by the Hessian", 1994).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


def gru_steps(gates: Tensor, new: Tensor, w_gates: Tensor, w_new: Tensor, b_new: Tensor) -> tuple[Tensor, Tensor]:
    """States of ``nn.GRU`` from the state 0, twice differentiable.

    Args:
        gates: contribution of the input to reset and update gate, with all biases ``(tasks, T, n, 2 * hidden)``.
        new: contribution of the input to the candidate, with its bias ``(tasks, T, n, hidden)``.
        w_gates: weights of the state for the gates ``(tasks, hidden, 2 * hidden)``.
        w_new: weights of the state for the candidate ``(tasks, hidden, hidden)``.
        b_new: bias of the state for the candidate ``(tasks or 1, 1, hidden)``.

    Returns:
        All states ``(tasks, T, n, hidden)``, and the last ``(tasks, n, hidden)``.
    """
    weights = (weight.to(gates.dtype) for weight in (w_gates, w_new, b_new))  # autocast's type, if that is on
    states, last = _Steps.apply(gates, new, *weights)
    return states, last


def _stack(steps: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(values, 1) for values in zip(*steps, strict=True)]


def _from_previous(states: Tensor, weight: Tensor) -> Tensor:
    """Product of the state before each step, the first of which is 0, with ``(tasks, hidden, out)``."""
    later = torch.bmm(states[:, :-1].flatten(1, 2), weight).unflatten(1, (-1, states.shape[2]))
    return torch.cat([later.new_zeros(len(later), 1, *later.shape[2:]), later], 1)


def _weight_gradient(states: Tensor, gradient: Tensor) -> Tensor:
    """Sum over steps of ``(state before).T @ gradient``, ``(tasks, hidden, out)``."""
    return torch.bmm(states[:, :-1].flatten(1, 2).mT, gradient[:, 1:].flatten(1, 2))


def _bias_gradient(gradient: Tensor, shape: torch.Size) -> Tensor:
    return gradient.sum([1, 2]).unsqueeze(1).sum_to_size(shape)


class _Steps(Function):
    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, new: Tensor, w_gates: Tensor, w_new: Tensor, b_new: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        h = new.new_zeros(len(new), *new.shape[2:])
        steps, states = [], []
        for gates_drive, new_drive in zip(gates.unbind(1), new.unbind(1), strict=True):
            gate = torch.sigmoid(torch.baddbmm(gates_drive, h, w_gates))
            product = torch.baddbmm(b_new, h, w_new)
            reset, update = gate.chunk(2, -1)
            candidate = torch.tanh(torch.addcmul(new_drive, reset, product))
            rest = h - candidate
            h = torch.addcmul(candidate, rest, update)
            steps.append((gate, product, candidate, rest))
            states.append(h)
        ctx.steps = steps
        every = torch.stack(states, 1)
        ctx.save_for_backward(gates, new, w_gates, w_new, b_new, every)
        return every, h

    @staticmethod
    def backward(ctx: Any, g_states: Tensor | None, g_last: Tensor | None) -> Any:
        *inputs, states = ctx.saved_tensors
        return _Gradient.apply(ctx.steps, g_states, g_last, *inputs, states.detach())


class _Gradient(Function):
    """Gradients of both contributions, both weights and the bias."""

    @staticmethod
    def forward(
        ctx: Any,
        steps: list[tuple[Tensor, ...]],
        g_states: Tensor | None,
        g_last: Tensor | None,
        gates: Tensor,
        new: Tensor,
        w_gates: Tensor,
        w_new: Tensor,
        b_new: Tensor,
        states: Tensor,
    ) -> tuple[Tensor, ...]:
        carry = torch.zeros_like(states[:, 0]) if g_last is None else g_last
        by_step = [None] * len(steps) if g_states is None else g_states.unbind(1)
        reverse = []
        for (gate, product, candidate, rest), g_state in zip(reversed(steps), reversed(by_step), strict=True):
            reset, update = gate.chunk(2, -1)
            g = carry if g_state is None else g_state + carry
            passed = g * update
            inner = tanh_backward(g - passed, candidate)
            through = inner * reset
            opening = sigmoid_backward(torch.cat([inner * product, g * rest], -1), gate)
            carry = torch.baddbmm(torch.baddbmm(passed, opening, w_gates.mT), through, w_new.mT)
            reverse.append((opening, inner, through, g))
        g_gates, g_inner, g_products = _stack([values[:3] for values in reverse[::-1]])
        ctx.steps, ctx.reverse = steps, reverse
        ctx.shared = b_new.shape
        ctx.save_for_backward(w_gates, w_new, states, g_gates, g_products)
        of_weights = (_weight_gradient(states, g_gates), _weight_gradient(states, g_products))
        return (g_gates, g_inner, *of_weights, _bias_gradient(g_products, b_new.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u_gates: Tensor, u_new: Tensor, u_w_gates: Tensor, u_w_new: Tensor, u_b: Tensor) -> Any:
        w_gates, w_new, states, g_gates, g_products = ctx.saved_tensors
        # Tangent: derivative of each step in the direction of the cotangents u.
        of_gates = u_gates + _from_previous(states, u_w_gates)
        of_products = u_b.unsqueeze(1) + _from_previous(states, u_w_new)
        d_h, tangent = torch.zeros_like(states[:, 0]), []
        for (gate, product, candidate, rest), (d_gate, d_product, d_new) in zip(
            ctx.steps, zip(*(v.unbind(1) for v in (of_gates, of_products, u_new)), strict=True), strict=True
        ):
            reset, update = gate.chunk(2, -1)
            d_gate = torch.baddbmm(d_gate, d_h, w_gates)
            d_product = torch.baddbmm(d_product, d_h, w_new)
            d_reset, d_update = sigmoid_backward(d_gate, gate).chunk(2, -1)
            d_inner = torch.addcmul(torch.addcmul(d_new, d_reset, product), reset, d_product)
            d_candidate = tanh_backward(d_inner, candidate)
            d_rest = d_h - d_candidate
            d_h = torch.addcmul(torch.addcmul(d_candidate, d_rest, update), d_update, rest)
            tangent.append((d_gate, d_product, d_reset, d_update, d_inner, d_rest, d_h))
        d_states = torch.stack([values[-1] for values in tangent], 1)
        # Reverse of the tangent: its own adjoints are the gradients of the first derivative.
        towards = (torch.bmm(g.flatten(1, 2), u.mT) for g, u in ((g_gates, u_w_gates), (g_products, u_w_new)))
        through = sum(towards).unflatten(1, (-1, states.shape[2])).unbind(1)  # type: ignore[union-attr]
        carry, adjoints = torch.zeros_like(d_h), []
        for step, first, derivative, to_state in zip(
            reversed(ctx.steps), ctx.reverse, reversed(tangent), reversed(through), strict=True
        ):
            (gate, product, candidate, rest), (_, g_inner, _, g) = step, first
            d_gate, d_product, d_reset, d_update, d_inner, d_rest, _ = derivative
            reset, update = gate.chunk(2, -1)
            # h = candidate + update * (before - candidate), its tangent, and candidate = tanh(inner), its tangent
            passed = torch.addcmul(carry * update, g, d_update)
            curved = (g - g * update) * candidate * d_inner
            a_inner = tanh_backward(torch.sub(carry - passed, curved, alpha=2), candidate)
            a_product = torch.addcmul(a_inner * reset, g_inner, d_reset)
            of_reset = torch.addcmul(a_inner * product, g_inner, d_product)
            of_update = torch.addcmul(carry * rest, g, d_rest)
            of_slope = torch.cat([g_inner * product, g * rest], -1) * (1 - 2 * gate) * d_gate
            a_gate = sigmoid_backward(torch.cat([of_reset, of_update], -1) + of_slope, gate)
            adjoints.append((a_gate, a_inner, a_product))
            carry = torch.baddbmm(torch.baddbmm(passed + to_state, a_gate, w_gates.mT), a_product, w_new.mT)
        a_gates, a_inner, a_products = _stack(adjoints[::-1])
        return (
            None,
            d_states if ctx.needs_input_grad[1] else None,
            d_h if ctx.needs_input_grad[2] else None,
            a_gates,
            a_inner,
            _weight_gradient(states, a_gates) + _weight_gradient(d_states, g_gates),
            _weight_gradient(states, a_products) + _weight_gradient(d_states, g_products),
            _bias_gradient(a_products, ctx.shared),
            None,
        )
