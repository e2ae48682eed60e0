"""Compilation of a whole outer step: traced once for each set of shapes, then compiled by TorchInductor.

``torch.compile`` does not follow a gradient of a gradient. Tracing does: the trace of inner loops, query pass and
meta-gradient is a plain list of tensor operations, without any autograd, which TorchInductor fuses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

Step = Callable[..., tuple[Tensor, ...]]
log = logging.getLogger(__name__)
_eager: ContextVar[bool] = ContextVar("eager", default=False)


@contextmanager
def without_compilation() -> Iterator[None]:
    """Context in which outer steps run without compilation, such as single tasks that are run only once."""
    token = _eager.set(True)
    try:
        yield
    finally:
        _eager.reset(token)


def compilation_is_on() -> bool:
    """Whether the outer step may be compiled: with gradients, and outside of :func:`without_compilation`."""
    return torch.is_grad_enabled() and not _eager.get()


class CompiledSteps:
    """Compiled versions of a function of tensors, one for each key and set of shapes; copies start without any.

    Args:
        fuse: whether TorchInductor compiles the trace; False runs its operations one by one, as a check.
    """

    def __init__(self, fuse: bool = True) -> None:
        self.fuse = fuse
        self._versions: dict[Hashable, Step] = {}

    @property
    def versions(self) -> int:
        """Number of compiled versions."""
        return len(self._versions)

    def __reduce__(self) -> Any:
        return CompiledSteps, (self.fuse,)

    def __deepcopy__(self, memo: object) -> CompiledSteps:
        return CompiledSteps(self.fuse)

    def run(self, step: Step, inputs: Sequence[Tensor], key: Hashable = None) -> tuple[Tensor, ...]:
        """Outputs of the step; the first call with new shapes compiles it, which takes from seconds to minutes.

        Args:
            step: function of the inputs alone; it may differentiate, but not branch on values or draw random numbers.
            inputs: tensors.
            key: whatever else the step depends on.

        Raises:
            ValueError: the step cannot be traced, or not be compiled on this machine.

        Example:
            >>> steps = CompiledSteps(fuse=False)
            >>> steps.run(lambda x: (x * x + 1,), [torch.tensor([2.0])])
            (tensor([5.]),)
        """
        signature = (key, *((tuple(x.shape), x.stride(), x.dtype, x.device) for x in inputs))
        if signature not in self._versions:
            traced = trace_step(step, inputs)
            self._versions[signature] = compile_trace(traced, inputs) if self.fuse else traced
        with torch.no_grad():
            return tuple(self._versions[signature](*inputs))


def trace_step(step: Step, inputs: Sequence[Tensor]) -> GraphModule:
    """Record a step's tensor operations for inputs of these shapes.

    Raises:
        ValueError: the operations depend on values, draw random numbers, or have no second derivative.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    def on_leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
        return step(*(t.detach() for t in tensors))

    try:
        graph = make_fx(on_leaves)(*(t.detach() for t in inputs))
    except RuntimeError as error:
        if "tracing tensor" not in str(error):
            raise
        raise ValueError(
            f"inner_loop.compile can't follow operations that depend on values ({_first_line(error)}): set "
            "inner_loop.compile=false"
        ) from error
    random = {
        str(n.target) for n in graph.graph.nodes if torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())
    }
    if random:
        raise ValueError(
            f"inner_loop.compile would change this network's random numbers ({', '.join(sorted(random))}): set its "
            "dropout to 0, or inner_loop.compile=false"
        )
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def compile_trace(graph: GraphModule, inputs: Sequence[Tensor]) -> Step:
    """Compile a trace by TorchInductor.

    Raises:
        ValueError: it cannot be compiled on this machine.
    """
    from torch._inductor.compile_fx import compile_fx

    log.warning(
        "inner_loop.compile: compiling an outer step of %d operations; this takes from seconds to minutes, once for "
        "each shape of a batch",
        len(graph.graph.nodes),
    )
    try:
        with torch.no_grad():
            compiled: Step = compile_fx(graph, list(inputs))  # type: ignore[assignment]
            compiled(*inputs)
    except Exception as error:
        raise ValueError(
            f"this outer step can't be compiled ({_first_line(error)}); on a CPU TorchInductor needs a C++ compiler, "
            "g++ or clang++: install one, or set inner_loop.compile=false"
        ) from error
    return compiled


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
