from __future__ import annotations

import copy

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import metaad_zoo as mz
from metaad_zoo.zoo import Checkpoint, CheckpointError, save_checkpoint
from tests.conftest import small_learner
from tests.zoo.forge import FORGED


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(
        tmp_path / "run" / "model",
        Checkpoint(small_learner(), ["digits/0"], {"calibration": torch.linspace(-3, 3, 99)}),
    )
    return tmp_path / "run"


@pytest.fixture
def detector(folder):
    return mz.load_detector(folder)


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 255, (12, 16, 16), np.uint8)


def test_fit_score_predict_on_arrays(detector, pictures):
    assert not detector.is_fitted
    assert detector.fit(pictures[:5]) is detector
    scores, p, decisions = detector.score(pictures), detector.p_value(pictures), detector.predict(pictures, alpha=0.3)
    assert scores.shape == p.shape == decisions.shape == (12,)
    assert scores.dtype == np.float64
    assert (np.diff(p[np.argsort(scores)]) <= 0).all(), "a higher score never has a larger p-value"
    assert np.array_equal(decisions, (p <= 0.3).astype(int))
    calibration = np.linspace(-3, 3, 99, dtype=np.float32)
    expected = [(1 + (calibration >= s).sum()) / 100 for s in scores]
    np.testing.assert_allclose(p, expected)


def test_within_compares_with_each_support_sample_left_out(detector, pictures):
    detector.fit(pictures[:5])
    left_out = [detector.fit(np.delete(pictures[:5], i, 0)).score(pictures[i : i + 1]).item() for i in range(5)]
    detector.fit(pictures[:5])
    expected = [(1 + sum(own >= s for own in left_out)) / 6 for s in detector.score(pictures)]
    np.testing.assert_allclose(detector.p_value(pictures, "within"), expected)
    decisions = detector.predict(pictures, alpha=1 / 6, calibrate="within")
    assert np.array_equal(decisions, (np.array(expected) < 0.17).astype(int))
    with pytest.raises(ValueError, match=r"can't promise 0.1 false alarms: take alpha >= 1/6 or give 9 normal support"):
        detector.predict(pictures, calibrate="within")


def test_leave_one_out_adapts_once_a_sample_and_fit(detector, pictures, monkeypatch):
    learner = detector._checkpoint.learner
    adapt, calls = learner.adapt, []
    monkeypatch.setattr(learner, "adapt", lambda *given: calls.append(1) or adapt(*given))
    detector.fit(pictures[:5])
    for _ in range(3):
        detector.p_value(pictures, "within")
    assert len(calls) == 1 + 5
    before = detector.p_value(pictures, "within")
    assert not np.array_equal(detector.fit(pictures[5:]).p_value(pictures, "within"), before)
    assert len(calls) == 1 + 5 + 1 + 7


def test_the_former_name_of_leave_one_out_still_works(detector, pictures):
    detector.fit(pictures[:5])
    with pytest.warns(DeprecationWarning, match="left_out is now called leave_one_out"):
        scores = detector.score(pictures, left_out=True)
    assert np.array_equal(scores, detector.score(pictures, leave_one_out=True))
    assert not np.array_equal(scores, detector.score(pictures))


def test_contamination_flags_what_is_above_the_support_without_its_highest_share(detector, pictures):
    detector.fit(pictures[:10], labels=[-1] * 10)
    scores = detector.score(pictures, leave_one_out=True)
    own = np.sort(scores[:10])
    expected = (scores > own[7]).astype(int)
    given = {"calibrate": "contamination", "contamination": 0.2}
    assert np.array_equal(detector.predict(pictures, **given), expected)
    assert expected[:10].sum() == 2, "as in PyOD, the expected share of the support is flagged"
    np.testing.assert_allclose(detector.p_value(pictures, **given), [(1 + (own[:8] >= s).sum()) / 9 for s in scores])
    with pytest.raises(ValueError, match=r"can't promise 0.1 false alarms: take alpha >= 1/9, or leave alpha out"):
        detector.predict(pictures, alpha=0.1, **given)


