"""Archives behind the checkpoints, made from public files: conversion, comparison by content, and refusals."""

from __future__ import annotations

import csv
import itertools
import json
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from metaad_zoo.cli import main
from metaad_zoo.data.known import making
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.known.images import CAN_BE_MADE
from metaad_zoo.data.known.making import MAKERS, differences, make_archive, read_pickled_array
from metaad_zoo.data.read.archive import read_archive

# Rows and columns of a drawing that each new pixel covers: 105 pixels on 28, by four new pixels 4, 4, 3 and 4.
EDGES = np.cumsum([0] + [4, 4, 3, 4] * 7)


@pytest.fixture(scope="module")
def drawings():
    """Black strokes on white as Omniglot stores them, one bit a pixel."""
    generator = np.random.default_rng(0)
    return generator.random((20, 105, 105)) > 0.2


@pytest.fixture
def omniglot(tmp_path, drawings):
    """torchvision's folder, one character an alphabet, and an alphabet that the archive leaves out."""
    folder = tmp_path / "omniglot-py" / "images_background"
    for alphabet in [*making._expected()["omniglot28"], "Korean"]:
        (folder / alphabet / "character01").mkdir(parents=True)
        for i, drawing in enumerate(drawings, 1):
            Image.fromarray(drawing).save(folder / alphabet / "character01" / f"0001_{i:02d}.png")
    return tmp_path


def test_drawings_are_averaged_over_areas_and_inverted(omniglot, drawings):
    different = make_archive("omniglot28", omniglot / "out", omniglot, allow_different=True)
    assert set(different) == set(making._expected()["omniglot28"]), "one character each, not the real ones"
    arrays = read_dataset("omniglot28", "image", omniglot / "out")
    assert len(arrays.class_names) == 27
    assert arrays.class_names[0] == "images_background/Alphabet_of_the_Magi/character01"
    ink = 255.0 * ~drawings
    means = np.array(
        [
            [[d[t:b, x:r].mean() for x, r in itertools.pairwise(EDGES)] for t, b in itertools.pairwise(EDGES)]
            for d in ink
        ]
    )
    images = np.asarray(arrays.images)[:20, 0].astype(float)
    assert np.abs(images - means).max() <= 1


def test_what_differs_is_refused_and_named(omniglot, capsys):
    arguments = ["data", "omniglot28", "--out", str(omniglot / "out"), "--files", str(omniglot)]
    assert main(arguments) == 1
    assert "differs from the data behind the published checkpoints in Alphabet_of_the_Magi" in capsys.readouterr().err
    assert not (omniglot / "out").exists()
    assert main([*arguments, "--allow-different"]) == 0
    assert "the data differ" in capsys.readouterr().err
    assert main(arguments) == 1
    assert "exists: delete it to make it again" in capsys.readouterr().err


def test_damaged_folders_are_named(omniglot):
    character = omniglot / "omniglot-py" / "images_background" / "Greek" / "character01"
    (character / "0001_07.png").unlink()
    with pytest.raises(ValueError, match=r"Greek.character01 has 19 drawings, expected 20"):
        make_archive("omniglot28", omniglot / "out", omniglot)
    with pytest.raises(ValueError, match=r"expected torchvision's Omniglot, extracted there"):
        make_archive("omniglot28", omniglot / "out", omniglot / "omniglot-py")
    with pytest.raises(ValueError, match=r"is no folder"):
        make_archive("omniglot28", omniglot / "out", omniglot / "nowhere")
    with pytest.raises(ValueError, match="omniglot28"):
        make_archive("omniglot", omniglot / "out", omniglot)


@pytest.mark.parametrize("name", CAN_BE_MADE)
def test_hashes_are_those_of_the_archives(name, data_folder):
    arrays = read_archive(data_folder / f"{name}.npz")
    assert differences(name, arrays) == []
    key = "x" if "x" in arrays else next(k for k in arrays if k.endswith("_train"))
    arrays[key] = arrays[key].copy()
    arrays[key].flat[-1] += 1
    assert len(differences(name, arrays)) == 1


