from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from metaad_zoo.data import ImageEpisodes, RandomCamera
from metaad_zoo.data.splits import split_by_counts, split_by_patterns
from metaad_zoo.episodes import EpisodeSpec
from tests.conftest import SPLITS

SMALL = EpisodeSpec(support_normal=2, query_normal=2, query_anomalous=2)
STILL = {"rotation": 0, "shift": 0, "scale": (1, 1), "contrast": (1, 1), "brightness": (0, 0), "noise": 0}


def folders(root, classes, n=6):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(root / name / f"{i}.png")


def test_split_by_patterns_refuses_what_overlaps_or_misses():
    names = ["a/1", "a/2", "b/1"]
    with pytest.raises(ValueError, match="'a/1' is in the train and in the test split"):
        split_by_patterns(names, {"train": ["a/*"], "test": ["a/1"]})
    with pytest.raises(ValueError, match="pattern 'c' of the val split matches none"):
        split_by_patterns(names, {"val": ["c"]})
    with pytest.raises(ValueError, match="unknown split 'valid'; did you mean 'val'"):
        split_by_patterns(names, {"valid": ["a/*"]})


def test_split_by_counts_keeps_groups_together():
    names = [f"alphabet{a}/character{c}" for a in range(9) for c in range(4)]
    splits = split_by_counts(names, [5, 2, 2], by="parent", seed=3)
    groups = [{n.split("/")[0] for n in part} for part in splits.values()]
    assert [len(g) for g in groups] == [5, 2, 2]
    assert sum(map(len, splits.values())) == 36
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert split_by_counts(names, [5, 2, 2], by="parent", seed=3) == splits
    assert split_by_counts(names, [5, 2, 2], by="parent", seed=4) != splits
    with pytest.raises(ValueError, match="at most the 9 groups"):
        split_by_counts(names, [5, 3, 2], by="parent", seed=0)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=12),
    by=st.sampled_from(["class", "parent"]),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_splits_by_counts_are_always_disjoint(sizes, by, seed, data):
    names = [f"a{a}/c{c}" for a, n in enumerate(sizes) for c in range(n)]
    groups = len(sizes) if by == "parent" else len(names)
    train = data.draw(st.integers(0, groups))
    val = data.draw(st.integers(0, groups - train))
    test = data.draw(st.integers(0, groups - train - val))
    splits = split_by_counts(names, [train, val, test], by, seed)
    everything = [n for part in splits.values() for n in part]
    assert len(set(everything)) == len(everything)
    of = (lambda n: n.split("/")[0]) if by == "parent" else (lambda n: n)
    parts = [{of(n) for n in part} for part in splits.values()]
    assert [len(p) for p in parts] == [train, val, test]
    assert not (parts[0] & parts[1]) | (parts[0] & parts[2]) | (parts[1] & parts[2])


class TestCamera:
    def test_that_does_nothing_changes_nothing(self):
        x = torch.rand(3, 1, 8, 8)
        torch.testing.assert_close(RandomCamera(**STILL)(x, np.random.default_rng(0)), x)

    def test_shifts_and_scales_by_what_it_says(self):
        x = torch.zeros(1, 1, 16, 16)
        x[0, 0, 8, 8] = 1
        places = []
        for i in range(200):
            seen = RandomCamera(**{**STILL, "shift": 0.25})(x, np.random.default_rng(i))[0, 0]
            places.append(divmod(int(seen.argmax()), 16))
        rows, columns = zip(*places, strict=True)
        assert 8 - 4 - 1 <= min(rows) <= 5
        assert 11 <= max(columns) <= 8 + 4 + 1
        doubled = RandomCamera(**{**STILL, "scale": (2, 2)})(torch.ones(1, 1, 8, 8), np.random.default_rng(0))
        torch.testing.assert_close(doubled, torch.ones(1, 1, 8, 8))
        halved = RandomCamera(**{**STILL, "scale": (0.5, 0.5)})(torch.ones(1, 1, 8, 8), np.random.default_rng(0))
        assert halved.sum().item() == pytest.approx(16, rel=0.1)

    def test_a_quarter_turn_is_a_quarter_turn(self):
        x = torch.rand(1, 1, 8, 8)

        class Always90:
            def uniform(self, low, high, n):
                return np.full(n, high)

            def standard_normal(self, shape, dtype):
                return np.zeros(shape, dtype)

        seen = RandomCamera(**{**STILL, "rotation": 90})(x, Always90())
        assert any(torch.allclose(seen, torch.rot90(x, k, (2, 3)), atol=1e-5) for k in (1, 3))

    def test_light_and_noise_have_the_stated_size(self):
        x = torch.full((4000, 1, 4, 4), 0.5)
        seen = RandomCamera(**{**STILL, "contrast": (0.5, 1), "brightness": (0, 0.3)})(x, np.random.default_rng(0))
        assert seen.min() >= 0.25
        assert seen.max() <= 0.8
        assert seen.mean().item() == pytest.approx(0.5 * 0.75 + 0.15, abs=0.01)
        noisy = RandomCamera(**{**STILL, "noise": 0.1})(x, np.random.default_rng(0))
        assert (noisy - x).std().item() == pytest.approx(0.1, rel=0.02)

    @pytest.mark.parametrize("bad", [{"scale": (1.2, 0.8)}, {"scale": (0, 1)}, {"noise": -1}])
    def test_refuses_senseless_settings(self, bad):
        with pytest.raises(ValueError, match="RandomCamera"):
            RandomCamera(**bad)


