"""Unlabelled samples beside a support set, through the detector."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import metaad_zoo as mz
from metaad_zoo.data.read import images
from metaad_zoo.detector import Detector
from metaad_zoo.episodes import NORMAL, UNLABELLED
from metaad_zoo.evaluation.baselines import BASELINES, register_baseline
from metaad_zoo.learners import InContextDetector, register_learner
from metaad_zoo.learners.registry import LEARNERS
from metaad_zoo.modality.samples import read_samples
from metaad_zoo.modality.unlabelled import MOST_UNLABELLED, read_unlabelled
from metaad_zoo.zoo import Checkpoint

RNG = np.random.default_rng(0)
NORMALS, PILE, NEW = RNG.normal(size=(10, 3)), RNG.normal(size=(40, 3)), RNG.normal(size=(20, 3))


class Weighing:
    """Distance to the mean of the normal samples and of the share of unlabelled ones that are nearest to it."""

    reads_unlabelled = True

    def __init__(self, contamination: float = 0.5) -> None:
        self.contamination = contamination

    def expecting(self, contamination: float) -> Weighing:
        return Weighing(contamination)

    def adapt(self, support, support_labels):
        x, labels = support["tabular"], support_labels
        centre, pile = x[labels == NORMAL].mean(0), x[labels == UNLABELLED]
        near = (pile - centre).norm(dim=1).argsort()[: round((1 - self.contamination) * len(pile))]
        adapted = copy.copy(self)
        adapted.centre = torch.cat([x[labels == NORMAL], pile[near]]).mean(0)
        return adapted

    def score(self, samples):
        return (samples["tabular"] - self.centre).norm(dim=1)


class WeighingLearner(InContextDetector):
    """Without the share of unlabelled samples that are farthest from the normal ones."""

    reads_unlabelled = True
    share = 0.5

    def expecting(self, contamination):
        learner = copy.copy(self)
        learner.share = contamination
        return learner

    def adapt(self, support, support_labels):
        x, labels = support["tabular"], support_labels
        far = torch.where(labels == UNLABELLED, (x - x[labels == NORMAL].mean(0)).norm(dim=1), 0).argsort()
        kept = far[: len(far) - round(self.share * int((labels == UNLABELLED).sum()))].sort().values
        return super().adapt({"tabular": x[kept]}, labels[kept])


@pytest.fixture
def learner(monkeypatch):
    """A learner that weighs unlabelled samples, and takes their contamination."""
    monkeypatch.setattr(LEARNERS, "_entries", dict(LEARNERS._entries))
    register_learner("test_weighing_learner")(WeighingLearner)
    return WeighingLearner(width=8, input_shapes={"tabular": (-1,)}).eval()


@pytest.fixture
def weighing(monkeypatch):
    """Name of a baseline that weighs unlabelled samples, and takes their contamination."""
    monkeypatch.setattr(BASELINES, "_entries", dict(BASELINES._entries))
    register_baseline("test_weighing", modalities=("tabular",))(Weighing)
    return "test_weighing"


def reference(contamination):
    support = torch.as_tensor(np.concatenate([NORMALS, PILE]))
    labels = torch.tensor([NORMAL] * 10 + [UNLABELLED] * 40)
    return Weighing(contamination).adapt({"tabular": support}, labels).score({"tabular": torch.as_tensor(NEW)}).numpy()


def test_unlabelled_samples_are_support_with_their_own_label(weighing):
    detector = mz.load_detector(weighing).fit(NORMALS, unlabelled=PILE)
    np.testing.assert_allclose(detector.score(NEW), reference(0.5))
    assert (detector.shots, detector.unlabelled, detector.contamination) == (10, 40, None)
    assert not list(detector.account), "a method that weighs them gives no cause for a note"
    by_labels = mz.load_detector(weighing).fit(np.concatenate([NORMALS, PILE]), [0] * 10 + [-1] * 40)
    assert np.array_equal(by_labels.score(NEW), detector.score(NEW))


def test_a_learner_that_weighs_them_is_told_saved_loaded_and_moved(learner, tmp_path):
    detector = Detector(Checkpoint(learner, [], {}))
    scores = {share: detector.fit(NORMALS, None, PILE, share).score(NEW) for share in (None, 0.5, 0.1)}
    assert not list(detector.account)
    assert np.array_equal(scores[None], scores[0.5])
    assert not np.allclose(scores[0.1], scores[0.5])
    detector.save(tmp_path / "detector")
    for again in (mz.load_detector(tmp_path / "detector"), copy.deepcopy(detector), detector.to(torch.float64)):
        assert (again.unlabelled, again.contamination) == (40, 0.1)
        np.testing.assert_allclose(again.score(NEW), scores[0.1], rtol=1e-4, atol=1e-5)


def test_the_stated_contamination_reaches_the_method_and_is_saved(weighing, tmp_path):
    detector = mz.load_detector(weighing).fit(NORMALS, None, PILE, 0.2)
    np.testing.assert_allclose(detector.score(NEW), reference(0.2))
    detector.save(tmp_path / "detector")
    loaded = mz.load_detector(tmp_path / "detector")
    assert np.array_equal(loaded.score(NEW), detector.score(NEW))
    assert (loaded.shots, loaded.unlabelled, loaded.contamination) == (10, 40, 0.2)
    assert loaded.fit(NORMALS, unlabelled=PILE).contamination is None


def test_a_method_that_takes_them_as_normal_says_so_and_names_those_that_weigh(weighing):
    detector = mz.load_detector("knn").fit(NORMALS, unlabelled=PILE)
    together = mz.load_detector("knn").fit(np.concatenate([NORMALS, PILE]))
    np.testing.assert_allclose(detector.score(NEW), together.score(NEW))
    (sentence,) = detector.account
    assert sentence.startswith("the support set: knn takes the 40 unlabelled samples as normal; ")
    assert weighing in sentence
    with pytest.raises(ValueError, match="knn has no use for the share of anomalies"):
        detector.fit(NORMALS, unlabelled=PILE, contamination=0.1)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"contamination": 0.1}, r"there are none: give unlabelled \(--unlabelled\)"),
        ({"contamination": 1.0, "unlabelled": PILE}, r"expected a share in \[0, 1\)"),
        ({"unlabelled": PILE[:, :2]}, "2 columns or channels in the unlabelled samples, but 3"),
        ({"unlabelled": np.full((4, 3), np.nan)}, "at least one unlabelled sample with a value"),
    ],
)
def test_unlabelled_samples_that_can_not_be_used_are_refused(weighing, given, complaint):
    with pytest.raises(ValueError, match=complaint):
        mz.load_detector(weighing).fit(NORMALS, **given)


def test_columns_are_taken_by_the_schema_of_the_support_and_labels_are_ignored(weighing, tmp_path):
    names = ["a", "b", "c"]
    support = pd.DataFrame(NORMALS, columns=names)
    pile = pd.DataFrame(PILE, columns=names).assign(label=RNG.integers(2, size=40), id=range(40))
    path = tmp_path / "all.csv"
    pile[["label", "c", "id", "a", "b"]].to_csv(path, index=False)
    for unlabelled in (path, str(path), pile[["c", "b", "a", "label"]]):
        detector = mz.load_detector(weighing).fit(support.assign(label=0), unlabelled=unlabelled)
        np.testing.assert_allclose(detector.score(NEW), reference(0.5), rtol=1e-6)
        assert detector.unlabelled == 40
        assert any("labels of 40 unlabelled samples are ignored" in sentence for sentence in detector.account)


def test_a_fixed_draw_of_many_is_used_and_noted(monkeypatch):
    rows = RNG.normal(size=(MOST_UNLABELLED + 500, 3))
    support = read_samples(rows[:5], {"tabular": (-1,)})
    frame = pd.DataFrame(rows)
    in_blocks, whole, again = (read_unlabelled(x, support, {"tabular": (-1,)}) for x in (frame, rows, rows))
    drawn = whole.samples["tabular"]
    assert torch.equal(drawn, again.samples["tabular"])
    assert torch.equal(drawn, in_blocks.samples["tabular"]), "the draw does not depend on the blocks"
    assert len(drawn) == MOST_UNLABELLED
    places = {row: i for i, row in enumerate(map(tuple, rows.tolist()))}
    order = [places[row] for row in map(tuple, drawn.tolist())]
    assert order == sorted(set(order)), "each at most once, in their order"
    assert any("10,500 unlabelled samples: 10,000 drawn by a fixed seed" in sentence for sentence in whole.account)
    monkeypatch.setattr("metaad_zoo.modality.unlabelled.MOST_NUMBERS", 300)
    assert len(read_unlabelled(rows, support, {"tabular": (-1,)}).samples["tabular"]) == 100


def test_rows_without_a_value_are_left_out():
    support = read_samples(NORMALS, {"tabular": (-1,)})
    pile = PILE.copy()
    pile[[0, 7]], pile[3, 1] = np.nan, np.nan
    reading = read_unlabelled(pile, support, {"tabular": (-1,)})
    np.testing.assert_array_equal(reading.samples["tabular"], np.delete(pile, [0, 7], 0))
    assert any("2 unlabelled samples have no value" in sentence for sentence in reading.account)


def test_images_of_a_folder_and_folders_in_it(tmp_path):
    good, pile = tmp_path / "good", tmp_path / "pile"
    for folder in (good, pile / "monday", pile / "tuesday"):
        folder.mkdir(parents=True)
        for i in range(4):
            Image.fromarray(RNG.integers(0, 255, (12, 12), np.uint8)).save(folder / f"{i}.png")
    (pile / "monday" / "broken.png").write_bytes(b"no picture")
    detector = mz.load_detector("knn", modality="image").fit(good, unlabelled=pile)
    assert (detector.shots, detector.unlabelled) == (4, 8)
    assert any("broken.png" in sentence for sentence in detector.account)
    both = [*sorted(good.iterdir()), *(p for p in sorted(pile.rglob("*.png")) if p.name != "broken.png")]
    expected = mz.load_detector("knn", modality="image").fit(both)
    queries = RNG.integers(0, 255, (5, 12, 12), np.uint8)
    np.testing.assert_allclose(detector.score(queries), expected.score(queries))


def test_of_many_images_those_alone_are_opened_that_are_drawn(tmp_path, monkeypatch):
    pixels = RNG.integers(0, 255, (30, 12, 12), np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{i:02}.png")
    shapes = {"image": (1, 12, 12)}
    support = read_samples(pixels[:5], shapes)
    monkeypatch.setattr("metaad_zoo.modality.unlabelled.MOST_UNLABELLED", 8)
    opened = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *given: opened.append(given) or decode(*given))
    of_files, of_array = (read_unlabelled(x, support, shapes) for x in (tmp_path, pixels))
    assert len(opened) == 8
    assert torch.equal(of_files.samples["image"], of_array.samples["image"])
    for reading in (of_files, of_array):
        assert any("30 unlabelled samples: 8 drawn by a fixed seed" in sentence for sentence in reading.account)


def test_explanations_are_by_the_normal_samples():
    far = np.concatenate([PILE, NEW]) + 5
    detector = mz.load_detector("knn").fit(NORMALS, unlabelled=far)
    explainer = detector.explainer()
    units = explainer.units({"tabular": torch.as_tensor(np.concatenate([NORMALS, far]))})["tabular"]
    usual = explainer.baseline({"tabular": units[:1]})["tabular"][0]
    torch.testing.assert_close(usual, units[:10].nanmedian(0).values)
    assert np.array_equal(detector.nearest_support(far[:5])[0], torch.cdist(units[10:15], units[:10]).argmin(1))
