"""Figures of windows against numpy, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metaad_zoo.backbones import create_backbone
from metaad_zoo.backbones.window_statistics import BANDS, FEATURES, GAIN


def expected(x: np.ndarray) -> np.ndarray:
    """Of one channel ``(T,)``."""
    d, time = np.diff(x), np.linspace(-1, 1, len(x))
    amplitude = np.abs(np.fft.rfft(x - x.mean()))[1:]
    n = len(amplitude)
    bands = [np.log1p(amplitude[round(a * n) : round(b * n)].mean()) for a, b in BANDS]
    sizes = [x.std(), np.sqrt((d**2).mean()), np.abs(d).max()]
    logs = np.log1p(GAIN * np.array(sizes))
    return np.array([x.mean(), x.max(), x.min(), ((x - x.mean()) * time).mean(), *logs, *bands])


def test_by_numpy():
    x = torch.randn(4, 32, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = create_backbone("window_statistics", in_channels=3)(x).unflatten(1, (3, FEATURES))
    for window, figures in zip(x.numpy(), features.numpy(), strict=True):
        for channel in range(3):
            np.testing.assert_allclose(figures[channel], expected(window[:, channel]), rtol=1e-6, atol=1e-6)


def test_an_absent_channel_is_absent_and_changes_no_other():
    x = torch.randn(2, 8, 3)
    x[1, :, 1] = torch.nan
    values = create_backbone("window_statistics")(x).unflatten(1, (3, FEATURES))
    assert values[1, 1].isnan().all()
    assert not values[0].isnan().any()
    torch.testing.assert_close(values[1, [0, 2]], create_backbone("window_statistics")(x[:, :, [0, 2]])[1].view(2, -1))


def test_missing_steps_do_not_count():
    x = torch.randn(1, 9, 1)
    gap = x.clone()
    gap[0, 6:] = torch.nan
    backbone = create_backbone("window_statistics")
    levels = backbone(gap)[0, :3], backbone(x[:, :6])[0, :3]
    torch.testing.assert_close(*levels)
    rough = backbone(gap)[0, 4:7], backbone(x[:, :6])[0, 4:7]
    torch.testing.assert_close(*rough)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_windows(steps):
    features = create_backbone("window_statistics")(torch.randn(2, steps, 1))
    assert features.shape == (2, FEATURES)
    assert torch.isfinite(features).all()


def test_its_gradient_is_finite_where_nothing_moves():
    x = torch.zeros(1, 8, 1, requires_grad=True)
    create_backbone("window_statistics")(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match=r"expected in_channels of 1 or more"):
        create_backbone("window_statistics", in_channels=0)
