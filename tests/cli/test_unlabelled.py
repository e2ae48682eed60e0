"""Unlabelled samples on the command line, of every modality."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import wavfile

from metaad_zoo.cli import main
from metaad_zoo.detector import load_detector


def rows(folder, rng):
    for name, n in (("good.csv", 10), ("pile.csv", 40), ("new.csv", 30)):
        pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"]).to_csv(folder / name, index=False)
    return "good.csv", "pile.csv", "new.csv", (10, 40)


def pictures(folder, rng):
    for name, n in (("good", 10), ("pile/a", 20), ("pile/b", 20), ("new", 30)):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (12, 12), np.uint8)).save(folder / name / f"{i:02}.png")
    return "good", "pile", "new", (10, 40)


def series(folder, rng):
    for name, steps in (("good.csv", 640), ("pile.csv", 1920), ("new.csv", 640)):
        times = pd.date_range("2024-01-01", periods=steps, freq="min")
        waves = np.sin(np.arange(steps)[:, None] / [5.0, 9.0]) + rng.normal(0, 0.1, (steps, 2))
        pd.DataFrame(waves, columns=["a", "b"]).assign(time=times).to_csv(folder / name, index=False)
    return "good.csv", "pile.csv", "new.csv", None


def recordings(folder, rng):
    for name, n in (("good", 4), ("pile/a", 4), ("pile/b", 4), ("new", 3)):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            sound = (rng.normal(0, 3000, 8000)).astype(np.int16)
            wavfile.write(folder / name / f"{i}.wav", 16000, sound)
    return "good", "pile", "new", (4, 8)


def manifests(folder, rng):
    for name, n in (("good.csv", 10), ("pile.csv", 20), ("new.csv", 30)):
        files = [f"{name}-{i}.png" for i in range(n)]
        for file in files:
            Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).save(folder / file)
        pd.DataFrame({"image": files, "a": rng.normal(size=n), "b": rng.normal(size=n)}).to_csv(
            folder / name, index=False
        )
    return "good.csv", "pile.csv", "new.csv", (10, 20)


@pytest.mark.parametrize("kind", [rows, pictures, series, recordings, manifests])
def test_adapt_and_detect_read_unlabelled_samples_of_every_modality(kind, tmp_path, capsys):
    good, pile, new, sizes = kind(tmp_path, np.random.default_rng(0))
    named = ["--modality", "series"] if kind is series else []
    support = ["--support", str(tmp_path / good), "--unlabelled", str(tmp_path / pile), *named]
    assert main(["adapt", "knn", *support, "--out", str(tmp_path / "mine"), "--json"]) == 0
    figures, notes = capsys.readouterr()
    detector = load_detector(tmp_path / "mine")
    assert json.loads(figures)["unlabelled"] == detector.unlabelled
    assert sizes in (None, (detector.shots, detector.unlabelled))
    assert detector.unlabelled > detector.shots > 1
    assert f"knn takes the {detector.unlabelled} unlabelled samples as normal" in notes
    out = tmp_path / "report"
    data = ["--data", str(tmp_path / new), "--out", str(out), "--json"]
    assert main(["detect", "--method", "knn", *support, *data]) == 0
    assert json.loads(capsys.readouterr().out)["unlabelled"] == detector.unlabelled
    text = f"{detector.shots} normal samples and {detector.unlabelled} unlabelled samples"
    assert text in (out / "report.html").read_text()
    assert main(["score", str(tmp_path / "mine"), "--data", str(tmp_path / new), "--out", str(tmp_path / "s.csv")]) == 0
    scores, again = (pd.read_csv(path)["score"] for path in (tmp_path / "s.csv", out / "scores.csv"))
    np.testing.assert_allclose(scores, again)
    capsys.readouterr()
    assert main(["info", str(tmp_path / "mine")]) == 0
    assert text in capsys.readouterr().out


def test_pictures_that_can_not_be_read_are_left_out_of_the_unlabelled_ones(tmp_path, capsys):
    good, pile, *_ = pictures(tmp_path, np.random.default_rng(0))
    (tmp_path / pile / "a" / "broken.png").write_bytes(b"no picture")
    adapt = ["adapt", "knn", "--support", str(tmp_path / good), "--unlabelled", str(tmp_path / pile)]
    assert main([*adapt, "--out", str(tmp_path / "mine")]) == 3
    assert "broken.png" in capsys.readouterr().err
    assert load_detector(tmp_path / "mine").unlabelled == 40


def test_contamination_is_of_the_unlabelled_samples_or_of_the_decisions(tmp_path, capsys):
    good, pile, new, _ = rows(tmp_path, np.random.default_rng(0))
    detect = ["detect", "--method", "knn", "--support", str(tmp_path / good), "--data", str(tmp_path / new)]
    detect += ["--unlabelled", str(tmp_path / pile), "--contamination", "0.1", "--out", str(tmp_path / "out")]
    assert main(detect) == 1
    assert "knn has no use for the share of anomalies" in capsys.readouterr().err
    assert main([*detect, "--calibrate", "contamination"]) == 0
    adapt = ["adapt", "knn", "--support", str(tmp_path / good), "--contamination", "0.1", "--out", str(tmp_path / "x")]
    assert main(adapt) == 1
    assert "there are none: give unlabelled (--unlabelled)" in capsys.readouterr().err
