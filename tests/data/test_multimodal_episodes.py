from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from metaad_zoo.data import ImageEpisodes, MultimodalEpisodes
from metaad_zoo.data.generated_tones import make_tones
from metaad_zoo.data.joined import SeparateModalities, array_part
from metaad_zoo.data.known.multimodal import pen_steps
from metaad_zoo.data.log_mel import log_mel, mel_filters
from metaad_zoo.data.pairing import AgreementPool
from metaad_zoo.episodes import EpisodeSpec, require_disjoint
from tests.conftest import SPLITS

SMALL = EpisodeSpec(support_normal=2, query_normal=2, query_anomalous=2)
EVERYTHING = EpisodeSpec(6, 3, 8, 0.25, 12, 12)
NAMES = list("abcdef")


def separate(modalities, n=40):
    """A source whose samples are their own class and position, so that tests can read both off."""
    parts = {}
    for i in range(modalities):
        labels = np.random.default_rng(i).permutation(np.repeat(np.arange(6), n))
        parts[f"m{i}"] = array_part(f"m{i}", np.stack([labels, np.arange(6 * n)], 1), labels)
    return SeparateModalities("numbers", NAMES, parts)


def assert_same(a, b):
    """The same samples, with the same values missing."""
    assert a.task == b.task
    for one, other in ((a.support, b.support), (a.query, b.query)):
        assert all(torch.equal(x.nan_to_num(7), other[m].nan_to_num(7)) for m, x in one.items())


def classes_in(samples):
    """``(n, modalities)``: the class of each modality of each sample."""
    return torch.stack([x[:, 0] for x in samples.values()], 1).long().numpy()


