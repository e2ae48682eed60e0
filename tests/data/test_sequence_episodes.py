"""Sequence episodes out of own files and known sets."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from metaad_zoo.data import SequenceEpisodes
from metaad_zoo.data.domain_splits import DomainSplitter
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.read.series_folder import FileOptions, read_own_series
from metaad_zoo.data.read.times import as_seconds, resampled
from metaad_zoo.data.series import SequenceArrays
from metaad_zoo.episodes import Domain, EpisodeSpec

SMALL = EpisodeSpec(support_normal=3, query_normal=3, query_anomalous=2)
OWN = {"window": 10, "stride": 5, "episode": SMALL}
ALL = {"test": ["*"]}


def csv(path, length=300, channels=2, labels=True, start="2024-01-01T00:00", step=60, seed=0):
    """A file of noise, anomalous in its last third but for its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(size=(length, channels))
    times = np.datetime64(start, "s") + step * np.arange(length)
    rows = [f"time,{','.join(f'c{i}' for i in range(channels))}{',label' if labels else ''}"]
    for t in range(length):
        label = f",{int(2 / 3 * length < t < 0.9 * length)}" if labels else ""
        rows.append(f"{times[t]},{','.join(f'{v:.5f}' for v in values[t])}{label}")
    path.write_text("\n".join(rows) + "\n")
    return values


def data(root, splits=None, **given):
    return SequenceEpisodes("own", str(root), splits, **{**OWN, **given})


def test_a_folder_of_files_splits_into_domains_by_itself(tmp_path):
    for i in range(6):
        csv(tmp_path / "room" / f"{i}.csv", seed=i)
    csv(tmp_path / "unlabelled.csv", labels=False)
    csv(tmp_path / "short.csv", length=5)
    module = data(tmp_path)
    module.setup("fit")
    assert [len(pool) for pool in module.pools.values()] == [4, 1, 1]
    assert module.input_shapes == {"sequence": (10, 2)}
    skipped = " | ".join(module.skipped)
    assert "'time' left out: a time" in skipped
    assert "short has 5 steps, fewer than a window of 10" in skipped
    assert "unlabelled (" in skipped
    assert "60%, 20%, 20% of the domains" in str(module.summary().caption)
    assert json.dumps(module.description())


def test_episodes_hold_the_file_s_own_values_and_labels(tmp_path):
    values = csv(tmp_path / "a.csv").astype(np.float32)
    module = data(tmp_path, ALL)
    domain = module.domains[0]
    for episode in module.episodes("test", 5):
        assert episode.task == "a"
        for part, ids in ((episode.support, episode.support_ids), (episode.query, episode.query_ids)):
            for window, start in zip(part["sequence"].numpy(), domain.reader.starts[ids], strict=True):
                np.testing.assert_allclose(window, values[start : start + 10], atol=1e-5)
        starts = domain.reader.starts[episode.query_ids]
        assert episode.query_labels.tolist() == [int(s + 9 > 200 and s < 270) for s in starts]
        assert domain.reader.starts[episode.support_ids].max() + 10 <= 90 <= starts.min()


def test_counts_go_over_those_that_can_be_tested_and_synthetic_anomalies_let_the_others_train():
    def domain(name, anomalous):
        return Domain(name, None, np.arange(20), 20 + np.arange(anomalous), 50 + np.arange(9))

    domains = [domain(f"{group}/{i}", 9 if i else 0) for group in "abc" for i in range(3)]
    names = {d.name for d in domains}
    pools, left_out = DomainSplitter(SMALL, SMALL).pools(domains, [2, 2, 2], "class")
    assert [len(p) for p in pools.values()] == [2, 2, 2]
    assert "a/0 (20 normal, 0 anomalous), b/0" in left_out[0]
    keen = DomainSplitter(SMALL, SMALL, corrupt=lambda x, donors, rng: x, share=0.5)
    pools, left_out = keen.pools(domains, [2, 2, 2], "class")
    assert pools["train"].members >= {"a/0", "b/0", "c/0"}
    assert frozenset().union(*(p.members for p in pools.values())) == names
    pools, _ = keen.pools(domains, [1, 1, 1], "parent")
    groups = [{n[0] for n in p.members} for p in pools.values()]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert keen.usual_counts(domains) == [4, 1, 1]
    with pytest.raises(ValueError, match=r"1 can be tested, but val and test take one each.*0 anomalous"):
        keen.usual_counts(domains[:2])


def test_synthetic_anomalies_serve_training_alone(tmp_path):
    for i in range(4):
        csv(tmp_path / f"{i}.csv", labels=i > 1, seed=i)
    module = data(tmp_path, synthetic=["level_shift"], synthetic_share=1.0)
    module.setup("fit")
    assert module.pools["train"].members >= {"0", "1"}
    for split, made in (("train", True), ("test", False)):
        for episode in module.episodes(split, 4):
            values = next(s.values for s in module.source.series if s.name == episode.task)
            starts = next(d.reader.starts for d in module.domains if d.name == episode.task)[episode.query_ids]
            own = np.stack([values[t : t + 10] for t in starts])
            changed = (np.abs(own - episode.query["sequence"].numpy()) > 1e-5).any((1, 2))
            assert changed.tolist() == [made and label == 1 for label in episode.query_labels.tolist()]


