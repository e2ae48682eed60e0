"""TabularEpisodes: what the files hold comes out as tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from metaad_zoo.data import TablePrior, TabularEpisodes, list_datasets
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.read.roles import ColumnOptions, Vocabulary
from metaad_zoo.data.tables import read_table
from metaad_zoo.episodes import EpisodeSpec

SMALL = EpisodeSpec(support_normal=3, query_normal=4, query_anomalous=4)
FEW = TablePrior(tables=20, min_columns=3, max_columns=6)


def write(folder, name, columns=3, n=60, label="anomaly"):
    rng = np.random.default_rng(len(name))
    x = np.round(rng.normal(size=(n, columns)), 3)
    y = (np.arange(n) % 3 == 0).astype(int)
    x[y == 1] += 100
    names = [f"c{i}" for i in range(columns)] + ([label] if label else [])
    data = np.column_stack([x, y]) if label else x
    np.savetxt(folder / f"{name}.csv", data, delimiter=",", header=",".join(names), comments="", fmt="%.6g")
    return x, y


def test_a_folder_of_tables_is_tested_on_with_one_option(tmp_path):
    for name, columns in (("pump", 3), ("press", 4), ("oven", 4)):
        write(tmp_path, name, columns)
    data = TabularEpisodes("own", str(tmp_path), episode=SMALL, prior=FEW)
    data.setup("fit")
    assert data.input_shapes == {"tabular": (-1,)}
    assert data.domain_splits == {"train": ["generated"], "val": ["generated"], "test": ["oven", "press", "pump"]}
    assert {e.task for e in data.episodes("test", 3)} == {"oven", "press", "pump"}
    assert next(data.episodes("val", 1)).task.startswith("generated/val/")
    for episode in data.episodes("test", 3):  # anomalies lie at 100
        assert ((episode.query["tabular"] > 50).all(1) == episode.query_labels.bool()).all()
        assert (episode.support["tabular"] < 50).all()
    one = TabularEpisodes("own", str(tmp_path / "pump.csv"), episode=SMALL, prior=FEW)
    assert {e.task for e in one.episodes("test", 3)} == {"pump"}
    several = TabularEpisodes("own", [str(tmp_path / f"{n}.csv") for n in ("oven", "press")], {"test": ["*"]})
    assert several.input_shapes == {"tabular": (4,)}


def test_own_tables_are_split_by_pattern_or_count(tmp_path):
    for name in ("a1", "a2", "b1", "c1"):
        write(tmp_path, name)
    named = TabularEpisodes(
        "own", str(tmp_path), {"train": ["a*"], "val": ["b*"], "test": ["*1"]}, ["b1"], episode=SMALL
    )
    with pytest.raises(ValueError, match=r"'b\*' of the val split matches none"):
        named.setup("fit")
    counted = TabularEpisodes("own", str(tmp_path), [2, 1, 1], episode=SMALL)
    counted.setup("fit")
    assert [len(counted.pools[s]) for s in ("train", "val", "test")] == [2, 1, 1]
    assert counted.input_shapes == {"tabular": (3,)}
    mixed = TabularEpisodes("own", str(tmp_path), {"train": ["a*"], "val": ["generated"], "test": ["b1"]}, prior=FEW)
    assert len(mixed.pools["val"]) == 20
    assert mixed.input_shapes == {"tabular": (-1,)}


def test_a_share_of_training_episodes_may_come_from_generated_tables(tmp_path):
    for name in ("a1", "a2", "b1", "c1"):
        write(tmp_path, name)
    arguments = {"root": str(tmp_path), "splits": [2, 1, 1], "episode": SMALL, "prior": FEW}
    data = TabularEpisodes("own", generated_share=0.3, **arguments)
    data.setup("fit")
    assert data.input_shapes == {"tabular": (-1,)}
    drawn = [e.task.startswith("generated/train/") for e in data.episodes("train", 200)]
    assert 0.2 < np.mean(drawn) < 0.4
    assert not any(e.task.startswith("generated") for e in data.episodes("val", 4))
    assert data.description()["prior"] is not None
    with pytest.raises(ValueError, match=r"generated_share is 1.0; expected 0, or a share below 1"):
        TabularEpisodes("own", generated_share=1.0, **arguments).setup("fit")


def test_text_becomes_one_hot_by_frequency_and_the_rest_together():
    counts = {"": 5, "x": 9, "b": 3, "a": 3, **{f"c{i:02d}": 2 for i in range(20)}}
    vocabulary = Vocabulary.of(counts)
    assert vocabulary.categories[:3] == ("x", "a", "b")
    assert len(vocabulary.categories) == 20
    assert vocabulary.columns("k")[-1] == "k=(other)"
    codes = vocabulary.encode(np.array(["b", "c19", "", "never seen"]))
    assert codes.shape == (4, 21)
    assert codes[0].nonzero()[0].tolist() == [2]
    assert codes[1].nonzero()[0].tolist() == codes[3].nonzero()[0].tolist() == [20]
    assert np.isnan(codes[2]).all()
    assert Vocabulary.of({f"id{i}": 1 for i in range(21)}) is None
    assert Vocabulary.of({f"id{i}": 1 for i in range(3)}) is None
    assert Vocabulary.of({f"id{i}": 1 for i in range(2)}).categories == ("id0", "id1")


MIXED = "when,kind,same,a,anomaly\n" + "".join(
    f"2024-01-01 00:{i:02d}:00,{'red' if i % 2 else 'blue'},7,{i % 7},{int(i > 50)}\n" for i in range(60)
)


def test_what_is_left_out_is_told(tmp_path):
    (tmp_path / "t.csv").write_text(MIXED)
    data = TabularEpisodes("own", str(tmp_path), {"test": ["*"]})
    assert data.tables[0].columns == ["same", "a", "kind=blue", "kind=red", "kind=(other)"]
    assert any("'when' left out: a time" in s for s in data.skipped)
    assert any("'same' read as constant" in s for s in data.skipped)
    columns = list(data.summary().columns[1].cells)
    assert all(s in columns for s in data.skipped)


@pytest.mark.parametrize("missing", ["refuse", "drop", "impute"])
def test_missing_values_in_numbers_and_text(tmp_path, missing):
    (tmp_path / "t.csv").write_text("a,kind,anomaly\n1,x,0\n,y,0\n3,,1\n4,x,0\n")
    if missing == "refuse":
        with pytest.raises(ValueError, match="row 2, column 'a': the value is missing"):
            read_table(tmp_path / "t.csv", ColumnOptions(missing=missing))
        return
    table = read_table(tmp_path / "t.csv", ColumnOptions(missing=missing))
    nan = np.nan
    whole = [[1, 1, 0, 0], [nan, 0, 1, 0], [3, nan, nan, nan], [4, 1, 0, 0]]
    expected = {"drop": [whole[0], whole[3]], "impute": whole}[missing]
    np.testing.assert_array_equal(table.values, expected)
    assert table.labels.tolist() == ([0, 0] if missing == "drop" else [0, 0, 1, 0])


def test_npz_holds_x_and_y(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 4))
    np.savez(tmp_path / "t.npz", X=x, y=np.arange(30) % 2)
    table = read_table(tmp_path / "t.npz")
    np.testing.assert_array_equal(table.values, x.astype(np.float32))
    assert table.anomalous.tolist() == list(range(1, 30, 2))
    for bad, complaint in (
        ({"X": x, "y": np.arange(30)}, "expected 'y' as 30 labels"),
        ({"y": np.arange(30)}, "expected an array 'X'"),
        ({"X": np.array([{}]), "y": np.zeros(1)}, "can't be read.*Python objects"),
    ):
        np.savez(tmp_path / "bad.npz", **bad)
        with pytest.raises(ValueError, match=complaint):
            read_table(tmp_path / "bad.npz")


def test_wide_tables_show_some_columns_the_same_to_support_and_query(tmp_path):
    x, _ = write(tmp_path, "wide", columns=9)
    data = TabularEpisodes("own", str(tmp_path), {"test": ["*"]}, max_columns=4, episode=SMALL)
    assert data.input_shapes == {"tabular": (4,)}
    chosen = set()
    for episode, again in zip(data.episodes("test", 9), data.episodes("test", 9), strict=True):
        rows = np.concatenate([x[episode.support_ids], x[episode.query_ids]]).astype(np.float32)
        seen = torch.cat([episode.support["tabular"], episode.query["tabular"]]).numpy()
        columns = [np.flatnonzero((rows == column[:, None]).all(0)).item() for column in seen.T]
        assert len(set(columns)) == 4
        chosen |= set(columns)
        assert torch.equal(episode.query["tabular"], again.query["tabular"])
    assert chosen == set(range(9))


@pytest.mark.parametrize("anomalies", ["pair", "rest"])
def test_classes_are_normal_in_turn_within_their_split_and_table(anomalies):
    splits = {"train": ["digits_table/[0-3]", "wine/*"], "val": ["digits_table/[45]"], "test": ["digits_table/[6-9]"]}
    data = TabularEpisodes("sklearn_tables", splits=splits, anomalies=anomalies, episode=SMALL)
    data.setup("fit")
    assert [len(data.pools[s]) for s in splits] == ([12 + 6, 2, 12] if anomalies == "pair" else [4 + 3, 2, 4])
    assert data.pools["val"].members == {"digits_table/4", "digits_table/5"}
    digits = next(t for t in data.tables if t.name == "digits_table")
    for episode in data.episodes("test", 8):
        labels = digits.labels[episode.query_ids]
        assert set(labels) <= {6, 7, 8, 9}
        normal = episode.task.removeprefix("digits_table/").partition("-vs-")[0]
        assert ((labels == int(normal)) == (episode.query_labels.numpy() == 0)).all()


def test_known_tables_are_listed_and_read():
    assert set(list_datasets(modality="tabular")) < set(list_datasets())
    assert list_datasets("digits", modality="image") == ["digits"]
    with pytest.raises(ValueError, match="did you mean 'tabular'"):
        list_datasets(modality="tabula")
    (wine,) = read_dataset("sklearn/wine", "tabular")
    np.testing.assert_array_equal(wine.values, load_wine().data.astype(np.float32))
    assert [t.name for t in read_dataset("sklearn_tables", "tabular")] == [
        "wine",
        "breast_cancer",
        "iris",
        "digits_table",
    ]
    with pytest.raises(ValueError, match="did you mean 'sklearn/wine'"):
        read_dataset("sklearn/wines", "tabular")
    with pytest.raises(ValueError, match="read no files"):
        read_dataset("sklearn/wine", "tabular", "somewhere")


def test_adbench(data_folder):
    data = TabularEpisodes("adbench", str(data_folder), exclude=["*glass", "*Lymphography"], max_columns=32)
    data.setup("test")
    assert len(data.pools["test"]) == 28
    assert "adbench/29_Pima" in data.pools["test"].members
    assert max(e.query["tabular"].shape[1] for e in data.episodes("test", 28)) == 32


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"dataset": "own"}, "data.root names no files"),
        ({"dataset": "adbenc"}, "did you mean 'adbench'"),
        ({"dataset": "adbench", "root": ["a", "b"]}, "takes one"),
        ({"root": "{tmp}/no.csv", "dataset": "own"}, "does not exist"),
        ({"root": "{tmp}/empty", "dataset": "own"}, "holds no tables"),
        ({"root": "{tmp}", "dataset": "own", "label": "lable"}, "label column of .*'lable'"),
        ({"root": "{tmp}/free", "dataset": "own"}, "free has no label column, and the test split"),
        ({"root": "{tmp}", "dataset": "own", "exclude": ["x*"]}, r"'x\*' of data.exclude matches none"),
        ({"root": ["{tmp}/t.csv", "{tmp}"], "dataset": "own"}, r"several files are named \['t'\]"),
        ({"root": "{tmp}", "dataset": "own", "test_episode": EpisodeSpec(40)}, "t has 40 normal samples .* draws 50"),
        ({"splits": {"train": ["generated", "t"]}}, "'generated' of the train split matches none"),
        ({"dataset": "sklearn/iris", "splits": {"test": ["iris/setosa"]}}, "one class is normal, others are anomalous"),
        ({"max_columns": 0}, "data.max_columns is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, settings, complaint):
    write(tmp_path, "t")
    for folder in ("empty", "free"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "free", "free", label=None)
    root = settings.get("root")
    if root is not None:
        root = root.format(tmp=tmp_path) if isinstance(root, str) else [r.format(tmp=tmp_path) for r in root]
    with pytest.raises(ValueError, match=complaint):
        TabularEpisodes(**{**settings, "root": root}).setup("fit")


def test_the_description_holds_what_fixes_a_result(tmp_path):
    write(tmp_path, "t")
    described = TabularEpisodes("own", str(tmp_path), prior=FEW, seed=5).description()
    assert described["splits"]["test"] == ["t"]
    assert described["columns"] == {"t": 3}
    assert described["prior"]["max_columns"] == 6
    assert described["seed"] == 5
    assert TabularEpisodes("own", str(tmp_path), {"test": ["t"]}).description()["prior"] is None


def test_synthetic_anomalies_are_for_training_domains_alone(tmp_path):
    write(tmp_path, "free", label=None)
    write(tmp_path, "known")
    splits = {"train": ["free"], "test": ["known"]}
    plain = TabularEpisodes("own", str(tmp_path), splits, episode=SMALL)
    with pytest.raises(ValueError, match="free has no label column, and the train split"):
        plain.setup("fit")
    data = TabularEpisodes("own", str(tmp_path), splits, synthetic=["outlier"], episode=SMALL)
    data.setup("fit")
    rows = torch.from_numpy(data.tables[0].values)
    for episode in data.episodes("train", 3):
        changed = (episode.query["tabular"] != rows[episode.query_ids]).any(1)
        assert (changed == episode.query_labels.bool()).all()
    values = torch.from_numpy(data.tables[1].values)
    for episode in data.episodes("test", 3):
        assert torch.equal(episode.query["tabular"], values[episode.query_ids])
    with pytest.raises(ValueError, match="generated training tables have anomalies of their own"):
        TabularEpisodes("own", str(tmp_path / "known.csv"), synthetic=["outlier"]).setup("fit")