class TestAgreement:
    @pytest.mark.parametrize("modalities", [2, 3])
    @pytest.mark.parametrize("classes_per_task", [2, 3])
    @pytest.mark.parametrize("pairing", ["labelled", "any"])
    def test_anomalies_show_in_no_modality_alone(self, modalities, classes_per_task, pairing):
        pool = AgreementPool(separate(modalities), NAMES, classes_per_task, pairing)
        for i in range(30):
            episode = pool.draw(i % len(pool), EVERYTHING, np.random.default_rng(i))
            classes, labels = classes_in(episode.query), episode.query_labels.numpy()
            for m in range(modalities):
                counts = [Counter(classes[labels == kind, m]) for kind in (0, 1)]
                assert counts[0] == counts[1]
                assert set(counts[0].values()) == {12 // classes_per_task}

    @pytest.mark.parametrize("modalities", [2, 3])
    @pytest.mark.parametrize("pairing", ["labelled", "any"])
    def test_exactly_one_modality_of_an_anomaly_disagrees(self, modalities, pairing):
        pool = AgreementPool(separate(modalities), NAMES, 2, pairing)
        odd = Counter()
        for i in range(30):
            episode = pool.draw(i % len(pool), EVERYTHING, np.random.default_rng(i))
            support, query = classes_in(episode.support), classes_in(episode.query)
            together = {tuple(row) for row in support[episode.support_labels == 0]}
            assert len(together) == 2, "two classes, each with its partners"
            assert all(len({row[m] for row in together}) == 2 for m in range(modalities)), "partners are one to one"
            unlike = {tuple(row) for row in support[episode.support_labels == 1]}
            assert not unlike & together
            hidden = [tuple(row) in together for row in support[episode.support_labels == -1]]
            assert hidden.count(False) == EVERYTHING.unlabelled_anomalous
            for row, label in zip(query, episode.query_labels, strict=True):
                assert (tuple(row) in together) == (label == 0)
                if label:
                    near = [np.flatnonzero(row != pair) for pair in together]
                    assert min(len(n) for n in near) == 1
                    odd.update(int(n[0]) for n in near if len(n) == 1)
        assert len(odd) == modalities
        assert max(odd.values()) < 1.5 * min(odd.values())

    def test_labelled_pairs_are_of_one_class_and_any_are_drawn_anew(self):
        pairs = {}
        for pairing in ("labelled", "any"):
            pool = AgreementPool(separate(2), NAMES, 2, pairing)
            episodes = [pool.draw(0, EVERYTHING, np.random.default_rng(i)) for i in range(60)]
            pairs[pairing] = {tuple(r) for e in episodes for r in classes_in(e.support)[e.support_labels == 0]}
        assert pairs["labelled"] == {(0, 0), (1, 1)}
        assert pairs["any"] == {(a, b) for a in (0, 1) for b in range(6)}

    @pytest.mark.parametrize("pairing", ["labelled", "any"])
    def test_no_modality_uses_a_sample_twice(self, pairing):
        source = separate(3, n=21)  # just enough: ceil(6 / 2) + ceil(3 / 2) + ... of each class
        pool = AgreementPool(source, NAMES, 2, pairing)
        for i in range(20):
            episode = pool.draw(i % len(pool), EVERYTHING, np.random.default_rng(i))
            ids = torch.cat([episode.support_ids, episode.query_ids]).numpy()
            for m, positions in enumerate(source.positions(ids)):
                assert len(set(positions)) == len(ids)
                seen = torch.cat([episode.support[f"m{m}"], episode.query[f"m{m}"]])[:, 1]
                assert seen.tolist() == positions.tolist(), "ids tell what is read"

    def test_odd_numbers_work_and_favour_no_class(self):
        pool = AgreementPool(separate(2), NAMES, 2)
        spec = EpisodeSpec(5, query_normal=3, query_anomalous=1)
        seen = Counter()
        for i in range(400):
            episode = pool.draw(0, spec, np.random.default_rng(i))
            seen.update(map(tuple, classes_in(episode.query)))
        assert set(seen) == {(0, 0), (1, 1), (0, 1), (1, 0)}
        assert abs(seen[0, 0] - seen[1, 1]) < 80
        assert abs(seen[0, 1] - seen[1, 0]) < 80

    def test_tasks_and_members_are_named(self):
        pool = AgreementPool(separate(2), ["b", "a", "e"], 2)
        assert [pool.task_name(i) for i in range(len(pool))] == ["numbers/b,a", "numbers/b,e", "numbers/a,e"]
        with pytest.raises(ValueError, match="train and test splits share"):
            require_disjoint(train=pool, test=AgreementPool(separate(2), ["a", "f"]))

    @pytest.mark.parametrize(
        ("modalities", "arguments", "complaint"),
        [
            (2, (["a", "z"],), "unknown class of numbers: 'z'"),
            (2, (["a", "a"],), "named twice"),
            (2, (["a"],), "classes_per_task=2 classes, .* has 1"),
            (2, (["a", "b"], 1), "classes_per_task=1"),
            (2, (["a", "b"], 2, "some"), "unknown pairing 'some'"),
            (1, (["a", "b"],), "takes two or more"),
        ],
    )
    def test_what_makes_no_task_is_refused(self, modalities, arguments, complaint):
        with pytest.raises(ValueError, match=complaint):
            AgreementPool(separate(modalities), *arguments)

    def test_a_small_class_is_named(self):
        pool = AgreementPool(separate(2, n=20), NAMES)
        with pytest.raises(ValueError, match=r"class 'a' of numbers has 20 samples of the modality 'm0' .* up to 21"):
            pool.check(EVERYTHING)


class TestTones:
    def test_the_sound_tells_the_class_and_its_loudness_does_not(self):
        labels = np.repeat(np.arange(10), 40)
        tones = make_tones(labels, np.random.default_rng(0))
        order = np.random.default_rng(1).permutation(len(labels))
        train, test = order[:250], order[250:]
        loudness = np.stack([np.nanmean(tones, (1, 2)), np.nanmax(tones, (1, 2)), (~np.isnan(tones[..., 0])).sum(1)], 1)
        accuracy = [
            KNeighborsClassifier(3).fit(x[train], labels[train]).score(x[test], labels[test])
            for x in (np.nanmean(tones, 1), loudness / loudness.std(0))
        ]
        assert accuracy[0] > 0.95
        assert accuracy[1] < 0.3

    def test_ends_vary_and_are_nan(self):
        tones = make_tones(np.arange(10).repeat(20), np.random.default_rng(0), length=30)
        lengths = (~np.isnan(tones[..., 0])).sum(1)
        assert lengths.min() >= 21
        assert lengths.max() <= 30
        assert len(set(lengths)) > 6
        assert all(np.isnan(t[n:]).all() and np.isfinite(t[:n]).all() for t, n in zip(tones, lengths, strict=True))

    @pytest.mark.parametrize(("arguments", "complaint"), [(([0], 3), "4 frames"), (([10], 64), "below 10")])
    def test_refuses(self, arguments, complaint):
        labels, length = arguments
        with pytest.raises(ValueError, match=complaint):
            make_tones(np.asarray(labels), np.random.default_rng(0), length=length)


class TestAudio:
    def test_a_tone_lies_in_its_band_and_energy_is_quadratic(self):
        centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 34)[1:-1] / 2595) - 1)
        for band in (3, 14, 28):
            tone = 0.4 * np.sin(2 * np.pi * centres[band] / 8000 * np.arange(4000))
            spectrum = log_mel(tone, frames=None)
            assert (spectrum.argmax(1) == band).all()
            assert log_mel(tone * 2, frames=None)[0, band] - spectrum[0, band] == pytest.approx(np.log(4), abs=1e-3)
        assert (mel_filters(8000, 32, 512).max(1) > 0.2).all(), "no band is empty"

    def test_short_sounds_end_in_nan_and_long_ones_are_cut(self):
        short = log_mel(np.ones(10, np.int16))
        assert np.isfinite(short[0]).all()
        assert np.isnan(short[1:]).all()
        sound = np.random.default_rng(0).standard_normal(20000) * 0.1
        np.testing.assert_array_equal(log_mel(sound), log_mel(sound, frames=None)[:40])
        np.testing.assert_allclose(log_mel(np.stack([sound, -sound]))[1], log_mel(sound), rtol=1e-5)
        for bad in (np.zeros(0), np.zeros(9, np.int64)):
            with pytest.raises(ValueError, match="expected a sound of samples"):
                log_mel(bad)


