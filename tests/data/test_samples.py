"""Table rows and series in the forms users have them, up to a detector and the command line."""

from __future__ import annotations

import csv

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import metaad_zoo as mz
from metaad_zoo.cli import main
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner
from metaad_zoo.modality.samples import as_samples, read_samples
from metaad_zoo.zoo import Checkpoint, save_checkpoint

ROWS, WINDOWS, IMAGES = {"tabular": (3,)}, {"sequence": (4, 2)}, {"image": (1, 8, 8)}
CALIBRATION = {"calibration": torch.linspace(-3, 3, 99)}


class Frame:
    """What a DataFrame offers to numpy."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


def write(path, rows, header):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def test_every_form_of_rows_gives_the_same_samples(rows, tmp_path):
    np.savez(tmp_path / "t.npz", X=rows, y=np.zeros(8))
    labelled = np.column_stack([rows, np.zeros(8, int)])
    path = write(tmp_path / "t.csv", labelled, ["a", "b", "c", "label"])
    for form in (rows, rows.tolist(), torch.as_tensor(rows).double(), Frame(rows), tmp_path / "t.npz", path):
        torch.testing.assert_close(as_samples(form, ROWS)["tabular"].float(), torch.as_tensor(rows))
    assert as_samples(rows, {"tabular": (-1,)})["tabular"].shape == (8, 3)


def test_every_form_of_series_gives_the_same_windows(tmp_path):
    series = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    windows = series[:8].reshape(2, 4, 2)
    np.savez(tmp_path / "s.npz", x=series)
    path = write(tmp_path / "s.csv", series, ["a", "b"])
    for form in (windows, torch.as_tensor(windows), tmp_path / "s.npz", path, [path]):
        torch.testing.assert_close(as_samples(form, WINDOWS)["sequence"].float(), torch.as_tensor(windows))
    assert as_samples(windows[:, :, 0], {"sequence": (4, -1)})["sequence"].shape == (2, 4, 1)


def test_tensors_of_whole_numbers_are_read_as_such_arrays_are():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8)).astype(np.uint8)
    torch.testing.assert_close(as_samples(torch.as_tensor(pixels), IMAGES)["image"], torch.as_tensor(pixels) / 255)
    counts = np.full((2, 3), 2**24 + 1)
    assert (as_samples(torch.as_tensor(counts), ROWS)["tabular"].numpy() == counts).all()


def test_a_missing_value_stays_and_a_missing_modality_is_all_missing(rows):
    rows[0, 0] = np.nan
    both = {"tabular": (3,), "image": (1, 2, 2)}
    samples = as_samples({"tabular": rows, "image": None}, both)
    assert samples["tabular"].isnan().sum() == 1
    assert samples["image"].shape == (8, 1, 2, 2)
    assert samples["image"].isnan().all()


@pytest.mark.parametrize(
    ("data", "shapes", "complaint"),
    [
        (np.zeros((2, 4)), ROWS, r"table rows of shape \(n, 3\), saw \(2, 4\)"),
        (np.full((2, 3), np.inf), ROWS, r"'tabular' holds infinity in sample \[0, 1\]"),
        ([["a", "b", "c"]], ROWS, "expected numbers, saw list"),
        (torch.full((2, 1, 8, 8), 255.0), IMAGES, r"expected 'image' in about \[0, 1\], saw values from 255 to 255"),
        (np.full((2, 1, 8, 8), -80.0), {"audio": (1, 8, 8)}, r"expected 'audio' in about \[0, 1\]"),
        (np.zeros((2, 5, 2)), WINDOWS, r"windows of shape \(n, 4, 2\), saw \(2, 5, 2\)"),
        ({"tabular": None}, ROWS, r"expected samples of \['tabular'\], saw \[\]"),
        ({"table": np.zeros((2, 3))}, ROWS, r"expected samples of \['tabular'\], saw \['table'\]"),
        (np.zeros((0, 3)), ROWS, "at least one sample"),
        (np.zeros((2, 3)), {**ROWS, **WINDOWS}, "give a dict from modality"),
        ({"tabular": np.zeros((2, 3)), "sequence": np.zeros((3, 4, 2))}, {**ROWS, **WINDOWS}, "one number of samples"),
    ],
)
def test_what_cannot_be_used_is_refused(data, shapes, complaint):
    with pytest.raises(ValueError, match=complaint):
        as_samples(data, shapes)


def test_samples_without_any_value_are_refused_to_fit_and_to_score(rows, tmp_path):
    detector, empty = mz.load_detector(model(tmp_path, "mlp", {"tabular": [3]})), rows.copy()
    empty[[1, 4]] = np.nan
    with pytest.raises(ValueError, match=r"2 of 8 samples have no value at all, at \[1, 4\]: leave them out"):
        detector.fit(empty)
    detector.fit(rows)
    with pytest.raises(ValueError, match="2 of 8 samples have no value at all"):
        detector.predict(empty)
    has_score = ~np.isnan(detector.score_known({"tabular": torch.as_tensor(empty)}))
    assert np.flatnonzero(has_score).tolist() == [0, 2, 3, 5, 6, 7]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_files_of_pictures_are_read_as_the_docs_say_for_an_exported_graph(channels, mode, tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(coarse.repeat(10, 0).repeat(10, 1)).save(path)
    own = np.asarray(Image.open(path).convert(mode).resize((28, 28), Image.Resampling.BILINEAR), np.float32) / 255
    read = as_samples([path], {"image": (channels, 28, 28)})["image"][0]
    np.testing.assert_allclose(read.permute(1, 2, 0).squeeze(), own, atol=1.01 / 255)


MANIFEST = ["image,sequence", *("a.png,a.csv",) * 3]


def both(tmp_path, lines):
    Image.new("L", (8, 8), 99).save(tmp_path / "a.png")
    write(tmp_path / "a.csv", [[1], [7], [3], [4]], ["v"])
    (tmp_path / "m.csv").write_text("\n".join(lines))
    return tmp_path / "m.csv", {"image": (1, 8, 8), "sequence": (4, 1)}


def test_a_manifest_without_a_column_that_the_model_reads_is_refused(tmp_path):
    path, shapes = both(tmp_path, [MANIFEST[0].replace("image", "picture"), *MANIFEST[1:]])
    with pytest.raises(ValueError, match=r"no column \['image'\].*it has \['sequence', 'picture=a.png', .*: rename"):
        read_samples(path, shapes)


def test_samples_that_lack_a_modality_are_told(tmp_path):
    assert not list(read_samples(*both(tmp_path, MANIFEST)).account)
    account = list(read_samples(*both(tmp_path, [*MANIFEST, "a.png,"])).account)
    assert account == [
        "m.csv: some samples lack ['sequence']: only a model trained with gaps (data.absent) can be trusted on these"
    ]


def test_a_series_shorter_than_a_window_is_named(tmp_path):
    path = write(tmp_path / "short.csv", [[1, 2]], ["a", "b"])
    with pytest.raises(ValueError, match=r"short\.csv has 1 steps, but this model reads windows of 4"):
        as_samples(path, WINDOWS)


def model(tmp_path, backbone, shapes):
    learner = GradientLearner(backbone, None, shapes, InnerLoopConfig(steps=1))
    save_checkpoint(tmp_path / "model", Checkpoint(learner, [], dict(CALIBRATION)))
    return str(tmp_path / "model")


def test_a_detector_of_rows_from_the_command_line(rows, tmp_path, capsys):
    name = model(tmp_path, "mlp", {"tabular": [3]})
    kinds = np.array([0, 0, 0, 0, 1, 0, 0, 0])
    table = write(tmp_path / "t.csv", np.column_stack([rows, kinds]), ["a", "b", "c", "broken"])
    mine = str(tmp_path / "mine")
    assert main(["adapt", name, "--support", str(table), "--label", "broken", "--out", mine]) == 0
    out = tmp_path / "scores.csv"
    assert main(["score", mine, "--data", str(table), "--label", "broken", "--out", str(out)]) == 0
    with out.open(encoding="utf-8") as file:
        rows_scored = list(csv.DictReader(file))
    assert [row["sample"] for row in rows_scored] == [str(i) for i in range(1, 9)]
    expected = mz.load_detector(name).fit(rows, kinds).score(rows)
    np.testing.assert_allclose([float(row["score"]) for row in rows_scored], expected, rtol=1e-5)


def test_labelled_anomalies_are_no_support_without_their_labels(rows, tmp_path):
    detector = mz.load_detector(model(tmp_path, "mlp", {"tabular": [3]}))
    table = write(tmp_path / "t.csv", np.column_stack([rows, np.arange(8) == 2]).tolist(), ["a", "b", "c", "label"])
    table.write_text(table.read_text().replace("1.0\r", "1\r").replace("0.0\r", "0\r"))
    with pytest.raises(ValueError, match="labels 1 of 8 samples as anomalous"):
        detector.fit(table)


def test_a_detector_of_series_names_windows(tmp_path):
    name = model(tmp_path, "gru", {"sequence": [4, 2]})
    series = write(tmp_path / "in" / "s.csv", np.random.default_rng(0).normal(size=(9, 2)), ["a", "b"])
    mine, out = str(tmp_path / "mine"), tmp_path / "scores.csv"
    assert main(["adapt", name, "--support", str(series.parent), "--out", mine]) == 0
    assert main(["score", mine, "--data", str(series), "--out", str(out)]) == 0
    with out.open(encoding="utf-8") as file:
        assert [row["sample"] for row in csv.DictReader(file)] == [f"{series}:0", f"{series}:4"]


def test_scoring_other_columns_than_the_supports_is_refused(monkeypatch):
    learner = GradientLearner("gru", None, {"sequence": [4, 2]}, InnerLoopConfig(steps=1))
    detector = mz.Detector(Checkpoint(learner, [], dict(CALIBRATION)))
    detector.fit(np.zeros((3, 4, 2)))
    monkeypatch.setattr(mz.Detector, "input_shapes", {"sequence": [4, -1]})
    with pytest.raises(ValueError, match="'sequence' has 3 columns or channels, but the support set had 2"):
        detector.score(np.zeros((3, 4, 3)))


def test_every_point_of_a_series_gets_a_score(tmp_path):
    learner = GradientLearner("gru", None, {"sequence": [4, 2]}, InnerLoopConfig(steps=1))
    detector = mz.Detector(Checkpoint(learner, [], dict(CALIBRATION)))
    series = np.random.default_rng(0).normal(size=(9, 2))
    detector.fit(np.stack([series[i : i + 4] for i in range(3)]))
    by_window = detector.score(np.stack([series[i : i + 4] for i in range(6)]))
    expected = [by_window[max(t - 3, 0) : t + 1].mean() for t in range(9)]
    np.testing.assert_allclose(detector.score_series(series), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="3 steps, fewer than the model's window of 4"):
        detector.score_series(series[:3])


def test_a_detector_of_several_modalities_reads_a_manifest(tmp_path):
    shapes = {"image": [1, 16, 16], "tabular": [2]}
    learner = GradientLearner("fusion_concat", {"width": 4}, shapes, InnerLoopConfig(steps=1))
    save_checkpoint(tmp_path / "model", Checkpoint(learner, [], dict(CALIBRATION)))
    pictures = np.random.default_rng(0).integers(0, 255, (6, 16, 16), np.uint8)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    rows = [[f"{i}.png" if i != 5 else "", 3 * i % 5, i**2] for i in range(6)]
    manifest = write(tmp_path / "m.csv", rows, ["image", "a", "b"])
    mine, out = str(tmp_path / "mine"), tmp_path / "scores.csv"
    assert main(["adapt", str(tmp_path / "model"), "--support", str(manifest), "--out", mine]) == 0
    assert main(["score", mine, "--data", str(manifest), "--out", str(out)]) == 0
    with out.open(encoding="utf-8") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert len(scores) == 6
    assert np.isfinite(scores).all(), "also where a picture is absent"
    alone = mz.load_detector(mine).score({"tabular": np.array([[0, 25]])})
    np.testing.assert_allclose(alone, scores[5:], rtol=1e-4)


def test_columns_are_found_by_their_names(rows, tmp_path, capsys):
    name, mine, out = model(tmp_path, "mlp", {"tabular": [3]}), str(tmp_path / "mine"), tmp_path / "scores.csv"
    table = write(tmp_path / "t.csv", rows, ["a", "b", "c"])
    turned = write(tmp_path / "turned.csv", rows[:, [2, 0, 1]], ["c", "a", "b"])
    renamed = write(tmp_path / "renamed.csv", rows, ["a", "b", "d"])
    assert main(["adapt", name, "--support", str(table), "--out", mine]) == 0
    scores = []
    for data in (table, turned):
        assert main(["score", mine, "--data", str(data), "--out", str(out)]) == 0
        with out.open(encoding="utf-8") as file:
            scores.append([float(row["score"]) for row in csv.DictReader(file)])
    assert scores[0] == scores[1]
    assert main(["score", mine, "--data", str(renamed), "--out", str(out)]) == 1
    assert "missing ['c'], not known ['d']" in capsys.readouterr().err
    detector = mz.load_detector(mine)
    np.testing.assert_allclose(detector.score(turned), detector.score(rows), rtol=1e-6)


def test_a_series_is_scored_from_its_file(tmp_path):
    learner = GradientLearner("gru", None, {"sequence": [4, 2]}, InnerLoopConfig(steps=1))
    detector = mz.Detector(Checkpoint(learner, [], dict(CALIBRATION)))
    series = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    path = write(tmp_path / "s.csv", series, ["a", "b"])
    detector.fit(path)
    np.testing.assert_allclose(detector.score_series(path), detector.score_series(series), rtol=1e-5)


def test_channels_of_series_come_by_name(tmp_path):
    name = model(tmp_path, "gru", {"sequence": [4, 2]})
    series = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    path = write(tmp_path / "in" / "s.csv", series, ["a", "b"])
    turned = write(tmp_path / "in" / "t.csv", [[t, b, a] for t, (a, b) in enumerate(series)], ["time", "b", "a"])
    detector, by_values = mz.load_detector(name).fit([path, turned]), mz.load_detector(name)
    assert detector.columns == ["a", "b"]
    by_values.fit(np.concatenate([series[:8].reshape(2, 4, 2)] * 2))
    np.testing.assert_allclose(detector.score(turned), by_values.score(series[:8].reshape(2, 4, 2)), rtol=1e-6)
    detector.save(tmp_path / "mine")
    detector = mz.load_detector(tmp_path / "mine")
    frame = pandas.DataFrame(series, columns=["a", "b"])
    for data in (series, path, turned, frame[["b", "a"]], frame.assign(t=range(9))):
        np.testing.assert_allclose(detector.score_series(data), by_values.score_series(series), rtol=1e-6)
    for data in (frame.rename(columns={"a": "c"}), frame[["a"]]):
        with pytest.raises(ValueError, match=r"missing \['(a|b)'\]"):
            detector.score_series(data)
    with pytest.raises(ValueError, match=r"row 2: column 't' goes back by"):
        detector.score_series(frame.assign(t=range(9, 0, -1)))
    other = write(tmp_path / "in" / "u.csv", series, ["a", "c"])
    for refused in (lambda: detector.score(other), lambda: detector.fit([path, other])):
        with pytest.raises(ValueError, match=r"u\.csv: .*missing \['b'\], not known \['c'\]"):
            refused()
    assert main(["adapt", name, "--support", str(other.parent), "--out", str(tmp_path / "no")]) == 1
    other.unlink()
    assert main(["adapt", name, "--support", str(other.parent), "--out", str(tmp_path / "yes")]) == 0
    assert mz.load_detector(tmp_path / "yes").columns == ["a", "b"]
    assert main(["explain", str(tmp_path / "yes"), "--data", str(turned), "--out", str(tmp_path / "maps")]) == 0


def test_series_of_a_detector_without_names_are_taken_as_they_are(tmp_path):
    detector = mz.load_detector(model(tmp_path, "gru", {"sequence": [4, 2]}))
    series = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    detector.fit(series.reshape(2, 4, 2))
    assert detector.columns is None
    path = write(tmp_path / "s.csv", series, ["x", "y"])
    np.testing.assert_allclose(detector.score(path), detector.score(series.reshape(2, 4, 2)), rtol=1e-6)
