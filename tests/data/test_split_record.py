"""Splits that belong to a checkpoint: a class never changes its split, and what was seen stays seen."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from metaad_zoo.data import (
    ImageEpisodes,
    MultimodalEpisodes,
    SequenceEpisodes,
    TablePrior,
    TabularEpisodes,
)
from metaad_zoo.data.domain_splits import DomainSplitter
from metaad_zoo.data.splits import split_by_counts, usual_splits
from metaad_zoo.episodes import (
    SPLITS,
    Domain,
    EpisodeSpec,
    SplitRecord,
    fingerprint,
    fingerprints_by_class,
    joint_fingerprint,
)
from metaad_zoo.modality import SingleDomainEpisodes
from tests.cli.test_configs import write_rows
from tests.data.test_image_episodes import write_categories

SMALL = EpisodeSpec(support_normal=2, query_normal=2, query_anomalous=2)
QUIET = {"episode": SMALL, "episodes_per_epoch": 4, "val_episodes": 4, "test_episodes": 4}


def picture(rng, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(path)


def write_images(root, names, n=8):
    for name in names:
        rng = np.random.default_rng(hash_of(name))
        for i in range(n):
            picture(rng, root / name / f"{i}.png")


def hash_of(name):
    return int.from_bytes(name.encode(), "big") % 2**32


def write_series(root, names, steps=400):
    root.mkdir(exist_ok=True)
    for name in names:
        values = np.random.default_rng(hash_of(name)).normal(size=(steps, 2))
        write_rows(root / f"{name}.csv", np.column_stack([values, np.arange(steps) > 250]), ["x", "y", "anomaly"])


def write_tables(root, names, rows=60):
    root.mkdir(exist_ok=True)
    for name in names:
        values = np.random.default_rng(hash_of(name)).normal(size=(rows, 3))
        write_rows(
            root / f"{name}.csv", np.column_stack([values, np.arange(rows) % 3 == 0]), ["x", "y", "z", "anomaly"]
        )


def write_manifest(root, names, n=8):
    write_images(root, names, n)
    listed = sorted(p.name for p in root.iterdir() if p.is_dir())
    rows = [[f"{name}/{i}.png", i / 7, name] for name in listed for i in range(len(list((root / name).iterdir())))]
    write_rows(root / "manifest.csv", np.array(rows, dtype=object), ["image", "weight", "class"])


def images(root, **more):
    return ImageEpisodes("own", str(root), **QUIET, **more)


def series(root, **more):
    return SequenceEpisodes("own", str(root), window=8, stride=8, **QUIET, **more)


def tables(root, **more):
    splits = more.pop("splits", None) or [0.6, 0.2, 0.2]
    return TabularEpisodes("own", str(root), splits=splits, **QUIET, **more)


def mixture(root, **more):
    return tables(root, generated_share=0.5, prior=TablePrior(tables=20), **more)


def pairs(root, **more):
    return MultimodalEpisodes("own", str(root / "manifest.csv"), image_size=8, **QUIET, **more)


KINDS = {
    "image": (write_images, images),
    "sequence": (write_series, series),
    "tabular": (write_tables, tables),
    "mixture": (write_tables, mixture),
    "multimodal": (write_manifest, pairs),
}
EIGHT = [f"c{i}" for i in range(8)]


def go_on(data, state):
    """A new command's data after a checkpoint's state went through a file."""
    data.keep_splits(SplitRecord.parse(state["splits"], state["seen"]))
    data.setup("fit")
    return data


def by_split(data):
    return {split: set(data.pools[split].recorded) for split in SPLITS if split in data.pools}


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    write, open_data = KINDS[request.param]
    write(tmp_path / "own", EIGHT)
    return tmp_path / "own", write, open_data


def test_new_classes_join_and_no_class_moves(kind):
    root, write, open_data = kind
    first = open_data(root)
    before, state = by_split(first), first.state_dict()
    write(root, ["a", "b"])
    again = go_on(open_data(root), state)
    after = by_split(again)
    assert all(before[split] <= after[split] for split in SPLITS)
    new = set.union(*after.values()) - set.union(*before.values())
    assert len(new) == 2
    assert {*first.seen} <= {*again.seen}
    assert not {*first.seen} & again.pools["test"].members
    assert len(again.changes) == 1
    assert "new since the checkpoint" in again.changes[0]
    third = go_on(open_data(root), again.state_dict())
    assert by_split(third) == after
    assert third.changes == [], "told once"


def test_the_same_data_are_told_to_be_the_same(kind):
    root, _, open_data = kind
    first = open_data(root)
    again = go_on(open_data(root), first.state_dict())
    assert by_split(again) == by_split(first)
    assert again.changes == []
    assert again.state_dict() == first.state_dict()


def test_changed_vanished_and_renamed_classes_are_told(kind):
    root, write, open_data = kind
    first = open_data(root)
    state, before = first.state_dict(), by_split(first)
    gone, changed, renamed = (sorted(before["train"])[i] for i in range(3))
    stem = {name: name.rpartition("/")[2] for name in (gone, changed, renamed)}
    for name in (gone, renamed):
        path = next(p for p in root.iterdir() if p.stem == stem[name])
        path.rename(path.with_name(path.name.replace(stem[name], "zz")) if name == renamed else root.parent / path.name)
    write(root, [stem[changed]], {series: 500, tables: 70, mixture: 70}.get(open_data, 10))
    again = go_on(open_data(root), state)
    changes = " | ".join(again.changes)
    assert f"no longer in the data: {gone} (train)" in changes
    assert f"{changed} (train: " in changes
    assert f"zz (train) holds the samples of {renamed}" in changes
    assert {gone, renamed} <= {*again.seen}


def test_data_that_change_within_an_epoch_are_refused_and_between_two_epochs_they_join(tmp_path):
    write_images(tmp_path / "own", EIGHT)
    first = images(tmp_path / "own", tasks_per_batch=1)
    loader = first.train_dataloader()
    next(iter(loader))
    within = first.state_dict()
    loader.batch = len(loader)
    between = first.state_dict()
    write_images(tmp_path / "own", ["a"])
    for state in (within, between):
        again = go_on(images(tmp_path / "own", tasks_per_batch=1), state)
        again.load_state_dict(state)
        if state is within:
            with pytest.raises(ValueError, match=r"the data changed within an epoch.*new since the checkpoint: own/a"):
                again.train_dataloader()
        else:
            assert len(again.train_dataloader()) == len(loader)


def test_swapped_folders_are_refused(tmp_path):
    """The samples that were trained on are now called by the name of a test class."""
    write_images(tmp_path / "own", EIGHT)
    first = images(tmp_path / "own")
    state, splits = first.state_dict(), first.class_splits
    a, b = (tmp_path / "own" / splits[split][0] for split in ("train", "test"))
    a.rename(tmp_path / "aside")
    b.rename(a)
    (tmp_path / "aside").rename(b)
    with pytest.raises(
        ValueError, match=rf"trained or chosen on \['own/{b.name}'\].*holds the samples of own/{a.name}"
    ):
        go_on(images(tmp_path / "own"), state)


@pytest.mark.parametrize("move", [("train", "val"), ("test", "train"), ("val", "train"), ("train", "test")])
def test_patterns_that_move_a_class_are_refused(kind, move):
    root, write, open_data = kind
    write(root, list("abcdef"))  # fourteen: each split has two left where it gives one away
    first = open_data(root)
    patterns = {split: sorted(n.rpartition("/")[2] for n in members) for split, members in by_split(first).items()}
    source, target = move
    patterns[target].append(patterns[source].pop())
    data = open_data(root, splits=patterns)
    with pytest.raises(ValueError, match="trained or chosen on" if target == "test" else "never changes its split"):
        go_on(data, first.state_dict())


@pytest.mark.parametrize("write", [1, 3])
def test_a_halved_category_stays_halved_and_is_never_tested(tmp_path, write):
    write_categories(tmp_path / "own", 2)
    first = images(tmp_path / "own")
    first.setup("fit")
    state = first.state_dict()
    whole = first.class_splits["train"][0].removesuffix(" (first half)")
    assert f"own/{whole}" in first.seen
    shutil.rmtree(tmp_path / "own")
    write_categories(tmp_path / "own", 2 + write)
    again = go_on(images(tmp_path / "own"), state)
    assert all(set(first.class_splits[split]) <= set(again.class_splits[split]) for split in SPLITS)
    assert whole not in again.images.class_names
    named = images(tmp_path / "own", splits={"test": [whole]})
    with pytest.raises(ValueError, match=rf"trained or chosen on \['own/{whole}'\]"):
        go_on(named, state)


def test_one_domain_with_other_samples_is_no_resumption(tmp_path):
    options = {**QUIET, "synthetic": ["level_shift"], "sample_shapes": {"sequence": [8, 2]}}
    for n in (400, 480):
        write_rows(tmp_path / "line.csv", np.random.default_rng(0).normal(size=(n, 2)), ["x", "y"])
        data = SingleDomainEpisodes(str(tmp_path / "line.csv"), **options)
        if n == 400:
            state = data.state_dict()
            go_on(SingleDomainEpisodes(str(tmp_path / "line.csv"), **options), state)
    with pytest.raises(ValueError, match=r"other samples.*two splits"):
        go_on(data, state)


def test_generated_tasks_are_seen_and_not_listed():
    data = TabularEpisodes(prior=TablePrior(tables=5), **QUIET)
    state = data.state_dict()
    assert state["splits"] == {"train": {}, "val": {}, "test": {}}
    assert len(go_on(TabularEpisodes(prior=TablePrior(tables=5), **QUIET), state).seen) == 10


def test_a_fine_tuning_may_train_on_what_was_tested_and_never_the_reverse():
    record = SplitRecord({"a": "train", "b": "val", "c": "test"}, seen=frozenset("ab"), parent="P")
    record.refuse_moves({"c": "train", "b": "train", "a": "train"}, {})
    with pytest.raises(ValueError, match=r"P was trained or chosen on \['b'\]"):
        record.refuse_moves({"b": "test"}, {})
    with pytest.raises(ValueError, match=r"a is in the val split, but was in the train split"):
        record.refuse_moves({"a": "val"}, {})
    assert SplitRecord.parse(None, "ab", parent="P").fixed({}) == {"a": "train", "b": "train"}, "an older manifest"


@pytest.mark.parametrize(
    "splits",
    [
        [],
        {"trian": {}},
        {"train": []},
        {"train": {"a": "x"}},
        {"train": {"a": ["x"]}},
        {"train": {"a": []}, "val": {"a": []}},
    ],
)
def test_damaged_records_are_refused(splits):
    with pytest.raises(ValueError, match="expected"):
        SplitRecord.parse(splits, [])


folders = st.lists(st.sets(st.sampled_from([f"{g}/{c}" for g in "abcd" for c in range(5)])), min_size=1, max_size=6)


@given(
    folders,
    st.sampled_from(["class", "parent"]),
    st.integers(0, 3),
    st.sampled_from([None, [3, 1, 1], [0.5, 0.3, 0.2]]),
)
@settings(deadline=None, max_examples=300)
def test_over_any_folders_no_class_changes_sides_and_nothing_seen_is_forgotten(folders, by, seed, counts):
    record, first_split, seen = SplitRecord(), {}, set()
    for names in map(sorted, folders):
        contents = {n: fingerprint(np.full((3, 2), hash_of(n))) for n in names}
        fixed = record.fixed(contents)
        try:
            if counts is None:
                splits, turned = (usual_splits(order, by, seed, fixed) for order in (names, names[::-1]))
            else:
                splits, turned = (split_by_counts(order, counts, by, seed, fixed) for order in (names, names[::-1]))
        except ValueError:
            continue  # too few for three splits: nothing is trained
        assert {s: sorted(of) for s, of in turned.items()} == {s: sorted(of) for s, of in splits.items()}
        now = {n: split for split, members in splits.items() for n in members}
        assert sum(map(len, splits.values())) == len(now)
        for name, split in now.items():
            assert first_split.setdefault(name, split) == split
        record.refuse_moves(now, contents)
        seen |= {n for n, split in now.items() if split != "test"}
        record = record.extended(now, contents, {n for n, split in now.items() if split != "test"})
        record = SplitRecord.parse(record.as_dict(), record.seen)
        assert record.seen == seen
        assert record.splits == first_split
        if by == "parent":
            owners = {g: {s for n, s in first_split.items() if n[0] == g} for g in "abcd"}
            assert all(len(of) <= 1 for of in owners.values()), "a group never spreads over two splits"


class Nothing:
    def read(self, ids, rng):
        raise AssertionError("splits read no sample")


@given(st.lists(st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.booleans(), st.integers(0, 3))), max_size=5))
@settings(deadline=None, max_examples=200)
def test_over_any_series_no_domain_changes_sides(folders):
    """Domains that get anomalies, or lose them, can be tested at times and only trained on at others."""
    splitter = DomainSplitter(SMALL, SMALL, lambda *x: x[0], 0.5, seed=0)
    record, first_split = SplitRecord(), {}
    for folder in folders:
        domains = [
            Domain(name, Nothing(), np.arange(12), np.arange(12, 12 + 3 * anomalous))
            for name, (anomalous, _) in sorted(folder.items())
        ]
        contents = {
            name: fingerprint(np.full((4, 1), hash_of(name) + 1000 * version)) for name, (_, version) in folder.items()
        }
        try:
            pools, _ = splitter.pools(domains, None, "class", record.fixed(contents))
        except ValueError:
            continue
        now = {n: split for split, pool in pools.items() for n in pool.members}
        for name, split in now.items():
            assert first_split.setdefault(name, split) == split
        record.refuse_moves(now, contents)
        record = record.extended(now, contents, [n for n, split in now.items() if split != "test"])


def test_fingerprints_tell_number_shape_content_and_labels():
    x = np.arange(12.0).reshape(4, 3)
    prints = {fingerprint(x), fingerprint(x[:3]), fingerprint(x[::-1]), fingerprint(x, np.zeros(4)), fingerprint(x.T)}
    assert len(prints) == 5
    assert fingerprint(x[:, ::-1][:, ::-1]) == fingerprint(x)
    by_class = fingerprints_by_class(["a", "b", "empty"], np.array([1, 0, 1, 0]), x)
    assert by_class["a"] == fingerprint(x[[1, 3]])
    assert by_class["empty"].startswith("0:3:")
    assert joint_fingerprint(["4:3:ab"]) == "4:3:ab"
