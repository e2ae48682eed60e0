"""More normal samples for a fitted detector: the same as a fit on all of them, in every modality."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import metaad_zoo as mz
from metaad_zoo.cli import main
from metaad_zoo.zoo import Checkpoint, CheckpointError
from tests.cli.test_unlabelled import manifests, pictures, recordings, rows, series
from tests.conftest import small_learner
from tests.tiny import PAIR, tiny_embedding_learner


def arrays(kind: str, n: int, seed: int) -> object:
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 255, (n, 16, 16), np.uint8)
    series = np.sin(np.arange(n * 32)[:, None] / [3.0, 5.0]) + rng.normal(0, 0.1, (n * 32, 2))
    return {
        "image": pictures,
        "tabular": rng.normal(size=(n, 3)),
        "sequence": series.reshape(n, 32, 2),
        "multimodal": {"image": pictures, "sequence": rng.normal(size=(n, *PAIR["sequence"])).astype(np.float32)},
    }[kind]


def joined(a: object, b: object) -> object:
    return {m: np.concatenate([a[m], b[m]]) for m in a} if isinstance(a, dict) else np.concatenate([a, b])


def unfitted(kind: str) -> mz.Detector:
    torch.manual_seed(0)
    if kind == "image":
        return mz.Detector(Checkpoint(small_learner(), [], {"calibration": torch.linspace(-3, 3, 99)}))
    if kind == "multimodal":
        return mz.Detector(Checkpoint(tiny_embedding_learner("protonet", "fusion_concat"), [], {}))
    return mz.load_detector("knn", modality=kind)


@pytest.mark.parametrize("kind", ["image", "tabular", "sequence", "multimodal"])
def test_an_update_equals_a_fit_on_all_samples(kind, tmp_path):
    first, second, query = (arrays(kind, n, seed) for n, seed in ((6, 0), (9, 1), (5, 2)))
    whole = unfitted(kind).fit(joined(first, second))
    detector = unfitted(kind).fit(first)
    before = detector.score(query)
    assert detector.update(second) is detector
    np.testing.assert_allclose(detector.score(query), whole.score(query), rtol=1e-6)
    assert not np.allclose(detector.score(query), before), "or the test shows nothing"
    np.testing.assert_allclose(detector.p_value(query, "within"), whole.p_value(query, "within"))
    assert detector.shots == 15
    detector.save(tmp_path / "saved")
    np.testing.assert_allclose(mz.load_detector(tmp_path / "saved").score(query), whole.score(query), rtol=1e-6)


def test_an_update_says_what_changed():
    rows = np.random.default_rng(0).normal(size=(60, 2))
    near, far = rows[:20], rows[20:30] + 100.0
    detector = mz.load_detector("knn", modality="tabular").fit(near)
    earlier = mz.load_detector("knn", modality="tabular").fit(near)
    change = detector.update(np.concatenate([near[:3], far])).change
    assert (change.before, change.added, change.repeated) == (20, 10, 3)
    assert change.alpha == 0.1
    assert change.threshold_before == earlier.threshold(0.1)
    assert change.threshold_after == detector.threshold(0.1) != earlier.threshold(0.1)
    assert change.flagged == earlier.predict(far, 0.1).sum() == 10
    assert detector.predict(far, 0.1).sum() < 10, "they are normal now"
    text = " ".join(detector.account)
    assert "3 samples are in it already" in text
    assert "10 samples join the 20: now 30" in text
    assert "10 of the new ones were called anomalous" in text


def test_an_update_by_the_same_samples_changes_nothing():
    rows = np.random.default_rng(0).normal(size=(12, 2))
    detector = mz.load_detector("knn", modality="tabular").fit(rows)
    scores = detector.score(rows + 1)
    change = detector.update(rows).change
    assert (change.before, change.added, change.repeated) == (12, 0, 12)
    assert np.array_equal(detector.score(rows + 1), scores)
    assert len(detector.support_labels) == 12
    assert detector.update(np.concatenate([rows[:1] + 5] * 4)).change.repeated == 3, "copies among the new ones"


def test_known_anomalies_join_only_where_labels_say_so(tmp_path):
    rng = np.random.default_rng(0)
    detector = mz.load_detector("knn", modality="tabular").fit(
        pd.DataFrame(rng.normal(size=(12, 2)), columns=["a", "b"])
    )
    more = pd.DataFrame(rng.normal(size=(4, 2)), columns=["b", "a"]).assign(anomaly=[0, 1, 0, 0])
    more.to_csv(tmp_path / "more.csv", index=False)
    with pytest.raises(ValueError, match="labels 1 of 4 samples as anomalous"):
        detector.update(tmp_path / "more.csv")
    detector.update(tmp_path / "more.csv", label="anomaly")
    assert detector.support_counts == {"normal": 15, "anomalous": 1, "unlabelled": 0}
    np.testing.assert_allclose(detector._support()["tabular"][12:], more[["a", "b"]])


def test_what_cannot_be_added_is_refused_and_changes_nothing():
    rows = np.random.default_rng(0).normal(size=(12, 2))
    with pytest.raises(RuntimeError, match="not fitted"):
        mz.load_detector("knn", modality="tabular").update(rows)
    detector = mz.load_detector("knn", modality="tabular").fit(rows)
    for wrong, message in [
        (rows[:, :1], "2"),
        (np.full((1, 2), np.nan), "no value at all"),
        (rows[:0], "at least one"),
    ]:
        with pytest.raises(ValueError, match=message):
            detector.update(wrong)
    assert detector.change is None
    assert detector.shots == 12


def test_images_of_another_size_take_the_size_of_the_support(tmp_path):
    rng = np.random.default_rng(0)
    detector = unfitted("image").fit(rng.integers(0, 255, (6, 16, 16), np.uint8))
    Image.fromarray(rng.integers(0, 255, (40, 20), np.uint8)).save(tmp_path / "a.png")
    detector.update(tmp_path)
    assert detector._support()["image"].shape == (7, 1, 16, 16)


def test_the_command_updates_a_folder_in_place_or_another_one(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, n in (("good", 10), ("more", 5), ("new", 20)):
        pd.DataFrame(rng.normal(size=(n, 2)), columns=["a", "b"]).to_csv(tmp_path / f"{name}.csv", index=False)
    mine, other = str(tmp_path / "mine"), str(tmp_path / "other")
    good, more = str(tmp_path / "good.csv"), str(tmp_path / "more.csv")
    assert main(["adapt", "knn", "--modality", "tabular", "--support", good, "--out", mine]) == 0
    capsys.readouterr()
    assert main(["update", mine, "--support", more, "--out", other, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["before"], figures["added"]) == (10, 5)
    assert figures["support"] == {"normal": 15, "anomalous": 0, "unlabelled": 0}
    assert [mz.load_detector(folder).shots for folder in (mine, other)] == [10, 15]
    assert main(["update", mine, "--support", more]) == 0
    output = capsys.readouterr()
    assert "5 of 5 samples joined" in output.out
    assert "5 samples join the 10: now 15" in output.err
    new = tmp_path / "new.csv"
    assert np.array_equal(mz.load_detector(mine).score(new), mz.load_detector(other).score(new))
    assert main(["adapt", mine, "--support", more, "--out", other]) == 0
    assert "the 15 samples that" in capsys.readouterr().err


def test_a_history_of_a_series_keeps_its_places(tmp_path):
    rng = np.random.default_rng(0)
    for name, steps in (("first", 700), ("second", 200)):
        np.savetxt(tmp_path / f"{name}.csv", rng.normal(size=(steps, 2)), "%.4f", ",", header="a,b", comments="")
    detector = mz.load_detector("knn", modality="sequence").fit(tmp_path / "first.csv")
    places = detector._checkpoint.tensors["support_places"]
    assert places.tolist() == [[0, 32 * i] for i in range(21)]
    assert detector.has_history
    detector.update(tmp_path / "second.csv")
    joined = detector._checkpoint.tensors["support_places"]
    assert joined.tolist() == [*places.tolist(), *([1, 32 * i] for i in range(6))]
    detector.save(tmp_path / "saved")
    loaded = mz.load_detector(tmp_path / "saved")
    assert torch.equal(loaded.normal_scores("points"), detector.normal_scores("points"))
    assert len(detector.normal_scores("points")) == 32 * 27
    loaded._checkpoint.tensors["support_places"] = joined[1:]
    loaded.save(tmp_path / "damaged")
    with pytest.raises(CheckpointError, match="a series and a step each sample"):
        mz.load_detector(tmp_path / "damaged")


def test_a_history_that_begins_with_one_window_gains_places(tmp_path):
    values = np.random.default_rng(0).normal(size=(32 * 26, 2))
    for name, steps in (("first", slice(32)), ("second", slice(32, None))):
        np.savetxt(tmp_path / f"{name}.csv", values[steps], "%.4f", ",", header="a,b", comments="")
    detector = mz.load_detector("knn", modality="sequence").fit(tmp_path / "first.csv")
    assert not detector.has_history
    detector.update(tmp_path / "second.csv")
    places = detector._checkpoint.tensors["support_places"]
    assert places.tolist() == [[-1, -1], *([0, 32 * i] for i in range(25))]
    assert detector.has_history
    assert len(detector.normal_scores("points")) == 32 * 25, "the first window is not known to be a neighbour"


def test_windows_without_a_value_are_left_out_of_a_history(tmp_path):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(32 * 24, 2)), columns=["a", "b"])
    frame.iloc[32 * 3 : 32 * 5] = np.nan
    frame.to_csv(tmp_path / "history.csv", index=False)
    detector = mz.load_detector("knn", modality="sequence").fit(tmp_path / "history.csv")
    assert "2 of 24 windows have no value at all" in " ".join(detector.account)
    kept = [i for i in range(24) if i not in (3, 4)]
    places = [[0, 32 * i] for i in kept]
    assert detector._checkpoint.tensors["support_places"].tolist() == places
    later = frame.iloc[::-1].reset_index(drop=True)
    detector.update(later)
    assert "2 of 24 windows have no value at all" in " ".join(detector.account)
    assert detector._checkpoint.tensors["support_places"].tolist() == [
        *places,
        *([1, 32 * (23 - i)] for i in kept[::-1]),
    ]
    with pytest.raises(ValueError, match="no value at all"):
        mz.load_detector("knn", modality="sequence").fit(frame.iloc[32 * 3 : 32 * 5])


def test_arrays_of_windows_are_no_history():
    windows = np.random.default_rng(0).normal(size=(30, 32, 2))
    assert not mz.load_detector("knn", modality="sequence").fit(windows).has_history


@pytest.mark.parametrize("kind", [rows, pictures, series, recordings, manifests])
def test_the_command_updates_detectors_of_every_modality(kind, tmp_path, capsys):
    good, _, new, _ = kind(tmp_path, np.random.default_rng(0))
    mine = str(tmp_path / "mine")
    modality = ["--modality", "sequence"] if kind is series else []
    assert main(["adapt", "knn", *modality, "--support", str(tmp_path / good), "--out", mine]) == 0
    before = mz.load_detector(mine)
    capsys.readouterr()
    assert main(["update", mine, "--support", str(tmp_path / new), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    after = mz.load_detector(mine)
    assert figures["before"] == before.shots > 0
    assert figures["added"] > 0
    assert after.shots == figures["before"] + figures["added"]
    scores = after.score(tmp_path / new)
    assert len(scores) == figures["added"]
    assert (scores < before.score(tmp_path / new)).all(), "they are their own nearest neighbours now"