def test_files_of_other_width_and_kind_come_together(tmp_path):
    csv(tmp_path / "a.csv", channels=2)
    parquet.write_table(
        pa.table({"x": np.random.default_rng(0).normal(size=90), "anomaly": [0] * 45 + [1] * 45}),
        tmp_path / "b.parquet",
    )
    x = np.random.default_rng(1).normal(size=(80, 3))
    y = np.repeat([0, 1], 40)
    np.savez(tmp_path / "c.npz", one__x=x, one__y=y, two__sub__x=x[:, 0], two__sub__y=y)
    np.savez(tmp_path / "d.npz", m_train=x, m_test=x, m_test_label=y)
    module = data(tmp_path, ALL)
    assert [d.name for d in module.domains] == ["a", "b", "c/one", "c/two/sub", "d"]
    assert module.input_shapes == {"sequence": (10, -1)}
    assert module.domains[-1].reader.starts[module.domains[-1].normal].min() == 80
    module.setup("test")


def test_the_numenta_layout_is_known_by_what_is_in_it(tmp_path):
    csv(tmp_path / "data" / "g" / "a.csv", labels=False)
    csv(tmp_path / "data" / "g" / "b.csv", labels=False, step=300)
    (tmp_path / "labels").mkdir()
    spans = {"g/a.csv": [["2024-01-01 02:00:00.000000", "2024-01-01 02:09:30"]], "g/b.csv": [], "g/no.csv": []}
    labels = tmp_path / "labels" / "combined_windows.json"
    labels.write_text(json.dumps(spans))
    series_set = read_own_series(tmp_path)
    assert [s.name for s in series_set.series] == ["g/a", "g/b"]
    assert np.flatnonzero(series_set.series[0].labels).tolist() == list(range(120, 130))
    assert not series_set.series[1].labels.any()
    skipped = " | ".join(series_set.skipped)
    assert "g/no.csv: has labels, but no file" in skipped
    assert "from 60 s (g/a) to 300 s (g/b): set data.resample" in skipped
    together = read_own_series(tmp_path, FileOptions(resample=300))
    assert [len(s.values) for s in together.series] == [60, 300]
    assert np.flatnonzero(together.series[0].labels).tolist() == [24, 25, 26]
    labels.write_text('{"g/a.csv": [["yesterday", "today"]]}')
    with pytest.raises(ValueError, match=r"combined_windows\.json can't be used .*'yesterday'"):
        read_own_series(tmp_path)


def test_resampling_interpolates_and_leaves_long_gaps_empty():
    times = np.array([0.0, 10, 20, 30, 200, 210])
    values = np.array([[0.0, 1], [1, np.nan], [2, 3], [3, 3], [20, 3], [21, 3]])
    made, labels = resampled(times, values, np.array([0, 0, 0, 1, 0, 0]), 5)
    np.testing.assert_allclose(made[:7, 0], np.arange(7) / 2)
    np.testing.assert_allclose(made[:5, 1], [1, 1.5, 2, 2.5, 3])
    assert np.isnan(made[7:40]).all()
    np.testing.assert_allclose(made[40:, 0], [20, 20.5, 21])
    assert labels[:5].tolist() == [0] * 5
    assert labels[6] == 1
    assert resampled(times, values, np.array([0, 1, 0, 0, 0, 0]), 100)[1].tolist() == [1, 0, 0]
    for step, complaint in ((0, "expected seconds a step"), (1e-6, "take longer steps")):
        with pytest.raises(ValueError, match=complaint):
            resampled(times, values, None, step)
    same = ["2024-01-01 01:00", "2024-01-01T01:00Z", "2024-01-01T02:00+01:00"]
    assert len(set(as_seconds(same).tolist())) == 1


def test_class_sequences_are_padded_cut_or_resampled(tmp_path):
    tracks = [np.array([[1.0, 0], [1, 0], [2, 1]], np.float32), np.ones((5, 2), np.float32)]
    arrays = SequenceArrays("pen", tracks, np.array([0, 1]), ["a", "b"], increments=(0,))
    padded = arrays.fitted(4).values
    assert padded[0, 3].isnan().all()
    assert torch.equal(padded[1], torch.ones(4, 2))
    even = arrays.fitted(5, "resample").values
    np.testing.assert_allclose(even[0, :, 0].cumsum(0), np.interp(np.linspace(0, 2, 5), range(3), [1, 2, 4]))
    np.testing.assert_allclose(even[0, :, 1], [0, 0, 0, 0.5, 1])
    assert arrays.fitted().values.shape == (2, 5, 2)
    with pytest.raises(ValueError, match="did you mean 'resample'"):
        arrays.fitted(4, "resampel")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(30, 7, 2)), y=np.arange(30) % 3)
    module = data(tmp_path / "x.npz", ALL)
    module.setup("test")
    assert module.input_shapes == {"sequence": (7, 2)}
    assert next(module.episodes("test", 1)).task.startswith("x/")