def test_support_samples_are_scored_as_new_ones_wherever_they_are_met(detector, pictures):
    detector.fit(pictures[:5])
    scores = detector.score(pictures[[7, 2]], leave_one_out=True)
    assert scores[0] == pytest.approx(detector.score(pictures[[7]])[0], abs=1e-5)
    without = copy.deepcopy(detector).fit(pictures[[0, 1, 3, 4]])
    assert scores[1] == pytest.approx(without.score(pictures[[2]])[0], abs=1e-5)
    assert abs(scores[1] - detector.score(pictures[[2]])[0]) > 1e-4


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"calibrate": "contamination"}, "give the share of anomalies that you expect"),
        ({"contamination": 0.1, "calibrate": "within"}, "together with calibrate='contamination'"),
        ({"calibrate": "contamination", "contamination": 1.0}, r"expected a share in \[0, 1\)"),
        ({"calibrate": "inside"}, "across"),
    ],
)
def test_ways_to_calibrate_that_do_not_fit_are_refused(detector, pictures, given, complaint):
    detector.fit(pictures[:5])
    for call in (detector.p_value, detector.predict):
        with pytest.raises(ValueError, match=complaint):
            call(pictures, **given)


def test_scores_are_those_of_the_learner(detector, pictures):
    learner = detector._checkpoint.learner
    x = torch.as_tensor(pictures[:, None]).float() / 255
    expected = learner.adapt({"image": x[:5]}, torch.tensor([0, 1, -1, 0, 0])).score({"image": x})
    scores = detector.fit(pictures[:5], labels=[0, 1, -1, 0, 0]).score(pictures)
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-6)


def test_every_form_of_images_gives_the_same_scores(detector, pictures, tmp_path):
    (tmp_path / "good").mkdir()
    files = []
    for i, picture in enumerate(pictures):
        files.append(tmp_path / "good" / f"{i:02}.png")
        Image.fromarray(picture).save(files[-1])
    np.savez(tmp_path / "p.npz", x=pictures, y=np.zeros(12, int))
    expected = detector.fit(pictures).score(pictures)
    floats = pictures.astype(np.float32) / 255
    forms = [
        floats[:, None],
        floats[..., None],
        torch.as_tensor(floats),
        {"image": torch.as_tensor(floats[:, None])},
        tmp_path / "good",
        str(tmp_path / "good"),
        files,
        tmp_path / "p.npz",
        np.repeat(pictures[..., None], 3, -1),  # grey as RGB
    ]
    for form in forms:
        np.testing.assert_allclose(detector.fit(form).score(form), expected, rtol=1e-3, atol=1e-3)


def test_other_sizes_are_brought_to_the_models(detector, pictures):
    large = pictures.repeat(2, 1).repeat(2, 2)
    small = np.stack([Image.fromarray(x).resize((16, 16), Image.Resampling.BILINEAR) for x in large])
    expected = detector.fit(small[:5]).score(small)
    for form in (large, large / 255):
        np.testing.assert_allclose(detector.fit(form[:5]).score(form), expected, rtol=1e-5, atol=1e-5)


def test_long_inputs_are_scored_in_chunks_alike(detector, pictures):
    detector.fit(pictures[:5])
    many = np.tile(pictures, (50, 1, 1))
    np.testing.assert_allclose(detector.score(many), np.tile(detector.score(pictures), 50), rtol=1e-4, atol=1e-5)


def test_a_saved_detector_scores_as_before(detector, pictures, tmp_path):
    detector.fit(pictures[:5], labels=[0, 0, 0, -1, 1])
    detector.save(tmp_path / "mine")
    again = mz.load_detector(tmp_path / "mine")
    assert again.is_fitted
    assert again.trained_on == ["digits/0"]
    assert np.array_equal(again.score(pictures), detector.score(pictures))
    assert np.array_equal(again.predict(pictures), detector.predict(pictures))


def test_what_the_caller_does_to_the_array_later_does_not_matter(detector, pictures):
    support = torch.as_tensor(pictures[:5, None]).float() / 255
    for form in (support, {"image": support}, support.numpy()):
        before = detector.fit(form).score(pictures)
        support *= 0.1
        assert np.array_equal(detector.score(pictures), before)
        support *= 10


