"""Implicit meta-gradients: the gradients of the inner loop's optimum, independent of the optimiser's path.

Source: Rajeswaran et al., "Meta-Learning with Implicit Gradients", NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

from metaad_zoo.inner_loop.descent import descend
from metaad_zoo.inner_loop.loop import InnerLoop, StepContext, SupportLoss, Visit

Vectors = Sequence[Tensor]
Product = Callable[[Vectors], list[Tensor]]


def adapt_to_optimum(
    network: nn.Module,
    loop: InnerLoop,
    support_loss: SupportLoss,
    start: Mapping[str, Tensor],
    *,
    at_step: StepContext,
    visit: Visit | None = None,
) -> dict[str, Tensor]:
    """Adapt without a graph, and attach the optimum's meta-gradient.

    The adapted weights ``w`` minimise ``L(w) + proximal / 2 * |w - start|^2``, so ``dL/dw + proximal * (w - start)`` is
    0 there. Let ``g`` be the outer gradient at ``w``, and ``v`` the solution of ``(H + proximal) v = g`` by conjugate
    gradients (equation 6 of the paper, times ``proximal``). The start's gradient is ``proximal * v``, and that of a
    parameter ``u`` that is not adapted is ``-d(v . dL/dw)/du``. Memory does not grow with the number of steps.

    Args, Returns and Raises are those of :func:`metaad_zoo.inner_loop.descent.descend`; ``loop.config.proximal`` is
    above 0.
    """
    detached = {name: p.detach() for name, p in start.items()}

    def visit_before(step: int, parameters: Mapping[str, Tensor], loss: Tensor | None) -> None:
        if visit is not None and loss is not None:
            visit(step, parameters, loss)

    solution = descend(network, loop, support_loss, detached, create_graph=False, at_step=at_step, visit=visit_before)
    optimum = {name: solution[name].detach().requires_grad_() for name in loop.names}

    def forward(*args: object, **kwargs: object) -> Tensor:
        out: Tensor = functional_call(network, {**start, **optimum}, args, kwargs)
        return out

    with at_step(max(loop.config.steps - 1, 0)):
        loss = support_loss(forward)
    leaves = list(optimum.values())
    gradients = torch.autograd.grad(loss.sum(), leaves, create_graph=True, materialize_grads=True)
    proximal = loop.config.proximal

    def product(vectors: Vectors) -> list[Tensor]:
        curved = torch.autograd.grad(gradients, leaves, vectors, retain_graph=True, materialize_grads=True)
        return [c + proximal * v for c, v in zip(curved, vectors, strict=True)]

    residuals = [g + proximal * (w.detach() - start[n]) for g, (n, w) in zip(gradients, optimum.items(), strict=True)]
    per_task = loss.ndim == 1
    attached = _Optimum.apply(
        lambda g: conjugate_gradients(product, g, loop.config.cg_steps, per_task=per_task),
        *(w.detach() for w in leaves),
        *residuals,
    )
    adapted = {**start, **dict(zip(loop.names, attached, strict=True))}
    if visit is not None:
        visit(loop.config.steps, adapted, None)
    return adapted


class _Optimum(Function):
    """Weights at which the residuals are 0; their gradient flows to the residuals through the solver."""

    @staticmethod
    def forward(ctx: Any, solve: Product, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.solve = solve
        return tuple(w.clone() for w in tensors[: len(tensors) // 2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        solution = ctx.solve(gradients)
        return (None, *(None for _ in gradients), *(-v for v in solution))


def conjugate_gradients(product: Product, b: Vectors, steps: int, *, per_task: bool = False) -> list[Tensor]:
    """Solve ``A x = b`` for symmetric positive definite ``A``.

    It stops early at the solution, and at a direction of negative curvature, which networks can have.

    Source: Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952.

    Args:
        product: function of a vector ``v``, as a list of tensors, that returns ``A v``.
        b: right-hand side, as a list of tensors.
        steps: maximum number of iterations.
        per_task: whether the tensors have a leading task axis, with an independent system for each task.

    Example:
        >>> a = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
        >>> conjugate_gradients(lambda v: [a @ v[0]], [torch.tensor([2.0, 2.0])], steps=2)[0]
        tensor([1.0000, 0.5000])
    """

    def dot(a: Vectors, c: Vectors) -> Tensor:
        parts = [(x * y).flatten(1).sum(1) if per_task else (x * y).sum() for x, y in zip(a, c, strict=True)]
        return torch.stack(parts).sum(0)

    def plus(a: Vectors, factor: Tensor, c: Vectors) -> list[Tensor]:
        return [x + factor.view(*factor.shape, *(1,) * (x.ndim - factor.ndim)) * y for x, y in zip(a, c, strict=True)]

    x, r = [torch.zeros_like(part) for part in b], list(b)
    p, size = list(b), dot(b, b)
    for _ in range(steps):
        image = product(p)
        curvature = dot(p, image)
        going = (curvature > 0) & (size > 0)
        length = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        x, r = plus(x, length, p), plus(r, -length, image)
        new = dot(r, r)
        p = plus(r, torch.where(going, new / torch.where(going, size, 1.0), 0.0), p)
        p = plus([torch.zeros_like(part) for part in p], going.to(new.dtype), p)
        size = torch.where(going, new, 0.0)
    return x
