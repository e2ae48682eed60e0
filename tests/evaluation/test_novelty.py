"""Novelty of a support: statistics and distances against other libraries, and its own false-alarm rate."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from metaad_zoo.cli import main
from metaad_zoo.detector import load_detector
from metaad_zoo.episodes import Episode
from metaad_zoo.evaluation.novelty import NOVEL_UP_TO, TrainingTasks, support_statistics
from metaad_zoo.experiment.training_tasks import add_training_tasks, training_tasks
from metaad_zoo.learners import PatchMemory
from metaad_zoo.modality import get_modality, list_modalities
from metaad_zoo.zoo import Checkpoint, CheckpointError, save_checkpoint, training_tasks_tensors
from tests.conftest import REPOSITORY, small_learner

CHARACTERS = sorted(p.name for p in (REPOSITORY / "checkpoints").glob("image-*-omniglot"))


def pictures(rng, n, size=16, brightness=0.5):
    """Noise whose brightness and contrast vary from task to task."""
    level, contrast = brightness + 0.1 * rng.normal(), rng.uniform(0.05, 0.2)
    return torch.as_tensor(np.clip(level + contrast * rng.normal(size=(n, 1, size, size)), 0, 1), dtype=torch.float32)


def episode(rng, n=5):
    blank = torch.zeros(0)
    return Episode({"image": pictures(rng, n)}, torch.zeros(n), {}, blank, "task", blank, blank)


def tasks(rng, shots=(5,), n=200):
    return TrainingTasks.of((episode(rng) for _ in range(n)), {k: (episode(rng, k) for _ in range(n)) for k in shots})


def test_statistics_of_images_are_those_of_numpy():
    x = torch.rand(3, 3, 8, 8)
    values = get_modality("image").statistics(x)
    grey = x.double().numpy().mean(1)
    coarse = grey.reshape(3, 4, 2, 4, 2).mean((2, 4))
    expected = [
        grey.mean((1, 2)),
        grey.std((1, 2)),
        (grey < 0.1).mean((1, 2)),
        (grey > 0.9).mean((1, 2)),
        (np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))) / 2,
        (np.abs(np.diff(coarse, axis=1)).mean((1, 2)) + np.abs(np.diff(coarse, axis=2)).mean((1, 2))) / 2,
    ]
    np.testing.assert_allclose(values[:, :6].T, expected, rtol=1e-6)
    np.testing.assert_allclose(values[:, -1], x.double().numpy().std(1).mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("name", list_modalities())
def test_every_modality_has_statistics_between_0_and_1_or_none(name):
    shape = [5 if size == -1 else min(size, 16) for size in get_modality(name).shape]
    values = get_modality(name).statistics(torch.rand(4, *shape))
    assert values is None or (values.ndim == 2 and len(values) == 4 and 0 <= values.min() <= values.max() <= 1)


def test_a_distance_is_that_to_the_nearest_training_task_in_standard_deviations():
    rng = np.random.default_rng(0)
    reference = tasks(rng, n=50)
    rows = reference.statistics.double().numpy()
    spread = np.maximum(rows.std(0), 1e-3)
    query = torch.stack([support_statistics({"image": pictures(rng, 5)}, torch.zeros(5)) for _ in range(9)])
    expected = NearestNeighbors(n_neighbors=1).fit(rows / spread).kneighbors(query.numpy() / spread)[0][:, 0]
    np.testing.assert_allclose(reference.distance(query), expected, rtol=1e-6)


def test_the_false_alarm_rate_holds_on_tasks_like_those_of_validation():
    rng = np.random.default_rng(0)
    reference = tasks(rng)
    novel = [reference.novelty({"image": pictures(rng, 5)}, torch.zeros(5)).is_novel for _ in range(400)]
    assert 0 < np.mean(novel) < 3 * NOVEL_UP_TO
    bright = [reference.novelty({"image": pictures(rng, 5, brightness=3.0)}, torch.zeros(5)) for _ in range(5)]
    assert all(n.is_novel and n.distance > n.usual for n in bright)


def test_sizes_between_use_the_smaller_one_and_smaller_ones_say_nothing():
    rng = np.random.default_rng(0)
    reference = tasks(rng, shots=(2, 10), n=100)
    by_size = {n: reference.novelty({"image": pictures(rng, n)}, torch.zeros(n)) for n in (1, 2, 9, 10)}
    assert by_size[1] is None
    assert by_size[2].usual == by_size[9].usual != by_size[10].usual


def test_known_anomalies_and_other_modalities_do_not_count():
    x = pictures(np.random.default_rng(0), 3)
    labels = torch.tensor([0, 1, 0])
    expected = support_statistics({"image": x[[0, 2]]}, torch.zeros(2))
    torch.testing.assert_close(support_statistics({"image": x, "tabular": torch.rand(3, 2)}, labels), expected)
    assert support_statistics({"tabular": torch.rand(3, 2)}, labels) is None
    assert support_statistics({"image": torch.full((3, 1, 8, 8), torch.nan)}, labels) is None


def test_unlabelled_samples_count_only_where_no_sample_is_normal():
    x = pictures(np.random.default_rng(0), 3)
    for labels, counted in (([0, 1, -1], [0]), ([-1, 1, -1], [0, 2])):
        expected = support_statistics({"image": x[counted]}, torch.zeros(len(counted)))
        torch.testing.assert_close(support_statistics({"image": x}, torch.tensor(labels)), expected)


def test_a_detector_keeps_the_training_tasks(tmp_path, digits):
    learner, digits.calibration_episodes = small_learner(), 20
    digits.calibration_shots = [5]
    reference = training_tasks(learner, digits)
    stored = training_tasks_tensors(reference)
    save_checkpoint(tmp_path / "model", Checkpoint(learner, [], stored))
    detector = load_detector(tmp_path / "model")
    support = next(digits.episodes("test", 1)).support["image"]
    assert not detector.fit(support).novelty.is_novel
    detector.fit(torch.rand(5, 1, 16, 16)).save(tmp_path / "mine")
    again = load_detector(tmp_path / "mine")
    assert again.novelty == detector.novelty
    assert again.novelty.is_novel
    unknown = load_detector(REPOSITORY / "checkpoints" / "tabular-columns-maml-generated").fit(np.eye(9)[:, :3])
    assert unknown.novelty is None
    assert training_tasks(PatchMemory(backbone="conv4", input_shapes={"image": (1, 16, 16)}), digits) is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"training_tasks/statistics": torch.zeros(3, 5)}, r"shape \(3, 5\), expected \(tasks, 8\)"),
        ({"training_tasks/statistics": torch.full((3, 8), torch.nan)}, "not finite"),
        ({"training_tasks/distances/5": torch.tensor([2.0, 1.0])}, "not ascending"),
        ({"training_tasks/distances/x": torch.zeros(2)}, "names no size"),
        ({"training_tasks/statistics": None}, "no statistics"),
    ],
)
def test_forged_training_tasks_are_refused(change, complaint, tmp_path):
    sound = {"training_tasks/statistics": torch.rand(3, 8), "training_tasks/distances/5": torch.zeros(2)}
    tensors = {name: x for name, x in (sound | change).items() if x is not None}
    save_checkpoint(tmp_path, Checkpoint(small_learner(), [], tensors))
    with pytest.raises(CheckpointError, match=complaint):
        load_detector(tmp_path)


@pytest.mark.parametrize("name", CHARACTERS)
def test_a_model_of_characters_warns_of_photographs(name, tmp_path, capsys):
    """Brushed metal: grey, with scratches along one direction."""
    rng = np.random.default_rng(0)
    (tmp_path / "steel").mkdir()
    for i in range(5):
        lines = 120 + 20 * rng.normal(size=(64, 1)) + 5 * rng.normal(size=(64, 64))
        Image.fromarray(lines.clip(0, 255).astype(np.uint8)).save(tmp_path / "steel" / f"{i}.png")
    steel, mine, out = (str(tmp_path / part) for part in ("steel", "mine", "scores.csv"))
    for arguments in (
        ["adapt", name, "--support", steel, "--out", mine],
        ["score", mine, "--data", steel, "--out", out],
    ):
        assert main([*arguments, "--json"]) == 0
        output, notes = capsys.readouterr()
        assert "the support is unlike all tasks that this checkpoint was trained on" in notes
        assert json.loads(output)["novelty"]["novel"] is True


def test_a_model_of_characters_does_not_warn_of_an_unseen_alphabet(data_folder, tmp_path, capsys):
    characters = np.load(data_folder / "omniglot28.npz")
    name = "image-conv4-protonet-omniglot"
    unseen = sorted(set(characters["names"]) - {n.removeprefix("omniglot28/") for n in load_detector(name).trained_on})
    (tmp_path / "letter").mkdir()
    for i, x in enumerate(characters["x"][characters["y"] == list(characters["names"]).index(unseen[0])][:5]):
        Image.fromarray(x).save(tmp_path / "letter" / f"{i}.png")
    assert main(["adapt", name, "--support", str(tmp_path / "letter"), "--out", str(tmp_path / "mine"), "--json"]) == 0
    output, notes = capsys.readouterr()
    assert "unlike" not in notes
    assert json.loads(output)["novelty"]["novel"] is False


def test_training_tasks_are_added_without_touching_the_weights(tmp_path):
    """To a checkpoint of bundled data; the calibration stays as well."""
    config = "data:\n  class_path: metaad_zoo.data.ImageEpisodes\n  init_args:\n    image_size: 16\n"
    config += "    calibration_episodes: 20\n    calibration_shots: [5]\n"
    config += "    splits: {train: ['0', '1', '2', '3'], val: ['4', '5'], test: ['6', '7']}\n"
    learner = small_learner()
    save_checkpoint(tmp_path, Checkpoint(learner, [], {"calibration": torch.arange(5.0)}, config))
    assert add_training_tasks(tmp_path)
    detector = load_detector(tmp_path)
    assert all(torch.equal(x, detector._checkpoint.learner.state_dict()[k]) for k, x in learner.state_dict().items())
    assert detector.calibrated_for == [1]
    assert detector.fit(torch.rand(5, 1, 16, 16)).novelty.is_novel
