from __future__ import annotations

import csv
import inspect
import json
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch
from PIL import Image

from metaad_zoo.backbones import list_backbones
from metaad_zoo.cli import main
from metaad_zoo.evaluation.baselines import create_baseline, list_baselines
from metaad_zoo.learners import list_learners
from metaad_zoo.zoo import Checkpoint, save_checkpoint
from tests.conftest import small_learner


@pytest.fixture
def place(tmp_path):
    save_checkpoint(tmp_path / "model", Checkpoint(small_learner(), [], {"calibration": torch.linspace(-3, 3, 99)}))
    for folder, n in (("good", 5), ("new", 7)):
        (tmp_path / folder).mkdir()
        for i in range(n):
            picture = np.random.default_rng(i).integers(0, 255, (16, 16), np.uint8)
            Image.fromarray(picture).save(tmp_path / folder / f"{i}.png")
    return tmp_path


def test_the_command_is_installed():
    assert [e.value for e in entry_points(group="console_scripts", name="metaad")] == ["metaad_zoo.cli:main"]
    done = subprocess.run(
        [sys.executable, "-c", "from metaad_zoo.cli import main; raise SystemExit(main(['list', '--learners']))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == list_learners()


@pytest.mark.parametrize("kind", ["checkpoints", "backbones", "datasets"])
def test_an_empty_list_prints_nothing_but_a_note(kind, capsys):
    assert main(["list", f"--{kind}", "nothing"]) == 0
    out, err = capsys.readouterr()
    assert (out, err.startswith("note: no "), "match 'nothing'" in err) == ("", True, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--backbones"], list_backbones()),
        (["--backbones", "resnet1*"], ["resnet12"]),
        (["--learners", "maml*"], ["maml", "maml_pp"]),
        (["--datasets", "digits_*"], ["digits_audio_image", "digits_tones"]),
    ],
)
def test_list(arguments, expected, capsys):
    assert main(["list", *arguments]) == 0
    assert capsys.readouterr().out.split() == expected
    assert main(["list", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_adapt_says_which_support_size_p_values_come_from(place, capsys):
    scores = torch.linspace(-3, 3, 99)
    save_checkpoint(place / "sizes", Checkpoint(small_learner(), [], {f"calibration/{n}": scores for n in (2, 10)}))
    adapt = ["adapt", str(place / "sizes"), "--support", str(place / "good"), "--out", str(place / "mine")]
    assert main(adapt) == 0
    assert "calibrated for supports of 2, 10 samples: 5 samples use the p-values for 2" in capsys.readouterr().err


@pytest.mark.parametrize("name", list_baselines())
def test_info_tells_what_a_baseline_is(name, capsys):
    assert main(["info", name]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{name}, a baseline. ")
    options = set(inspect.signature(type(create_baseline(name))).parameters) - {"standardise"}
    assert all(option in output for option in options), "its settings are told"
    assert main(["info", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == name


def test_adapt_then_score(place, capsys):
    support, mine = str(place / "good"), str(place / "mine")
    assert main(["adapt", str(place / "model"), "--support", support, "--out", mine]) == 0
    assert "Adapted to 5 samples" in capsys.readouterr().out
    out = place / "scores.csv"
    assert main(["score", mine, "--data", str(place / "new"), "--out", str(out), "--alpha", "0.2"]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["sample", "score", "p_value", "anomaly"]
    assert [row["sample"].rpartition("/")[2] for row in rows] == [f"{i}.png" for i in range(7)]
    assert all((float(row["p_value"]) <= 0.2) == (row["anomaly"] == "1") for row in rows)
    for way, by in (
        (["--calibrate", "within", "--alpha", "0.2"], "at alpha=0.2 (within)"),
        (["--contamination", "0.2"], "(c"),
    ):
        assert main(["score", mine, "--data", str(place / "new"), "--out", str(out), *way]) == 0
        assert by in capsys.readouterr().out
        with out.open() as file:
            assert {float(row["p_value"]) for row in csv.DictReader(file)} <= {
                i / n for n in (5, 6) for i in range(1, 7)
            }
    within = ["score", mine, "--data", str(place / "new"), "--out", str(out), "--calibrate", "within"]
    assert main(within) == 0
    assert "5 calibration scores can't hold 10% false alarms: decisions aim at 17%" in capsys.readouterr().err
    assert main([*within, "--alpha", "0.1"]) == 1
    assert "take alpha >= 1/6 or give 9 normal support samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["adapt", "nowhere", "--support", "{good}", "--out", "x"], "nowhere is no checkpoint"),
        (["adapt", "{model}", "--support", "{root}/empty", "--out", "x"], "empty does not exist"),
        (["adapt", "{model}", "--support", "{good}", "--out", "{good}/0.png"], "0.png is a file: name a folder"),
        (["explain", "{model}", "--data", "{good}", "--out", "{good}/0.png"], "0.png is a file: name a folder"),
        (["evaluate", "{model}", "--data", "{good}", "--out", "{good}/0.png"], "0.png is a file: name a folder"),
        (["score", "{model}", "--data", "{good}", "--out", "x"], "not adapted to any domain yet"),
        (["score", "{model}", "--data", "{good}", "--out", "/dev/null"], "is a link or a device"),
    ],
)
def test_errors_are_one_line_and_status_1(arguments, complaint, place, capsys):
    names = {"good": place / "good", "model": place / "model", "root": place}
    assert main([a.format(**names) for a in arguments]) == 1
    message = capsys.readouterr().err
    assert complaint in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
