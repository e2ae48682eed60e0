"""What runs of `python train.py` leave, and how they are taken up again."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import time
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO

import pytest
import torch

import metaad_zoo as mz
from metaad_zoo.cli.resume import find_checkpoint
from metaad_zoo.cli.train import run
from tests.cli.short import CONFIGS, QUICKSTART, SHORT, command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole short run: fit, then test."""
    folder = tmp_path_factory.mktemp("runs")
    with redirect_stdout(StringIO()) as printed:
        cli = run([*QUICKSTART, *SHORT, "--trainer.max_epochs=2", "--runs", str(folder)])
    return cli.run_dir, printed.getvalue()


def test_a_run_leaves_what_it_promises(finished):
    folder, printed = finished
    pictures = ("first_episode.png", "episode.png", "learning_curve.png")
    for name in ("config.yaml", "metrics.csv", "results.json", *pictures):
        assert (folder / name).stat().st_size > 0, name
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list(folder.glob("events.out.tfevents.*")), "TensorBoard"
    assert "A validation episode after 4 outer steps" in printed
    assert "Next, try:  metaad adapt" in printed
    assert "rotation" in printed, "the camera is declared"
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"step", "train/loss", "val/auroc", "episodes/s"} <= set(rows[0])
    assert sum(bool(row["train/loss"]) for row in rows) == 8


def test_quick_comparisons_leave_out_the_slowest_and_the_quickstart_says_so(finished, tmp_path, capsys):
    best = str(finished[0] / "checkpoints" / "best.ckpt")
    run([*QUICKSTART, *SHORT, "--comparisons=quick", "test", "--ckpt_path", best, "--runs", str(tmp_path)])
    assert "Not compared, to save time: same network, from scratch (--comparisons all" in capsys.readouterr().out
    results = json.loads(next((tmp_path / "quickstart").glob("*/results.json")).read_text())
    assert results["protocol"]["left_out"] == ["same network, from scratch"]
    assert list(results["methods"])[:2] == ["maml", "same network, untrained"]