def test_every_archive_that_can_be_made_is_known():
    assert tuple(MAKERS.names()) == CAN_BE_MADE
    assert set(CAN_BE_MADE) == set(making._expected())


@pytest.mark.parametrize("name", ["asd", "smd"])
def test_servers_are_downloaded_and_read_without_unpickling(name, data_folder, tmp_path, monkeypatch, capsys):
    arrays = read_archive(data_folder / f"{name}.npz")
    server = tmp_path / "server"
    server.mkdir()
    for key, array in arrays.items():
        (server / f"{key}.pkl").write_bytes(pickle.dumps(array.astype(np.float32), protocol=3))
    monkeypatch.setattr(making, "INTERFUSION", server.as_uri())
    monkeypatch.setenv("METAAD_DATA", str(tmp_path))
    assert main(["data", name]) == 0
    assert "Identical to the data behind the published checkpoints." in capsys.readouterr().out
    made = read_archive(tmp_path / f"{name}.npz")
    assert made.keys() == arrays.keys()
    assert all(np.array_equal(made[key], arrays[key]) and made[key].dtype == arrays[key].dtype for key in arrays)


def test_satellite_channels_from_their_zip_and_labels(data_folder, tmp_path, monkeypatch):
    arrays = read_archive(data_folder / "smap.npz")
    channels = [key.removesuffix("_label") for key in arrays if key.endswith("_label")]
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/2018/models/notes.txt", "left in the zip")
        for channel in channels:
            for kind in ("train", "test"):
                with archive.open(f"data/{kind}/{channel}.npy", "w") as file:
                    np.save(file, arrays[f"{channel}_{kind}"].astype(np.float64))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["chan_id", "spacecraft", "anomaly_sequences", "class", "num_values"])
        for channel in channels:
            changes = np.flatnonzero(np.diff(arrays[f"{channel}_label"], prepend=0, append=0))
            for first, after in changes.reshape(-1, 2).tolist():  # some channels have several rows, as in the real file
                writer.writerow([channel, "SMAP", json.dumps([[first, after - 1]]), "[point]", 0])
    monkeypatch.setattr(making, "TELEMANOM", (tmp_path / "data.zip").as_uri())
    monkeypatch.setattr(making, "TELEMANOM_LABELS", (tmp_path / "labels.csv").as_uri())
    assert make_archive("smap", tmp_path / "out") == []
    assert not (tmp_path / "out" / "smap-source" / "data" / "2018").exists()
    with pytest.raises(ValueError, match=r"labeled_anomalies\.csv does not exist: download file:.*labels\.csv there"):
        make_archive("smap", tmp_path / "again", tmp_path)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
@pytest.mark.parametrize("shape", [(4320,), (300, 19), (70000, 2)])
def test_arrays_are_read_from_the_opcodes(tmp_path, protocol, order, dtype, shape):
    array = np.asarray(np.random.default_rng(0).integers(0, 9, shape), dtype=dtype, order=order)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(array, protocol=protocol))
    read = read_pickled_array(tmp_path / "a.pkl")
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


class Hostile:
    """Creates a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("content", ["hostile", "list", "two arrays", "cut", "page"])
def test_other_pickles_are_refused_and_nothing_runs(tmp_path, content):
    array = np.zeros(500)
    data = {
        "hostile": pickle.dumps(Hostile(tmp_path / "ran"), protocol=3),
        "list": pickle.dumps([0.5] * 500, protocol=3),
        "two arrays": pickle.dumps([array, array + 1], protocol=3),
        "cut": pickle.dumps(array, protocol=3)[:300],
        "page": b"<html>404: Not Found</html>",
    }[content]
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.pkl"):
        read_pickled_array(tmp_path / "a.pkl")
    assert not (tmp_path / "ran").exists()