def test_class_folders_become_tasks(tmp_path):
    folders(tmp_path, "abcdef")
    data = ImageEpisodes(
        "own", str(tmp_path), {"train": ["a", "b"], "val": ["c", "d"], "test": ["e", "f"]}, episode=SMALL
    )
    data.setup("fit")
    assert data.input_shapes == {"image": (1, 8, 8)}
    assert {e.task for e in data.episodes("test", 2)} == {f"{tmp_path.name}/e-vs-f", f"{tmp_path.name}/f-vs-e"}


def test_several_plain_folders_are_classes(tmp_path):
    folders(tmp_path, ["good", "bad"])
    data = ImageEpisodes("own", [str(tmp_path / n) for n in ("good", "bad")], {"test": ["*"]}, episode=SMALL)
    assert next(data.episodes("test", 1)).task in {"good+bad/good-vs-bad", "good+bad/bad-vs-good"}


def test_one_plain_folder_alone_has_no_anomalies(tmp_path):
    folders(tmp_path, ["good"])
    data = ImageEpisodes("own", str(tmp_path / "good"), {"test": ["*"]}, episode=SMALL)
    with pytest.raises(ValueError, match="at least two classes"):
        data.setup("test")


def test_mvtec_categories_become_tasks(tmp_path):
    for category in ("bottle", "cable"):
        folders(tmp_path / category / "train", ["good"])
        folders(tmp_path / category / "test", ["good", "crack"])
    data = ImageEpisodes("own", str(tmp_path), {"train": ["bottle"], "test": ["cable"]}, episode=SMALL)
    data.setup("fit")
    episode = next(data.episodes("test", 1))
    assert episode.task == f"{tmp_path.name}/cable"
    anomalous = data.images.anomalous
    assert anomalous[episode.query_ids].tolist() == episode.query_labels.bool().tolist()
    with pytest.raises(ValueError, match="there is no val split"):
        data.sampler("val")


def test_a_small_class_is_named_before_any_work(tmp_path):
    folders(tmp_path, "ab", n=6)
    folders(tmp_path, "c", n=3)
    data = ImageEpisodes("own", str(tmp_path), {"test": ["*"]}, episode=SMALL)
    with pytest.raises(ValueError, match=r"class 'c' .* has 3 normal samples but an episode draws 4"):
        data.sampler("test")


