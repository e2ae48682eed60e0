"""Recurrent layers with a leading task axis (see :mod:`metaad_zoo.backbones.task_axis`) that do not need cuDNN.

cuDNN's recurrent layers have no second derivative, and in evaluation mode no first one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from metaad_zoo.backbones.gru_steps import gru_steps
from metaad_zoo.backbones.task_axis import TASK_LAYERS, TaskAxis, carried_task_axis

_differentiable: ContextVar[bool] = ContextVar("differentiable_recurrence", default=False)


@contextmanager
def differentiable_recurrence(network: nn.Module) -> Iterator[None]:
    """Context in which a network's recurrent layers are twice differentiable, in any mode, also on a GPU.

    Layers of this module run cell by cell, for this thread only. If further recurrent layers are on a GPU, cuDNN is off
    for the whole process (:func:`cudnn_off`).
    """
    foreign = [m for m in network.modules() if isinstance(m, nn.RNNBase) and not isinstance(m, _TaskRecurrence)]
    token = _differentiable.set(True)
    try:
        with cudnn_off() if any(p.is_cuda for m in foreign for p in m.parameters()) else nullcontext():
            yield
    finally:
        _differentiable.reset(token)


class _Switch:
    """Number of active :func:`cudnn_off` contexts, and cuDNN's flag before the first of them."""

    lock, users, before = Lock(), 0, True


@contextmanager
def cudnn_off() -> Iterator[None]:
    """Context without cuDNN, for the whole process; the last thread to leave it restores the flag."""
    with _Switch.lock:
        if _Switch.users == 0:
            _Switch.before, torch.backends.cudnn.enabled = torch.backends.cudnn.enabled, False
        _Switch.users += 1
    try:
        yield
    finally:
        with _Switch.lock:
            _Switch.users -= 1
            if _Switch.users == 0:
                torch.backends.cudnn.enabled = _Switch.before


def runs_in_cudnn(x: Any) -> bool:
    """Whether torch would run a recurrent layer on this input by cuDNN."""
    return bool(x.is_cuda)


