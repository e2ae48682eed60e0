"""Generated signals: laws that repeat, anomalies that can be found but are not trivial."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from metaad_zoo.data import SequenceEpisodes
from metaad_zoo.data.generated_series import KINDS, GeneratedOptions, GeneratedSeries, Law
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.evaluation.baselines import NearestNeighbour

SPEC = EpisodeSpec(support_normal=10, query_normal=20, query_anomalous=20)
STILL = np.zeros(3)


def pool(split="test", kinds=tuple(KINDS), seed=0, n=60):
    return GeneratedSeries(split, n, 64, kinds, seed)


def test_a_task_is_a_pure_function_of_seed_split_and_place():
    episodes = [pool().draw(3, SPEC, np.random.default_rng(7)) for _ in range(2)]
    assert torch.equal(episodes[0].query["sequence"], episodes[1].query["sequence"])
    laws = [pool().law(3), pool(n=9).law(3), pool(seed=1).law(3), pool("val").law(3), pool().law(4)]
    assert [law.period == laws[0].period for law in laws] == [True, True, False, False, False]


def test_a_law_repeats_after_its_period():
    for seed in range(20):
        law = Law.drawn(np.random.default_rng(seed), 64)
        time = np.linspace(0.01, 0.99, 50) * law.period
        np.testing.assert_allclose(law.wave(time), law.wave(time + 3 * law.period), atol=1e-6)
        assert 64 / 6 <= law.period <= 64 / 2
    sine = Law(False, 16.0, 1.0, 0.0, STILL, STILL, 0.0)
    np.testing.assert_allclose(sine.wave(np.arange(8.0)), np.sin(2 * np.pi * np.arange(8) / 16), atol=1e-12)


def test_anomalies_are_of_their_kind():
    law, time, rng = Law(False, 16.0, 1.0, 0.0, STILL, STILL, 0.0), np.arange(64.0), np.random.default_rng(0)
    for _ in range(20):
        change = {name: kind(law, time, rng) - law.wave(time) for name, kind in KINDS.items()}
        assert 1 <= np.count_nonzero(np.abs(change["spike"]) > 1e-9) <= 3
        assert np.abs(change["spike"]).max() >= 1
        assert (np.diff(np.abs(change["drift"])) >= 0).all()
        values = np.unique(np.round(change["level"], 9))
        assert len(values) == 2
        assert 0.6 <= np.abs(values).max() <= 1.4
        steps = np.abs(np.diff(change["frequency"] + law.wave(time)))
        assert steps.max() < 2 * np.pi / 16 * 1.8 + 1e-6  # faster, but no jump
        assert np.abs(change["shape"]).max() > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_anomalies_are_neither_trivial_nor_invisible(kind):
    tasks = pool(kinds=[kind])
    aurocs = []
    for i in range(len(tasks)):
        episode = tasks.draw(i, SPEC, np.random.default_rng(i))
        scores = NearestNeighbour("support").adapt(episode.support, episode.support_labels).score(episode.query)
        aurocs.append(roc_auc_score(episode.query_labels, scores))
    assert 0.6 < np.mean(aurocs) < 0.9


def test_test_kinds_are_never_seen_in_training():
    data = SequenceEpisodes("generated", generated=GeneratedOptions((40, 5, 9)), episode=SPEC)
    data.setup("fit")
    kinds = {split: set(p.anomalies) for split, p in data.pools.items()}
    assert kinds["train"] == kinds["val"] == {"spike", "drift"}
    assert kinds["test"] == {"frequency", "level"}
    assert [len(p) for p in data.pools.values()] == [40, 5, 9]
    assert next(data.episodes("test", 1)).query["sequence"].shape[1:] == data.input_shapes["sequence"] == (64, 1)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"train_anomalies": ("spikes",)}, "unknown kind of anomaly 'spikes'; did you mean 'spike'"),
        ({"test_anomalies": ()}, "at least one kind"),
        ({"tasks": (1, 0, 1)}, r"data.generated.tasks is \[1, 0, 1\]"),
    ],
)
def test_options_that_cannot_work_are_refused(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        GeneratedOptions(**given)
    with pytest.raises(ValueError, match=r"a window of at least 8 steps, saw 1 and data.window=4"):
        GeneratedSeries("test", 1, 4, ["level"])


def test_calibration_takes_tasks_that_choose_no_weights():
    options = {"generated": GeneratedOptions((9, 20, 9)), "episode": SPEC}
    data = SequenceEpisodes("generated", **options, val_episodes=8, calibration_episodes=12)
    choosing, calibrating = ({e.task for e in some} for some in (data.episodes("val", 8), data.calibration()))
    assert len(choosing) == 8
    assert len(calibrating) == 12
    assert not choosing & calibrating
    assert {len(e.support_labels) for e in data.calibration(shots=9)} == {9}
    assert {e.task for e in data.calibration(shots=9)} == calibrating, "the same tasks"
    few = SequenceEpisodes("generated", **options, val_episodes=20)
    drawn = list(few.calibration())
    assert len(drawn) == 20, "as many as there are validation episodes, unless told"
    same = [e for e in few.episodes("val", 20) if e.task == drawn[0].task]
    assert not torch.equal(same[0].query["sequence"], drawn[0].query["sequence"]), "the same tasks, other samples"