def test_a_support_that_does_not_vary_is_noted():
    rows = np.random.default_rng(0).normal(size=(4, 3))
    for support, labels in ((rows[:1], None), (rows[[0, 0, 0]], None), (rows, [0, 1, 1, 1])):
        assert "its table rows do not vary" in str(list(mz.load_detector("knn").fit(support, labels).account))
    assert not list(mz.load_detector("knn").fit(rows).account)
    windows = np.random.default_rng(0).normal(size=(4, 6, 2))
    detector = mz.load_detector("knn", modality="sequence", input_shapes={"sequence": (6, 2)})
    assert "its sequences do not vary, they are all the same" in str(list(detector.fit(windows[[1, 1, 1]]).account))
    assert not list(detector.fit(windows[:1]).account)


def test_a_failed_fit_leaves_the_detector_as_it_was(folder, pictures):
    detector = mz.load_detector(folder).fit(pictures[:5])
    before = detector.score(pictures)
    detector._checkpoint.learner.inner_loop.rates.fill_(1e30)
    with pytest.raises(FloatingPointError):
        detector.fit(pictures[5:])
    detector._checkpoint.learner.inner_loop.rates.fill_(0.1)
    assert np.array_equal(detector.score(pictures), before)
    assert torch.equal(detector._checkpoint.tensors["support/image"][:, 0], torch.as_tensor(pictures[:5]) / 255)


def test_an_npz_with_anomalies_is_no_support_without_labels(detector, pictures, tmp_path):
    np.savez(tmp_path / "mixed.npz", x=pictures, t=np.zeros(12, int), y=np.arange(12) % 2)
    with pytest.raises(ValueError, match=r"mixed\.npz labels 6 of 12 samples as anomalous"):
        detector.fit(tmp_path / "mixed.npz")
    detector.fit(tmp_path / "mixed.npz", labels=np.arange(12) % 2)
    assert detector.score(tmp_path / "mixed.npz").shape == (12,)


def test_a_forged_support_or_calibration_is_refused(detector, pictures, tmp_path):
    detector.fit(pictures[:5])
    for name, tensor in {
        "calibration": torch.tensor([2.0, 1.0]),
        "support/image": torch.zeros(5, 1, 8, 8),
        "support_labels": torch.tensor([0, 0, 7, 0, 0]),
    }.items():
        stored = detector._checkpoint.tensors[name]
        detector._checkpoint.tensors[name] = tensor
        detector.save(tmp_path / "forged")
        with pytest.raises(CheckpointError, match=r"ascending row|does not fit its model"):
            mz.load_detector(tmp_path / "forged")
        detector._checkpoint.tensors[name] = stored


def test_p_values_come_from_supports_of_the_same_size(detector, pictures, tmp_path):
    tensors = detector._checkpoint.tensors
    plain = tensors.pop("calibration")
    tensors |= {"calibration/2": plain + 100, "calibration/5": plain}
    detector.save(tmp_path / "sizes")
    loaded = mz.load_detector(tmp_path / "sizes")
    assert loaded.calibrated_for == [2, 5]
    assert loaded.fit(pictures[:2]).p_value(pictures).min() == 1, "all scores are below 97"
    assert loaded.threshold(0.1) > 97
    assert loaded.fit(pictures[:7]).p_value(pictures).min() < 1, "seven take those of five"
    assert loaded.threshold(0.1) < 3
    with pytest.raises(RuntimeError, match="calibrated for supports of 2, 5 normal samples, this one has 1: give 2"):
        loaded.fit(pictures[:1]).p_value(pictures)
    for name in ("calibration/0", "calibration/two", "calibration/", "calibration/" + "9" * 5000):
        detector._checkpoint.tensors[name] = plain
        detector.save(tmp_path / "forged")
        with pytest.raises(CheckpointError, match="names no size of a support set"):
            mz.load_detector(tmp_path / "forged")
        del detector._checkpoint.tensors[name]


