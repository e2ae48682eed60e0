"""Second derivatives written by hand agree with finite differences and, where torch has the layer, with torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from metaad_zoo.backbones.batch_normalisation import batch_normalisation
from metaad_zoo.backbones.gru_steps import gru_steps
from metaad_zoo.backbones.task_axis import TaskAxis, carry_task_axis, task_axis

EPS = 1e-5


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_batch_normalisation():
    x, weight, bias = numbers(3, 2, 2, 3), numbers(2), numbers(2)
    ours = batch_normalisation(x, 3, weight, bias, EPS)
    torch.testing.assert_close(ours, F.batch_norm(x, None, None, weight, bias, True, 0.0, EPS))
    assert gradgradcheck(lambda *of: batch_normalisation(of[0], 3, *of[1:], EPS), (x, weight, bias))


def test_batch_normalisation_by_the_first_rows():
    x, weight, bias = numbers(5, 2, 2), numbers(2), numbers(2)
    ours = batch_normalisation(x, 3, weight, bias, EPS)
    torch.testing.assert_close(ours[:3], F.batch_norm(x[:3], None, None, weight, bias, True, 0.0, EPS))
    assert gradcheck(lambda *of: batch_normalisation(of[0], 3, *of[1:], EPS), (x, weight, bias))


@pytest.mark.parametrize("of", [0, 1], ids=["states", "last"])
def test_gru_steps(of):
    tasks, steps, n, hidden = 2, 3, 2, 2
    inputs = (
        numbers(tasks, steps, n, 2 * hidden),
        numbers(tasks, steps, n, hidden),
        numbers(tasks, hidden, 2 * hidden),
        numbers(tasks, hidden, hidden),
        numbers(1 if of else tasks, 1, hidden),
    )
    assert gradcheck(lambda *values: gru_steps(*values)[of], inputs)
    assert gradgradcheck(lambda *values: gru_steps(*values)[of], inputs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"padding": (0, 1), "stride": (2, 1), "dilation": (1, 2)}], ids=str
)
def test_convolution_of_one_channel(options, bias):
    layer = carry_task_axis(nn.Sequential(nn.Conv2d(1, 3, (3, 2), bias=bias, dtype=torch.float64, **options)))[0]
    x = torch.randn(2, 4, 1, 7, 6, dtype=torch.float64)
    own = {name: numbers(2, *p.shape) for name, p in layer.named_parameters()}
    for sample_major in (False, True):
        axis = TaskAxis(2, sample_major)
        with task_axis(axis):
            together = axis.split(torch.func.functional_call(layer, own, axis.fold(x)))
        for i, alone in enumerate(together):
            expected = torch.func.functional_call(layer, {name: p[i] for name, p in own.items()}, x[i])
            torch.testing.assert_close(alone, expected)