@pytest.mark.parametrize(
    ("content", "given", "complaint"),
    [
        ("", {}, r"a\.csv is empty"),
        ("v,label\n1,0\n2,2\n", {}, r"is column 'label' with the values .'0', '2'. a label"),
        ("v,w\n1,1\n,2\n", {"missing": "refuse"}, "row 2, column 'v': the value is missing"),
        ("v\n1\n2\n", {}, r"no series of .*: a has 2 steps, fewer than a window of 10"),
        ("v\n" + "1\n" * 50, {}, "a: no channel varies"),
        ("v\n1\n2\n", {"resample": 60.0}, "has no time column, which data.resample=60.0 needs"),
        ("v\n1\n2\n", {"label": "w"}, "unknown label column"),
        ("v\n1\n2\n", {"time": "w"}, "unknown time column"),
        ("time\n1\n2\n3\n4\n", {}, "no column to learn from; it has .'time'."),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, content, given, complaint):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=complaint):
        data(tmp_path, ALL, **given).setup("test")


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"z": np.zeros(3)}, "expected 'x'"),
        ({"x": np.zeros(3), "y": np.array([0, 1, 2])}, "saw 2 at step 2"),
        ({"a_train": np.zeros((5, 2)), "a_test": np.zeros((5, 3))}, "expected 'a_test' to match"),
        ({"a_train": np.zeros((5, 2)), "a_test": np.zeros((5, 2))}, "needs 'a_test_label'"),
        ({"x": np.zeros((2, 3, 1))}, "needs 'y', the class of each"),
        ({"x": np.array([{}])}, "can't be read as a numpy archive"),
    ],
)
def test_bad_archives_are_refused_by_name(tmp_path, arrays, complaint):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=rf"bad\.npz.*{complaint}"):
        read_own_series(tmp_path / "bad.npz")


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown sequence dataset 'smdd'; did you mean 'smd'"):
        SequenceEpisodes("smdd", splits=ALL).setup("test")
    with pytest.raises(ValueError, match=r"data.root names no files"):
        SequenceEpisodes(splits=ALL).setup("test")
    with pytest.raises(ValueError, match="does not exist"):
        data(tmp_path / "no", ALL).setup("test")
    with pytest.raises(ValueError, match="holds no series"):
        data(tmp_path, ALL).setup("test")
    csv(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"1 can be tested, but val and test take one each"):
        data(tmp_path).setup("fit")
    with pytest.raises(ValueError, match=r"the test split has no domain that is large enough: a has"):
        data(tmp_path, ALL, episode=EpisodeSpec(query_anomalous=99)).setup("test")
    with pytest.raises(ValueError, match=r"set data.stride to at least data.window=10"):
        data(tmp_path, ALL, episode=EpisodeSpec(support_anomalous=1)).setup("test")


SIZES = {"asd": (8, 19), "nab": (41, 1), "smap": (54, 25), "smd": (6, 38), "tep": (21, 52)}


def test_known_sets(data_folder):
    for name, (n, channels) in SIZES.items():
        series_set = read_dataset(name, "sequence", data_folder)
        assert (len(series_set.series), {s.channels for s in series_set.series}) == (n, {channels})
        assert all(s.name.startswith(f"{name}/") for s in series_set.series)
        assert all(s.support_until is None or not s.labels[: s.support_until].any() for s in series_set.series)
    strokes, spoken = (read_dataset(n, "sequence", data_folder) for n in ("omniglot_strokes", "spoken_digits"))
    assert (len(strokes.sequences), strokes.channels, len(strokes.class_names)) == (2860, 3, 143)
    assert (len(spoken.sequences), spoken.channels, len(spoken.class_names)) == (2000, 32, 10)
    assert len(spoken.about["speaker"]) == 2000


def test_known_sets_are_joined(data_folder):
    module = SequenceEpisodes(["asd", "tep"], str(data_folder), {"train": ["asd/*"], "test": ["tep/*"]}, **OWN)
    module.setup("fit")
    assert module.input_shapes == {"sequence": (10, -1)}
    assert next(module.episodes("test", 1)).query["sequence"].shape == (5, 10, 52)
    with pytest.raises(ValueError, match="can't be joined"):
        SequenceEpisodes(["asd", "spoken_digits"], str(data_folder), ALL).setup("test")


def test_files_and_archive_of_the_numenta_benchmark_agree(data_folder):
    files = read_own_series(data_folder / "raw" / "nab").series
    archive = {s.name.removeprefix("nab/"): s for s in read_dataset("nab", "sequence", data_folder).series}
    assert {s.name for s in files} == set(archive)
    for s in files:
        assert s.values.shape == archive[s.name].values.shape
        np.testing.assert_allclose(s.values, archive[s.name].values, rtol=1e-5)
        np.testing.assert_array_equal(s.labels, archive[s.name].labels)