class _TaskRecurrence(nn.RNNBase):
    """Recurrence over time for all tasks at once, for weights ``(tasks, gates * hidden, in)``.

    It supports batch first, one direction, no dropout and no initial state.
    """

    def forward(self, x: Any, hx: Any = None) -> Any:
        ranks = {name: 2 if name.startswith("weight") else 1 for names in self._all_weights for name in names}
        axis = carried_task_axis(*((getattr(self, name), rank) for name, rank in ranks.items()))
        plain = self.batch_first and not (self.bidirectional or self.dropout or self.proj_size) and hx is None
        if axis is None:
            differentiable = _differentiable.get() or (torch.is_grad_enabled() and not self.training)
            if not (differentiable and runs_in_cudnn(x)):
                return super().forward(x, hx)
            if not (plain and isinstance(x, Tensor) and x.ndim == 3):
                with cudnn_off():
                    return super().forward(x, hx)
            axis = TaskAxis(1, sample_major=False)
        if not plain:
            raise ValueError(
                f"engine 'vectorized' runs nn.{self.mode} with batch_first=True, one direction, no dropout, no "
                "projection and no initial state only: set inner_loop.engine=higher"
            )
        rows, last = axis.split(x), []
        for layer in range(self.num_layers):
            rows, *memory = self._layer(axis, rows, layer)
            last.append([axis.fold(m) for m in memory])
        memories = tuple(torch.stack(of_layers) for of_layers in zip(*last, strict=True))
        return axis.fold(rows), memories[0] if len(memories) == 1 else memories

    def _layer(self, axis: TaskAxis, rows: Tensor, layer: int) -> tuple[Tensor, ...]:
        """``(tasks, n, T, in)`` to ``(tasks, n, T, hidden)``, the last hidden state and any further states."""
        raise NotImplementedError

    def _weights(self, axis: TaskAxis, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights ``(tasks, in, gates)`` for input and state, and their biases ``(tasks or 1, gates)``."""
        w_in, w_state = (
            axis.per_task(getattr(self, f"weight_{kind}_l{layer}"), 2).transpose(1, 2) for kind in ("ih", "hh")
        )
        b_in, b_state = (
            axis.per_task(getattr(self, f"bias_{kind}_l{layer}"), 1) if self.bias else w_in.new_zeros(1, w_in.shape[2])
            for kind in ("ih", "hh")
        )
        return w_in, w_state, b_in, b_state


def _drives(rows: Tensor, parts: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Contribution of the input to each part of the gates, by time step.

    Args:
        rows: ``(tasks, n, T, in)``.
        parts: weights ``(tasks, in, gates)`` and bias ``(tasks, gates)`` of each part.

    Returns:
        For each part ``(tasks, T, n, gates)``.
    """
    by_time = rows.transpose(1, 2).flatten(1, 2)  # samples of a step are contiguous
    return [
        torch.baddbmm(bias.unsqueeze(1), by_time, weight).unflatten(1, (rows.shape[2], rows.shape[1]))
        for weight, bias in parts
    ]


class TaskGRU(_TaskRecurrence, nn.GRU):
    """``nn.GRU`` for weights ``(tasks, 3 * hidden, in)``.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014, in the variant of
    ``torch.nn.GRU`` (the reset gate acts after the matrix product).
    """

    def _layer(self, axis: TaskAxis, rows: Tensor, layer: int) -> tuple[Tensor, ...]:
        w_in, w_state, b_in, b_state = self._weights(axis, layer)
        # Separate products for gates and candidate are faster than slices of one product, also in the derivatives.
        parts = [2 * self.hidden_size, self.hidden_size]
        gates_from_state, new_from_state = w_state.split(parts, 2)
        (gates_bias, new_bias_in), (gates_bias_state, new_bias) = b_in.split(parts, 1), b_state.split(parts, 1)
        biases = (gates_bias + gates_bias_state, new_bias_in)
        gates, new = _drives(rows, zip(w_in.split(parts, 2), biases, strict=True))
        states, last = gru_steps(gates, new, gates_from_state, new_from_state, new_bias.unsqueeze(1))
        return states.transpose(1, 2), last


@cache
def runs_lstm(dtype: torch.dtype) -> bool:
    """Whether ``nn.LSTM`` can be trained under autocast to ``dtype`` on this CPU, by a trial run.

    oneDNN has an LSTM in bfloat16 only for CPUs with AVX-512, and in float16 for very few.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", dtype):
            x = state = torch.zeros(1, 1, 1)
            # nn.LSTM itself would draw random numbers for its weights.
            weights = [torch.zeros(4, *shape, requires_grad=True) for shape in ((1,), (1,), (), ())]
            states = torch.lstm(x, [state, state], weights, True, 1, 0.0, True, False, True)[0]
            torch.autograd.grad(states.sum(), weights)
    except RuntimeError as error:
        logging.getLogger(__name__).warning(
            "no LSTM in %s on this CPU (%s): its layers compute in the type of their weights",
            str(dtype).removeprefix("torch."),
            str(error).partition(".")[0],
        )
        return False
    return True


class TaskLSTM(_TaskRecurrence, nn.LSTM):
    """``nn.LSTM`` for weights ``(tasks, 4 * hidden, in)``.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 1997, with the forget gate of
    ``torch.nn.LSTM``.

    Under autocast on a CPU it computes in the type of its weights unless :func:`runs_lstm`.
    """

    def forward(self, x: Any, hx: Any = None) -> Any:
        on_cpu = x.data.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not on_cpu or runs_lstm(torch.get_autocast_dtype("cpu")):
            return super().forward(x, hx)
        dtype = self.weight_ih_l0.dtype
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(dtype), None if hx is None else tuple(h.to(dtype) for h in hx))

    def _layer(self, axis: TaskAxis, rows: Tensor, layer: int) -> tuple[Tensor, ...]:
        w_in, w_state, b_in, b_state = self._weights(axis, layer)
        (drives,) = _drives(rows, [(w_in, b_in + b_state)])
        h = c = rows.new_zeros(axis.tasks, rows.shape[1], self.hidden_size, dtype=drives.dtype)
        states = []
        for drive in drives.unbind(1):
            i, f, g, o = torch.baddbmm(drive, h, w_state).chunk(4, -1)
            c = torch.addcmul(torch.sigmoid(f) * c, torch.sigmoid(i), torch.tanh(g))
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        return torch.stack(states, 2), h, c


TASK_LAYERS.update({nn.GRU: TaskGRU, nn.LSTM: TaskLSTM})