def test_pen_steps_walk_the_track():
    points = np.array([[0, 0], [30, 0], [30, 10], [0, 10]])
    steps = pen_steps(points, np.array([False, False, True, False]), 7)
    np.testing.assert_allclose(np.concatenate([[[0, 0]], steps[:, :2].cumsum(0)])[[0, 3, 4, 7]] * 30, points, atol=1e-5)
    assert steps[:, 2].tolist() == [1, 1, 1, 0, 1, 1, 1]
    assert not pen_steps(points[[0, 0]], np.zeros(2, bool), 4)[:, :2].any(), "a dot"


TONES = {"splits": SPLITS, "image_size": 12, "length": 8, "episode": SMALL}


class TestDigitsTones:
    def test_shapes_tasks_and_protocol(self):
        data = MultimodalEpisodes(**TONES)
        data.setup("fit")
        assert data.input_shapes == {"image": (1, 12, 12), "sequence": (8, 16)}
        assert {s: len(p) for s, p in data.pools.items()} == {"train": 6, "val": 1, "test": 6}
        assert {e.task for e in data.episodes("test", 6)} >= {"digits_tones/6,7", "digits_tones/8,9"}
        assert "~" in next(data.episodes("train", 1)).task
        described = data.description()
        assert described["pairing"] == "any"
        assert described["splits"]["test"] == ["6", "7", "8", "9"]
        batch = next(iter(data.train_dataloader()))
        assert batch.support["sequence"].shape == (4, 2, 8, 16)

    @pytest.mark.parametrize("modality", ["image", "sequence"])
    @pytest.mark.parametrize("absent", [0.0, 0.5])
    def test_one_modality_of_the_very_same_episodes(self, modality, absent):
        both, one = (MultimodalEpisodes(**TONES, absent=absent, modalities=m) for m in (None, [modality]))
        assert one.input_shapes == {modality: both.input_shapes[modality]}
        for split in ("train", "test"):
            for a, b in zip(both.episodes(split, 5), one.episodes(split, 5), strict=True):
                assert a.task == b.task
                assert torch.equal(a.query_ids, b.query_ids)
                assert torch.equal(a.query_labels, b.query_labels)
                assert list(b.query) == [modality]
                present = ~a.query[modality].flatten(1).isnan().all(1)
                assert torch.equal(a.query[modality][present].nan_to_num(7), b.query[modality][present].nan_to_num(7))
                assert not b.query[modality].flatten(1).isnan().all(1).any(), "nothing else: it is never hidden"

    def test_the_pictures_are_those_of_the_image_episodes(self):
        images = ImageEpisodes(splits=SPLITS, image_size=12).images
        data = MultimodalEpisodes(**TONES)
        episode = next(data.episodes("test", 1))
        of_images = data.source.positions(episode.query_ids.numpy())[0]
        assert torch.equal(episode.query["image"], images.read(of_images, None)["image"])

    def test_hidden_modalities_in_training_alone(self):
        data = MultimodalEpisodes(**TONES, absent=0.4)
        hidden, total = Counter(), 0
        for episode in data.episodes("train", 120):
            for part in (episode.support, episode.query):
                gone = {m: x.flatten(1).isnan().all(1) for m, x in part.items()}
                assert not (gone["image"] & gone["sequence"]).any()
                hidden.update({m: int(g.sum()) for m, g in gone.items()})
                total += len(gone["image"])
        assert sum(hidden.values()) / total == pytest.approx(0.4, abs=0.07)
        assert hidden["image"] / hidden["sequence"] == pytest.approx(1, abs=0.3)
        assert not any(x.flatten(1).isnan().all(1).any() for e in data.episodes("test", 20) for x in e.query.values())

    def test_dropout_reduces_support_and_query_of_training_episodes_alike(self):
        data, kept = MultimodalEpisodes(**TONES, dropout=0.6), Counter()
        for episode in data.episodes("train", 150):
            sides = {
                tuple(m for m, x in part.items() if not x.flatten(1).isnan().all())
                for part in (episode.support, episode.query)
            }
            assert len(sides) == 1, "what one side lacks, the other can't be compared by"
            kept.update(sides)
        assert kept["image", "sequence"] / 150 == pytest.approx(0.4, abs=0.1)
        assert kept["image",] / kept["sequence",] == pytest.approx(1, abs=0.5)
        assert sum(kept.values()) == 150
        assert not any(x.flatten(1).isnan().all(1).any() for e in data.episodes("test", 20) for x in e.query.values())
        assert data.description()["dropout"] == 0.6

    def test_dropout_is_a_function_of_the_episode_alone(self):
        one, two, without = (MultimodalEpisodes(**TONES, dropout=share) for share in (0.6, 0.6, 0.0))
        later = one.sampler("train").episode(1, 7)  # before any other episode
        ahead = list(two.episodes("train", 8, epoch=1))
        assert_same(later, ahead[7])
        for a, b in zip(ahead, without.episodes("train", 8, epoch=1), strict=True):
            assert torch.equal(a.query_ids, b.query_ids), "the same samples, of which some modalities are hidden"
            for m, x in a.query.items():
                assert x.flatten(1).isnan().all() or torch.equal(x.nan_to_num(7), b.query[m].nan_to_num(7))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_dropout_does_not_depend_on_the_workers(self, workers):
        data = MultimodalEpisodes(**TONES, dropout=0.6, num_workers=workers, episodes_per_epoch=8)
        batch = next(iter(data.train_dataloader()))
        for i, episode in enumerate(MultimodalEpisodes(**TONES, dropout=0.6).episodes("train", 4)):
            for m, x in episode.support.items():
                assert torch.equal(batch.support[m][i].nan_to_num(7), x.nan_to_num(7))

    def test_dropout_of_one_modality_leaves_the_episodes_alone(self):
        hidden, plain = (MultimodalEpisodes(**TONES, dropout=share, modalities=["image"]) for share in (1.0, 0.0))
        for a, b in zip(*(d.episodes("train", 5) for d in (hidden, plain)), strict=True):
            assert_same(a, b)

    def test_new_classes_are_one_change_for_all_samples_of_a_class(self):
        old, new, one = (
            MultimodalEpisodes(**TONES, new_classes=share, modalities=m)
            for share, m in ((0.0, None), (1.0, None), (1.0, ["sequence"]))
        )
        changes = Counter()
        for a, b, c in zip(*(d.episodes("train", 20) for d in (old, new, one)), strict=True):
            assert b.task == f"{a.task} new"
            assert torch.equal(b.query["sequence"].nan_to_num(7), c.query["sequence"].nan_to_num(7))
            classes = new.source.parts["image"].labels[new.source.positions(a.query_ids.numpy())[0]]
            by_name = {}
            for x, y, label in zip(a.query["image"], b.query["image"], classes, strict=True):
                candidates = [torch.rot90(z, k, (1, 2)) for z in (x, x.flip(-1)) for k in range(4)]
                same = {i for i, z in enumerate(candidates) if torch.allclose(z, y)}
                assert by_name.setdefault(label, same) & same
                changes.update(same)
            for x, y in zip(a.query["sequence"], b.query["sequence"], strict=True):
                assert any(torch.equal(x.roll(i, -1).nan_to_num(7), y.nan_to_num(7)) for i in range(16))
        assert len(changes) == 8
        for a, b in zip(old.episodes("test", 3), new.episodes("test", 3), strict=True):
            assert torch.equal(a.query["image"], b.query["image"]), "in training alone"

    @pytest.mark.parametrize(
        ("settings", "complaint"),
        [
            ({"new_classes": 2.0}, "data.new_classes is 2.0"),
            ({"dataset": "digits_tone"}, "did you mean 'digits_tones'"),
            ({"dataset": "own"}, "data.root names no manifest"),
            ({"anomalies": "mismatched"}, "did you mean 'mismatch'"),
            ({"anomalies": "pair"}, "modalities that are separate sets: set one of .'mismatch'"),
            ({"modalities": ["sound"]}, "unknown modality of digits_tones: 'sound'"),
            ({"modalities": []}, "expected distinct ones"),
            ({"absent": 1.0}, "data.absent is 1.0"),
            ({"dropout": 1.5}, "data.dropout is 1.5; expected a share of the training episodes"),
            ({"pairing": "all"}, "unknown data.pairing 'all'"),
            ({"classes_per_task": 3}, "classes_per_task=3 classes"),
            ({"image_size": 0}, "data.image_size is 0"),
            ({"length": 3}, "at least 4 frames"),
            ({"channels": 3}, "data.channels is 3"),
            ({"root": "x"}, "read no files"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings, complaint):
        with pytest.raises(ValueError, match=complaint):
            MultimodalEpisodes(**{**TONES, **settings}).setup("fit")


@pytest.mark.parametrize(
    ("name", "shapes", "options"),
    [
        ("omniglot_image_stroke", {"image": (1, 28, 28), "sequence": (64, 3)}, {"split_by": "parent"}),
        ("leaf_image_table", {"image": (1, 64, 64), "tabular": (192,)}, {}),
        ("digits_audio_image", {"image": (1, 28, 28), "sequence": (40, 32)}, {"classes_per_task": 2}),
    ],
)
def test_real_sets(data_folder, name, shapes, options):
    data = MultimodalEpisodes(name, str(data_folder), episode=SMALL, **options)
    data.setup("fit")
    assert data.input_shapes == shapes
    episode = next(data.episodes("test", 1))
    assert {m: tuple(x.shape[1:]) for m, x in episode.query.items()} == shapes
    assert not any(x.flatten(1).isnan().all(1).any() for x in episode.query.values())
    if name == "leaf_image_table":
        with pytest.raises(ValueError, match="has no sequences"):
            MultimodalEpisodes(name, str(data_folder), length=5).setup("fit")
    with pytest.raises(ValueError, match="does not exist"):
        MultimodalEpisodes(name, str(data_folder / "raw")).setup("fit")
