"""The length of the windows that a baseline cuts series into."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import metaad_zoo as mz
from metaad_zoo.cli import main


@pytest.fixture
def series(tmp_path):
    steps = np.arange(400)
    noise = np.random.default_rng(0).normal(size=(400, 2))
    path = tmp_path / "normal.csv"
    pd.DataFrame(np.stack([np.sin(steps / 5), np.cos(steps / 7)], 1) + 0.1 * noise).to_csv(path, index=False)
    return path


def test_a_baseline_cuts_series_into_windows_of_the_length_asked_for(series, tmp_path):
    command = ["adapt", "series_experts", "--support", str(series), "--out", str(tmp_path / "detector")]
    assert main([*command, "--window", "40"]) == 0
    detector = mz.load_detector(tmp_path / "detector")
    assert detector.window == 40
    assert len(detector.support_labels) == 10
    in_python = mz.load_detector("series_experts", window=40).fit(series)
    np.testing.assert_array_equal(in_python.score_series(series), detector.score_series(series))
    assert mz.load_detector("series_experts").fit(series).window == 32


def test_what_has_no_windows_or_its_own_refuses_a_length(series, tmp_path, capsys):
    command = ["adapt", "--support", str(series), "--window", "40", "--out", str(tmp_path / "detector")]
    for arguments, reason in (
        (["knn", "--modality", "tabular"], "reads tabular: leave it out"),
        (["sequence-gru-maml-generated"], "windows of its own length"),
    ):
        assert main([*command, *arguments]) != 0
        assert reason in capsys.readouterr().err
    assert main([*command, "knn"]) == 0
    assert mz.load_detector(tmp_path / "detector").window == 40
    with pytest.raises(ValueError, match=r"window .* is 0; expected a number of steps"):
        mz.load_detector("series_experts", window=0)
