"""What somebody new to `metaad` does wrong, and what it answers."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from metaad_zoo import load_detector
from metaad_zoo.cli import main
from metaad_zoo.cli.train_parser import wrong_value
from metaad_zoo.data.read.rows import windows_of_array
from metaad_zoo.detector import Detector
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner
from metaad_zoo.modality.samples import as_samples
from metaad_zoo.zoo import Checkpoint, save_checkpoint

MODELS = {
    "image": ("conv4", {"width": 4}, {"image": (1, 16, 16)}),
    "table": ("columns", {"width": 4}, {"tabular": (-1,)}),
    "both": (
        "fusion_concat",
        {"width": 4, "encoders": {"image": {"name": "conv4", "width": 4}, "tabular": {"name": "mlp", "widths": (4,)}}},
        {"image": (1, 16, 16), "tabular": (1,)},
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("newcomer")
    for name, (backbone, options, shapes) in MODELS.items():
        learner = GradientLearner(backbone, options, shapes, InnerLoopConfig(steps=1, lr=0.1))
        save_checkpoint(root / name, Checkpoint(learner, [], {"calibration": torch.linspace(-3, 3, 99)}))
    (root / "classes" / "good").mkdir(parents=True)
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(pixels).save(root / "classes" / "good" / f"{i}.png")
    rows = [f"classes/good/{i}.png,{i / 7:.3f},{int(i > 3)}" for i in range(6)]
    (root / "manifest.csv").write_text("\n".join(["image,x,label", *rows]))
    (root / "text.csv").write_text("city,a,b\n" + "".join(f"Rome {i},{i * i % 5},{i % 3}\n" for i in range(9)))
    (root / "commas.csv").write_text("a,b\n" + "".join(f'"1,234",{i}\n' for i in range(9)))
    (root / "semicolons.csv").write_text("city;a;b\n" + "".join(f"Rome;3,{i * i % 5};{i % 3},5\n" for i in range(9)))
    return root


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("adapt {0}/image --support {0}/text.csv --out {0}/x", "text.csv is a table, but this model reads images"),
        ("adapt {0}/image --support {0}/classes --out {0}/x", "no images directly in it, but in folders such as"),
        ("recommend --support {0}/classes", "no images directly in it, but in folders such as"),
        ("adapt {0}/both --support {0}/classes --out {0}/x", "is a folder: a model of several modalities reads a man"),
        ("adapt {0}/both --support {0}/manifest.csv --out {0}/x", "labels 2 of 6 samples as anomalous"),
        ("adapt {0}/table --support {0}/commas.csv --out {0}/x", "column 'a', row 1: '1,234' may mean 1234"),
        ("score {0}/table --data {0}/text.csv --out {0}", "is a folder: name a file"),
        ("score {0}/table --data {0}/text.csv --out {0}/x.csv --stride 3", "--stride is only with --points"),
    ],
)
def test_mistakes_end_in_one_line_that_mends_them(line, complaint, place, capsys):
    assert main(line.format(place).split()) == 1
    message = capsys.readouterr().err
    assert complaint in message
    assert len([line for line in message.splitlines() if not line.startswith("note: ")]) == 1


def test_labels_of_a_manifest_are_used(place, capsys):
    line = f"adapt {place}/both --support {place}/manifest.csv --label label --out {place}/mine --json"
    assert main(line.split()) == 0
    assert json.loads(capsys.readouterr().out)["anomalous"] == 2
    labels = load_detector(place / "mine")._checkpoint.tensors["support_labels"]
    assert labels.tolist() == [0, 0, 0, 0, 1, 1]
    out = place / "scores.csv"
    assert main(["score", str(place / "mine"), "--data", str(place / "manifest.csv"), "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 7


def test_samples_without_a_modality_are_scored_by_the_other_and_named(place, capsys):
    rows = (place / "manifest.csv").read_text().splitlines()
    (place / "gaps.csv").write_text("\n".join([*rows[:4], ",0.5,0", "classes/good/5.png,,0"]))
    assert main(f"adapt {place}/both --support {place}/manifest.csv --label label --out {place}/gappy".split()) == 0
    capsys.readouterr()
    assert main(f"score {place}/gappy --data {place}/gaps.csv --label label --out {place}/gappy.csv".split()) == 0
    notes = capsys.readouterr().err
    assert "changed: scored without image, which they or the support lack" in notes
    assert "changed: scored without tabular, which they or the support lack" in notes
    scores = np.genfromtxt(place / "gappy.csv", delimiter=",", skip_header=1, usecols=1)
    assert np.isfinite(scores).all()
    assert main(f"explain {place}/gappy --data {place}/gaps.csv --label label --out {place}/why".split()) == 0
    with np.load(place / "why" / "explanations.npz") as archive:
        assert archive["compared_in"].tolist() == ["image tabular"] * 3 + ["tabular", "image"]
        assert np.isnan(archive["attribution/image"]).all((1, 2, 3)).tolist() == [False] * 3 + [True, False]


def test_columns_of_text_are_told(place, capsys):
    assert main(f"adapt {place}/table --support {place}/text.csv --out {place}/tabled".split()) == 0
    assert "text.csv: 'city' left out: texts that differ from row to row" in capsys.readouterr().err


def test_a_file_with_semicolons_and_decimal_commas_is_read_and_told(place, capsys):
    assert main(f"adapt {place}/table --support {place}/semicolons.csv --ignore city --out {place}/x".split()) == 0
    notes = capsys.readouterr().err
    assert "columns are separated by semicolons" in notes
    assert "numbers have decimal commas" in notes


def test_one_series_is_no_windows(tmp_path):
    with pytest.raises(ValueError, match=r"one series of 600 steps and 2 channels.*windows of 32.*cut_windows"):
        windows_of_array(np.zeros((600, 2)), (32, 2))
    for n in (5, 8):
        np.savez(tmp_path / f"{n}.npz", x=np.zeros((n, 2)))
    assert as_samples([tmp_path / "5.npz", tmp_path / "8.npz"], {"sequence": (-1, 2)})["sequence"].shape == (2, 8, 2)


@pytest.mark.parametrize(
    ("line", "code"), [("", 2), ("scor x", 2), ("list --modalty image", 2), ("info nowhere", 1), ("list --learners", 0)]
)
def test_exit_codes(line, code, capsys):
    try:
        exit_code = main(line.split())
    except SystemExit as stopped:
        exit_code = stopped.code
    assert exit_code == code
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "exit codes: 0 done, 1 error" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("adapt NAME --suport x", "unknown option --suport; did you mean --support?"),
        ("adapt NAME --suport=x --out y", "unknown option --suport; did you mean --support?"),
        ("list --modalty image", "unknown option --modalty; did you mean --modality?"),
        ("list --qqq", "unknown option --qqq\n"),
        ("adapt NAME --supp x", "the following arguments are required: --out"),
    ],
)
def test_an_unknown_option_is_told_with_the_nearest(line, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["--print-completion", shell])
    assert stopped.value.code == 0
    script = capsys.readouterr().out
    assert "--calibrate" in script
    if shell == "bash":
        (tmp_path / "c.sh").write_text(
            script + "COMP_WORDS=(metaad score --cal); COMP_CWORD=2; _shtab_metaad; echo ${COMPREPLY[@]}"
        )
        done = subprocess.run(["bash", str(tmp_path / "c.sh")], capture_output=True, text=True, check=False)
        assert done.stdout.split() == ["--calibrate"]


@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        ("  Expected a <class 'int'>. Got value: many", "--model.steps is 'many': expected a whole number"),
        (
            "  Expected a typing.Literal['constant', 'cosine']. Got value: cosin",
            "--model.steps is 'cosin': expected 'constant' or 'cosine'",
        ),
        (
            "  Subtypes: [dict[str, list[str]], <class 'float'>, <class 'NoneType'>]\n  Given value: x",
            "--model.steps is 'x': expected a mapping such as {name: value} or a number or null",
        ),
        ("  Key 'x' is not expected", None),
    ],
)
def test_wrong_values_in_one_sentence(inner, sentence):
    text = (
        f'Parser key "model":\n  Subtypes: [<class \'metaad_zoo.Learner\'>]\n  Parser key "steps":\n  {inner}\nthe end'
    )
    assert wrong_value(text) == sentence


def test_sequences_of_other_lengths_than_the_support():
    learner = GradientLearner("gru", {"width": 4}, {"sequence": (-1, 2)}, InnerLoopConfig(steps=1, lr=0.1))
    detector = Detector(Checkpoint(learner, [], {})).fit(np.random.default_rng(0).normal(size=(5, 20, 2)))
    short = np.random.default_rng(1).normal(size=(3, 9, 2))
    padded = np.pad(short, ((0, 0), (0, 11), (0, 0)), constant_values=np.nan)
    np.testing.assert_array_equal(detector.score(short), detector.score(padded))
    with pytest.raises(ValueError, match=r"sequences of 33 steps, but those of the support set had 20: cut them"):
        detector.score(np.zeros((3, 33, 2)))
    assert detector.score_series(np.zeros((33, 2))).shape == (33,)


def test_samples_of_a_manifest_are_counted(place, capsys):
    manifest = place / "normal.csv"
    manifest.write_text("\n".join(["image,x", *(f"classes/good/{i}.png,{i / 7:.3f}" for i in range(6))]))
    assert main(["adapt", "knn", "--support", str(manifest), "--out", str(place / "pairs")]) == 0
    assert "Adapted to 6 samples" in capsys.readouterr().out