def test_results_hold_every_method_ours_first(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    assert list(results["methods"]) == [
        "maml",
        "same network, untrained",
        "same network, from scratch",
        "1-NN on pixels",
        "1-NN on standardised pixels",
        "flag everything",
    ]
    for method in results["methods"].values():
        assert set(method["mean"]) == {"auroc", "ap", "pauroc", "precision", "recall", "f1", "fpr"}
        assert len(method["tasks"]) == 12
    assert results["protocol"]["data"]["camera"]["rotation"] == 25
    assert results["protocol"]["batch_norm"]["maml"] == "support"
    assert results["protocol"]["query_ratio"] == "4 normal : 4 anomalous"
    at = results["calibration"]["alphas"].index(0.1)  # the run's own alpha
    assert results["calibration"]["methods"]["maml"]["fpr"][at] == pytest.approx(
        results["methods"]["maml"]["mean"]["fpr"]
    )
    assert results["environment"]["torch"] == version("torch")
    assert results["protocol"]["calibrated_for"] == [1, 2, 5, 10, 20, 50]
    assert mz.load_detector(finished[0]).calibrated_for == [1, 2, 5, 10, 20, 50]


def test_the_resolved_config_runs_again_with_the_same_figures(finished, tmp_path):
    """The resolved config alone, in another folder and process, gives the same results but for the clock."""
    run(["--config", str(finished[0] / "config.yaml"), "--runs", str(tmp_path)])
    again = next((tmp_path / "quickstart").iterdir())
    first, second = (json.loads((f / "results.json").read_text()) for f in (finished[0], again))
    for results in (first, second):
        for method in results["methods"].values():
            method.pop("seconds_per_task")
    assert first == second


def test_a_runs_model_detects(finished):
    from sklearn.datasets import load_digits

    digits = load_digits()
    sixes = (digits.images[digits.target == 6] * (255 / 16)).astype("uint8")
    detector = mz.load_detector(finished[0])
    assert detector.trained_on == [f"digits/{i}" for i in range(6)]
    assert detector.fit(sixes[:5]).predict(sixes[5:25]).shape == (20,)


@pytest.fixture
def copied(finished, tmp_path):
    """A finished run of one's own, and the arguments that name it."""
    folder = tmp_path / "quickstart" / finished[0].name
    shutil.copytree(finished[0], folder)
    return folder, ["--config", str(folder / "config.yaml"), "--runs", str(tmp_path), "--ckpt_path"]


def test_other_verbs_leave_a_finished_run_alone(copied):
    folder, place = copied
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    results = json.loads((folder / "results.json").read_text())
    tested = run(["test", *place, str(folder / "checkpoints" / "best.ckpt")])
    trained_by = (tested.run_dir / "model" / "config.yaml").read_text()
    assert trained_by == (folder / "config.yaml").read_text(), "the model says what trained it, not what tested it"
    again = json.loads((tested.run_dir / "results.json").read_text())
    assert again["methods"]["maml"]["mean"] == pytest.approx(results["methods"]["maml"]["mean"], abs=1e-6)
    assert again["protocol"]["trained_or_chosen_on"] == [f"digits/{i}" for i in range(6)]
    assert again["protocol"]["weights"] == results["protocol"]["weights"]
    validated = run([*place, str(folder / "checkpoints" / "best.ckpt"), "validate"])
    assert 0 <= validated.trainer.callback_metrics["val/auroc"] <= 1
    predicted = run(["predict", *place, str(folder / "checkpoints" / "best.ckpt")])
    with (predicted.run_dir / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 8
    assert {"episode", "task", "sample", "label", "score"} == set(rows[0])
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_testing_on_classes_seen_in_training_is_refused(copied):
    folder, place = copied
    swapped = "--data.splits={train: ['6', '7'], val: ['4', '5'], test: ['0', '1']}"
    with pytest.raises(SystemExit, match=r"trained or chosen on \['digits/0', 'digits/1'\]"):
        run(["test", *place, str(folder / "checkpoints" / "best.ckpt"), swapped])


def test_a_checkpoint_of_another_model_is_refused(copied):
    folder, place = copied
    with pytest.raises(SystemExit, match="belongs to a model with other settings"):
        run(["test", *place, str(folder / "checkpoints" / "best.ckpt"), "--model.backbone_options={width: 6}"])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["--data.seed=7"], "data.seed=0, this command 7"),
        (["--model.inner_loop.steps=4"], "model.inner_loop.steps=1, this command 4"),
        (["--model.backbone_options={width: 6}"], "model.backbone_options.width=4, this command 6"),
    ],
)
def test_resuming_with_other_settings_is_refused(copied, changes, complaint):
    with pytest.raises(SystemExit, match=complaint):
        run(["fit", *copied[1], "last", *changes])


def test_a_checkpoint_that_does_not_say_what_it_has_seen_is_not_tested(copied):
    folder, place = copied
    best = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    del checkpoint["ImageEpisodes"]
    torch.save(checkpoint, best)
    with pytest.raises(SystemExit, match="does not say which classes it has seen"):
        run(["test", *place, str(best)])


def test_a_damaged_or_missing_checkpoint_is_named(copied):
    folder, place = copied
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:20000])
    for verb in ("fit", "test"):
        with pytest.raises(SystemExit, match=r"last\.ckpt can't be read as a training checkpoint"):
            run([verb, *place, str(last)])
    (folder / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(SystemExit, match=r"last\.ckpt can't be read as a training checkpoint"):
        run(["fit", *place, "last"])
    (folder.parent / "2999-01-01_00-00-00").mkdir()
    (folder.parent / "2999-01-01_00-00-00" / "config.yaml").touch()
    with pytest.raises(SystemExit, match=r"newest run .*2999.* has no last\.ckpt yet"):
        run(["fit", *place, "last"])


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_the_newest_whole_checkpoint_takes_the_place_of_a_damaged_last_one(damage, copied, capsys):
    folder, _ = copied
    last = folder / "checkpoints" / "last.ckpt"
    (folder / "checkpoints" / "last.123.part.ckpt").write_bytes(last.read_bytes())  # of a process that was killed
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:20000])
    else:
        last.unlink()
    assert find_checkpoint("last", folder.parent) == folder / "checkpoints" / "best.ckpt"
    assert "best.ckpt is taken, the newest whole checkpoint of the run" in capsys.readouterr().err