def test_refitting_forgets_the_former_domain(detector, pictures):
    first = detector.fit(pictures[:5]).score(pictures)
    detector.fit(pictures[5:])
    assert np.array_equal(detector.fit(pictures[:5]).score(pictures), first)


@pytest.mark.parametrize(
    ("support", "labels", "complaint"),
    [
        (np.full((3, 16, 16), np.nan, np.float32), None, r"NaN or infinity in sample \[0, 1, 2\]"),
        (np.zeros((0, 16, 16), np.uint8), None, "at least one sample"),
        (np.zeros((3, 16), np.uint8), None, r"saw \(3, 16\)"),
        (np.zeros((3, 16, 16), np.int64), None, "saw int64"),
        (np.full((3, 16, 16), 255.0, np.float32), None, "divide by 255"),
        ({"sequence": torch.zeros(3, 9)}, None, r"expected samples of \['image'\], saw \['sequence'\]"),
        ({"image": torch.zeros(3, 1, 8, 8)}, None, r"\(n, 1, 16, 16\), saw"),
        ("nowhere", None, "nowhere does not exist"),
        (object(), None, "expected images as an array"),
        ([np.zeros((4, 4)), np.zeros((5, 5))], None, "expected images as an array"),
        (np.zeros((16, 16, 3), np.uint8), None, r"looks like one colour image.*images\[None\]"),
        (np.zeros((3, 0, 0), np.uint8), None, "images with pixels"),
        (np.zeros((3, 16, 16), np.uint8), ["0", "0", "0"], "expected 3 labels"),
        (np.zeros((3, 16, 16), np.uint8), [None] * 3, "expected 3 labels"),
        (np.zeros((3, 16, 16), np.uint8), [0, 0], "expected 3 labels"),
        (np.zeros((3, 16, 16), np.uint8), [0, 0, 2], r"saw shape \(3,\) with values \['0', '2'\]"),
        (np.zeros((3, 16, 16), np.uint8), [1, 1, 1], "all 3 support samples are labelled anomalous"),
    ],
)
def test_bad_support_is_refused(detector, support, labels, complaint):
    with pytest.raises(ValueError, match=complaint):
        detector.fit(support, labels)
    assert not detector.is_fitted


def test_calls_out_of_order_and_out_of_range(detector, folder, pictures, tmp_path):
    with pytest.raises(RuntimeError, match=r"call detector.fit"):
        detector.score(pictures)
    detector.fit(pictures)
    for alpha in (0, 1, 10):
        with pytest.raises(ValueError, match=f"alpha is {alpha}"):
            detector.predict(pictures, alpha=alpha)
    with pytest.raises(ValueError, match=r"99 calibration scores can't promise 0.001"):
        detector.predict(pictures, alpha=0.001)
    with pytest.raises(CheckpointError, match="expected a finished run"):
        mz.load_detector(tmp_path)
    save_checkpoint(tmp_path / "bare", Checkpoint(small_learner(), [], {}))
    bare = mz.load_detector(tmp_path / "bare").fit(pictures)
    with pytest.raises(RuntimeError, match=r"has no calibration.*calibrate='within'"):
        bare.p_value(pictures, "across")
    assert np.array_equal(bare.p_value(pictures), bare.p_value(pictures, "within"))
    with pytest.raises(ValueError, match=r"4 calibration scores can't promise 0\.1"):
        bare.fit(pictures[:4]).predict(pictures)


def test_each_column_needs_a_name_of_its_own(tmp_path):
    detector = mz.load_detector(FORGED / "folders" / "sound")
    with pytest.raises(ValueError, match=r"several columns named \['a'\]"):
        detector.fit(pandas.DataFrame(np.eye(3), columns=["a", "a", "b"]))
    with pytest.raises(ValueError, match=r"for each of 3 columns, saw \['a'\]"):
        detector.fit(np.eye(3), columns=["a"])
    detector.fit(pandas.DataFrame(np.eye(3), columns=["a", "b", "c"])).save(tmp_path)
    assert mz.load_detector(tmp_path).columns == ["a", "b", "c"]