def test_calibration_takes_the_support_sizes_that_classes_have_room_for(tmp_path):
    folders(tmp_path, "ab", n=8)
    data = ImageEpisodes(
        "own", str(tmp_path), {"val": ["*"]}, episode=EpisodeSpec(2, query_normal=2, query_anomalous=2)
    )
    assert data.shots_with_room() == [1, 2, 5], "ten and two more are not there"
    own = ImageEpisodes("own", str(tmp_path), {"val": ["*"]}, episode=data.episode, calibration_shots=[4])
    assert own.shots_with_room() == [2, 4]
    with pytest.raises(ValueError, match=r"data.calibration_shots is"):
        ImageEpisodes("own", str(tmp_path), {"val": ["*"]}, calibration_shots=[0])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"splits": None}, "data.splits is not set"),
        ({"splits": {"train": ["0", "1"], "test": ["1", "2"]}}, "in the train and in the test split"),
        ({"dataset": "own"}, "data.root names no files"),
        ({"dataset": "digits", "root": ["a", "b"]}, "takes one"),
        ({"dataset": "digist"}, "did you mean 'digits'"),
        ({"finer_tasks": 2.0}, "expected a chance"),
        ({"tasks_per_batch": 0}, "data.tasks_per_batch is 0"),
        ({"test_episodes": 0}, "data.test_episodes is 0"),
        ({"image_size": 0}, "data.image_size is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        ImageEpisodes(**{"splits": SPLITS, **settings}).setup("fit")


def test_the_camera_reaches_every_split_and_finer_tasks_only_training():
    data = ImageEpisodes(splits=SPLITS, image_size=16, camera=RandomCamera(), finer_tasks=1.0)
    plain = ImageEpisodes(splits=SPLITS, image_size=16)
    for split in ("train", "val", "test"):
        photographed, clean = (next(d.episodes(split, 1)) for d in (data, plain))
        assert ("/near-" in photographed.task) == (split == "train")
        x = photographed.query["image"]
        assert x.shape == clean.query["image"].shape
        assert not torch.equal(x, plain.images.read(photographed.query_ids.numpy(), None)["image"])


def test_the_description_holds_what_fixes_a_result():
    described = ImageEpisodes(splits=SPLITS, camera=RandomCamera(), seed=5).description()
    assert described["splits"]["test"] == ["6", "7", "8", "9"]
    assert described["camera"]["rotation"] == 25
    assert described["seed"] == 5
    assert described["test_episode"]["support_normal"] == 5


def write_categories(root, n: int, good: int = 12, bad: int = 8):
    rng = np.random.default_rng(0)
    for c in range(n):
        for part, count in (("train/good", good), ("test/good", good), ("test/hole", bad)):
            folder = root / f"line{c}" / part
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(folder / f"{i}.png")


SMALL = EpisodeSpec(support_normal=2, query_normal=2, query_anomalous=2)


def test_of_two_categories_one_is_tested_and_the_other_halved(tmp_path):
    write_categories(tmp_path, 2)
    data = ImageEpisodes("own", str(tmp_path), episode=SMALL)
    data.setup("fit")
    sizes = {split: pool.sizes() for split, pool in data.pools.items()}
    name = tmp_path.name
    assert sizes == {
        "train": [(f"{name}/line0 (first half)", 12, 4)],
        "val": [(f"{name}/line0 (second half)", 12, 4)],
        "test": [(f"{name}/line1", 24, 8)],
    }
    of = [set(np.concatenate([d.normal, d.anomalous])) for pool in data.pools.values() for d in pool.domains]
    assert sum(map(len, of)) == len(set.union(*of)), "no image in two splits"
    assert "a half of its images each" in data.skipped[0]


def test_own_categories_are_split_without_being_told_and_one_alone_is_halved(tmp_path):
    write_categories(tmp_path / "five", 5)
    data = ImageEpisodes("own", str(tmp_path / "five"), episode=SMALL)
    assert [len(names) for names in data.class_splits.values()] == [3, 1, 1]
    write_categories(tmp_path / "one", 1)
    one = ImageEpisodes("own", str(tmp_path / "one"), episode=SMALL)
    one.setup("test")
    (name,) = one._images.class_names
    assert one.class_splits == {"train": [], "val": [f"{name} (first half)"], "test": [f"{name} (second half)"]}
    assert f"{one.images.name}/{name}" in one.seen, "no later test may be on it"
    assert "the only category" in one.skipped[0]
    with pytest.raises(ValueError, match=r"1 category \(two will do\).*metaad adapt"):
        one.sampler("train")


def test_synthetic_anomalies_reach_training_alone(tmp_path):
    write_categories(tmp_path, 5, bad=2)
    plain, made = (
        ImageEpisodes("own", str(tmp_path), episode=SMALL, synthetic=synthetic, synthetic_share=1.0)
        for synthetic in (None, ["cut_paste"])
    )
    for split in ("val", "test"):
        for a, b in zip(plain.episodes(split, 3), made.episodes(split, 3), strict=True):
            assert torch.equal(a.query["image"], b.query["image"])
    episode = next(made.episodes("train", 1))
    own = made.images.images[episode.query_ids].float() / 255
    changed = (episode.query["image"] != own).flatten(1).any(1)
    assert torch.equal(changed, episode.query_labels == 1)
    with pytest.raises(ValueError, match="is for categories; digits has classes"):
        ImageEpisodes(splits=[4, 2, 4], synthetic=["cut_paste"]).setup("fit")
