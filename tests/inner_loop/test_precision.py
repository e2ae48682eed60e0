"""Half precision: gradients of the inner loop neither underflow nor overflow, and the defaults keep the direction."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from metaad_zoo.backbones.task_recurrent import TaskLSTM, runs_lstm
from metaad_zoo.inner_loop import InnerLoop, InnerLoopConfig, adapt_parameters
from tests.conftest import REPOSITORY
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
        result = step(network, scale, "mixed", order)
        plain = torch.autograd.grad((network(torch.full((4, 2), 0.5)) * scale).mean(), network.weight)[0]
    torch.testing.assert_close(result, expected, rtol=2e-3, atol=0.0)
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
    assert agreement_with_float32(backbone, engine, half) >= 0.99


def agreement_with_float32(backbone: str, engine: str, half: torch.dtype) -> float:
    """Cosine between the meta-gradient under autocast to ``half`` and that in float32 by the reference engine."""
    batch, expected = tiny_batch(backbone), gradient_in_float32(backbone)
    learner = tiny_learner("maml", backbone, steps=5, engine=engine)
    learner.loss_scale = lambda: 1024.0  # as the trainer's scaler does under 16-mixed
    with torch.autocast("cpu", half):
        loss = learner.outer_loss(batch)
    gradient = torch.autograd.grad(loss * 1024, list(learner.parameters()), materialize_grads=True)
    return float(cosine_similarity(torch.cat([g.flatten() for g in gradient]), expected, dim=0))


@cache
def gradient_in_float32(backbone: str) -> torch.Tensor:
    """Meta-gradient of all parameters by the reference engine, in one vector."""
    gradient = meta_gradient(tiny_learner("maml", backbone, steps=5), tiny_batch(backbone))
    return torch.cat([g.flatten() for g in gradient])


@pytest.fixture
def no_half_precision_lstm(monkeypatch):
    """A CPU for which oneDNN has an LSTM in float32 only."""
    lstm = torch.lstm

    def float32_only(*args):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive.")
        return lstm(*args)

    monkeypatch.setattr(torch, "lstm", float32_only)
    monkeypatch.setattr(torch._VF, "lstm", float32_only)
    runs_lstm.cache_clear()
    yield
    runs_lstm.cache_clear()


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("engine", ["higher", "vectorized"])
def test_an_lstm_needs_no_half_precision_kernel(engine, half, no_half_precision_lstm, caplog):
    for backbone in ("lstm", "lstm:any"):
        assert agreement_with_float32(backbone, engine, half) >= 0.999
    messages = [record.getMessage().partition(" (")[0] for record in caplog.records]
    assert messages == [f"no LSTM in {str(half).removeprefix('torch.')} on this CPU"], "said once"


def test_an_lstm_behind_a_half_precision_layer_needs_none_either(no_half_precision_lstm):
    layer, x = TaskLSTM(2, 3, batch_first=True), torch.randn(4, 5, 2).bfloat16()
    memory = (torch.zeros(1, 4, 3).bfloat16(), torch.zeros(1, 4, 3).bfloat16())
    packed = nn.utils.rnn.pack_padded_sequence(x, [5, 4, 4, 1], batch_first=True)
    expected = nn.LSTM.forward(layer, x.float())[0]
    with torch.autocast("cpu", torch.bfloat16):
        states = [layer(x)[0], layer(x, memory)[0], nn.utils.rnn.pad_packed_sequence(layer(packed)[0], True)[0]]
    for given in states[:2]:
        torch.testing.assert_close(given, expected)
    torch.testing.assert_close(states[2][0], expected[0])


OLDER_CPU = """
import lightning.pytorch as pl, torch
from metaad_zoo.learners.training import trainable
from tests.tiny import tiny_batch, tiny_learner
for precision in ("bf16-mixed", "32-true"):
    learner = tiny_learner("maml", "lstm")
    trainer = pl.Trainer(precision=precision, accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(trainable(learner), torch.utils.data.DataLoader([tiny_batch("lstm")], batch_size=None, num_workers=0))
    print(*torch.cat([p.detach().flatten() for p in learner.parameters()]).tolist())
"""


def test_an_lstm_trains_in_mixed_precision_on_a_cpu_without_avx512():
    """oneDNN takes its limit from the variable when it is loaded, hence the process."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", OLDER_CPU]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mixed, full = (torch.tensor([float(x) for x in line.split()]) for line in done.stdout.splitlines()[-2:])
    torch.testing.assert_close(mixed, full, rtol=0, atol=5e-4, msg="two steps of Adam move weights by 1.5e-3")


def test_batch_normalisation_is_why_the_default_differs():
    assert tiny_learner("maml", "conv4").inner_loop.precision == "full"
    assert tiny_learner("maml", "transformer").inner_loop.precision == "mixed"
    assert tiny_learner("maml", "conv4", precision="mixed").inner_loop.precision == "mixed"
