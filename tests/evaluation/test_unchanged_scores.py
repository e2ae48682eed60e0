"""Scores of the baselines stay those of earlier versions: each change is a line in CHANGELOG.md, none an accident.

`python -m tests.evaluation.test_unchanged_scores` writes the recorded scores anew, after an intended change.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metaad_zoo.evaluation.baselines import create_baseline, list_baselines

RECORD = Path(__file__).with_name("baseline_scores.json")
SHAPES = {"image": (2, 4, 4), "sequence": (24, 4), "tabular": (6,)}
# The forest's cuts depend on scikit-learn's version.
NAMES = [
    (n, m) for m in SHAPES for n in list_baselines(modality=m) if n not in ("flag_everything", "iforest", "random")
]
SUPPORTS = {"normal": 12, "missing": 12, "unlabelled": 12, "single": 1}


def samples(modality, n, seed):
    """Noise around a slow and a fast wave, a few digits of each value."""
    rng, size = np.random.default_rng(seed), int(np.prod(SHAPES[modality]))
    waves = np.stack([np.sin(np.arange(size) / 3), np.cos(np.arange(size))])
    x = rng.normal(size=(n, 2)) @ waves + 0.5 * rng.normal(size=(n, size))
    return torch.tensor(x.round(3).reshape(n, *SHAPES[modality]), dtype=torch.float32)


def scores(name, modality, kind):
    """Five scores: two usual samples, one with a missing value, a shifted and a large one."""
    support, query = samples(modality, SUPPORTS[kind], 1), samples(modality, 5, 2)
    query[2, ..., 0], query[3], query[4] = torch.nan, query[3] + 2, query[4] * 10
    labels = torch.zeros(len(support), dtype=torch.int64)
    if kind == "missing":
        support[:3, ..., 1] = support[4] = torch.nan
    if kind == "unlabelled":
        labels[3:], support[10:] = -1, support[10:] * 5 + 3
    return create_baseline(name).adapt({modality: support}, labels).score({modality: query}).double()


def recorded(name, modality, kind):
    """The scores as they are recorded; None where one sample is too few."""
    try:
        return [float(f"{score:.6g}") for score in scores(name, modality, kind)]
    except ValueError as error:
        if "needs at least 2 support samples" in str(error):
            return None
        raise


@pytest.mark.parametrize("kind", SUPPORTS)
@pytest.mark.parametrize(("name", "modality"), NAMES)
def test_scores_are_the_recorded_ones(name, modality, kind):
    expected, actual = (json.loads(RECORD.read_text())[f"{name} {modality} {kind}"], recorded(name, modality, kind))
    if expected is None:
        assert actual is None
    else:
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-6)


if __name__ == "__main__":
    table = {f"{n} {m} {kind}": recorded(n, m, kind) for n, m in NAMES for kind in SUPPORTS}
    RECORD.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in table.items()) + "\n}\n")
