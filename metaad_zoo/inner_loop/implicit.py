"""Implicit meta-gradients: those of the inner loop's optimum, whatever way led there.

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

    The adapted weights ``w`` minimise ``L(w) + proximal / 2 * |w - start|^2``: there, ``dL/dw + proximal * (w -
    start)`` is 0. With a gradient ``g`` coming in at ``w``, and ``v`` from ``(H + proximal) v = g`` by conjugate
    gradients (equation 6 of the paper, times ``proximal``), the start gets ``proximal * v``, and a parameter ``u`` that
    is not adapted gets ``-d(v . dL/dw)/du``. One graph of the support loss is kept, however many steps led to ``w``.

    Args:
        network: to be called with the parameters.
        loop: names, rates and rule; its ``proximal`` above 0.
        support_loss: ``()``, or ``(tasks,)`` where parameters carry a task axis.
        start: all parameters by name.
        at_step: context that tells the network which step it is in.
        visit: see :func:`metaad_zoo.inner_loop.descent.descend`.

    Returns:
        All parameters by name, the adapted ones replaced.

    Raises:
        DivergenceError: the support loss is not finite.
    """
    detached = {name: p.detach() for name, p in start.items()}  # the way to the optimum leaves nothing behind

    def on_the_way(step: int, parameters: Mapping[str, Tensor], loss: Tensor | None) -> None:
        if visit is not None and loss is not None:
            visit(step, parameters, loss)

    found = descend(network, loop, support_loss, detached, create_graph=False, at_step=at_step, visit=on_the_way)
    optimum = {name: found[name].detach().requires_grad_() for name in loop.names}

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
    """Weights at which the residuals are 0; an incoming gradient goes on to the residuals through the solver."""

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

    Source: Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952. It stops early, as
    it must, at the solution and at a direction of negative curvature, of which a network has some.

    Args:
        product: ``A`` times a vector, which is given in parts.
        b: the right side, in parts.
        steps: at most this many.
        per_task: each part has a leading task axis, and each task a system of its own.

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