def test_what_lightning_refuses_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: Lightning can't build the trainer with .*trainer.devices=nan"):
        run(["fit", *QUICKSTART, *SHORT, "--trainer.devices=nan", "--runs", str(tmp_path)])


def test_fit_alone_leaves_a_model_and_runs_without_loggers(tmp_path):
    cli = run(["fit", *QUICKSTART, *SHORT, "--trainer.max_steps=1", "--trainer.logger=false", "--runs", str(tmp_path)])
    assert (cli.run_dir / "config.yaml").is_file()
    assert not mz.load_detector(cli.run_dir).is_fitted


@pytest.mark.slow
def test_the_overfit_config_overfits(tmp_path):
    configs = [*QUICKSTART, "--config", str(CONFIGS / "debug" / "overfit.yaml")]
    cli = run(["fit", *configs, "--trainer.enable_progress_bar=false", "--runs", str(tmp_path)])
    assert cli.trainer.callback_metrics["train/loss"] < 0.05


@pytest.mark.slow
def test_the_quickstart_keeps_its_promise(tmp_path):
    """The whole of it: every row that it names is beaten, with intervals that do not overlap."""
    line, environment = command(*QUICKSTART, "--trainer.enable_progress_bar=false", "--runs", tmp_path)
    subprocess.run(line, env=environment, check=True, capture_output=True, timeout=1800)
    results = json.loads(next(tmp_path.glob("quickstart/*/results.json")).read_text())
    ours, *rest = (results["methods"][name]["ci95"]["auroc"] for name in results["methods"])
    beaten = {name: ours[0] > other[1] for name, other in zip(list(results["methods"])[1:], rest, strict=True)}
    assert all(won for name, won in beaten.items() if name != "1-NN on standardised pixels"), beaten


def final_weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_killed_run_resumes_to_the_same_end(tmp_path):
    """SIGKILL in the middle of training; `--ckpt_path last` then ends in the same weights."""
    length = [*QUICKSTART, *SHORT, "--data.episodes_per_epoch=24", "--trainer.max_epochs=5"]
    length += ["--data.calibration_shots=[2]"]
    run(["fit", *length, "--runs", str(tmp_path / "straight")])

    line, environment = command("fit", *length, "--runs", tmp_path / "killed")
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "killed").glob("*/*/checkpoints/last.ckpt")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = next((tmp_path / "killed" / "quickstart").iterdir())
    reached = final_weights(folder)["global_step"]
    assert reached < 60, "the kill came too late to test anything"

    run(["fit", *length, "--runs", str(tmp_path / "killed"), "--ckpt_path", "last"])
    assert next((tmp_path / "killed" / "quickstart").iterdir()) == folder, "it goes on in its own folder"
    ends = [final_weights(next((tmp_path / name / "quickstart").iterdir())) for name in ("straight", "killed")]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 60
    for name, x in ends[0]["state_dict"].items():
        assert torch.equal(x, ends[1]["state_dict"][name]), name
    assert (folder / "metrics-1.csv").exists(), "what was logged before the kill is kept"


def test_ddp_on_two_cpu_processes(tmp_path):
    line, environment = command(
        *QUICKSTART,
        "--config",
        CONFIGS / "trainer" / "ddp_cpu.yaml",
        *SHORT,
        "--comparisons=quick",
        "--data.test_episodes=4",
        "--trainer.max_epochs=1",
        "--data.calibration_shots=[2]",
        "--runs",
        tmp_path,
    )
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = list((tmp_path / "quickstart").iterdir())
    assert len(folders) == 1, "one run, one folder"
    assert json.loads((folders[0] / "results.json").read_text())["methods"]["maml"]
