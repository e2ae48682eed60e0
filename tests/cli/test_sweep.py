"""Several trainings by one command: seeds, grids, jobs, resuming, and their common table."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
import yaml

from metaad_zoo.cli import main
from metaad_zoo.cli.resume import find_checkpoint
from metaad_zoo.cli.train import run
from metaad_zoo.evaluation.trainings import interval_over_trainings
from metaad_zoo.experiment.sweep import Sweep, Training, settings_of, train_all
from metaad_zoo.experiment.sweep_results import join_runs, write_sweep
from metaad_zoo.experiment.training_config import difference, flat_settings, read_config, with_defaults
from tests.cli.short import QUICKSTART, SHORT
from tests.conftest import REPOSITORY

TINY = [*SHORT, "--comparisons=quick", "--trainer.max_epochs=1", "--data.calibration_shots=[2]"]
GRID = ["--seeds", "0", "1", "--grid", "model.optimizer.lr=0.01", "--jobs", "2"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--seeds", "--seeds: expected whole numbers"),
        ("--seeds 0 1.5", "--seeds 0 1.5: expected whole numbers"),
        ("--seeds 1 1", "expected each seed once"),
        ("--seeds 0 --jobs 0", "--jobs 0: expected a whole number of 1 or more"),
        ("--jobs 2", "--jobs is for several trainings: add --seeds or --grid"),
        ("--grid", "--grid: expected KEY=VALUE,VALUE"),
        ("--grid model.inner_loop.lr=0.1,0.1", "expected values that differ"),
        ("--grid model.inner_loop.lr=0.1,", "none of them empty"),
        ("--grid alpha=0.1 alpha=0.2", "--grid names alpha twice"),
        ("--grid seed_everything=1,2", "--grid can't vary seed_everything: seeds are given by --seeds"),
        ("--grid data.init_args.train_seed=1,2", "--grid can't vary data.init_args.train_seed"),
        ("--seeds 0 1 --seed_everything 3", "--seed_everything is for a single training"),
        ("--seeds 0 1 --ckpt_path last", "--ckpt_path is for a single training"),
        ("fit --seeds 0 1", "leave out the verb fit"),
        ("--grid model.inner_loop.stepps=1,2", r"Did you mean model.inner_loop.steps\?"),
        ("--grid model.inner_loop.steps=1,many", "--model.inner_loop.steps is 'many': expected a whole number"),
        ("--grid model.backbone=conv4,convv4", "did you mean 'conv4'"),
        ("--grid data.episode.support_normal=3,500", "normal samples but an episode draws"),
    ],
)
def test_mistakes_are_refused_before_any_training(line, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run([*QUICKSTART, *TINY, *line.split(), "--runs", str(tmp_path)])
    message = f"{caught.value} {capsys.readouterr().err}"
    assert re.search(complaint, message), message
    assert not list(tmp_path.iterdir())


def test_labels_of_settings_are_short_and_distinct():
    grid = {"model.optimizer.lr": ["0.1"], "model.inner_loop.lr": ["1"], "model.backbone": ["timm/a b", "conv4"]}
    assert [setting.label for setting in settings_of(grid)] == [
        "model.optimizer.lr=0.1,model.inner_loop.lr=1,backbone=timm_a_b",
        "model.optimizer.lr=0.1,model.inner_loop.lr=1,backbone=conv4",
    ]
    assert [setting.label for setting in settings_of({})] == [""]
    with pytest.raises(ValueError, match="gives two settings one name"):
        settings_of({"model.backbone": ["timm/a b", "timm_a_b"]})


# A stand-in for a training: it writes what a finished one leaves, and what it was called with, or fails.
STAND_IN = """
import json, pathlib, sys, time
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("--at="))[5:])
folder.mkdir(parents=True, exist_ok=True)
(folder / "called.txt").write_text(" ".join(sys.argv))
(folder / "config.yaml").write_text("seed_everything: 0")
start = time.time()
time.sleep(0.3)
if "--fails" in sys.argv:
    sys.exit(3)
(folder / "results.json").write_text(json.dumps([start, time.time()]))
"""


def stand_in(folder, *arguments):
    return Training("", 0, folder, (f"--at={folder}", *arguments), {"seed_everything": 0})


COMMAND = [sys.executable, "-c", STAND_IN]


@pytest.mark.parametrize(("jobs", "overlap"), [(1, False), (2, True)])
def test_trainings_run_one_after_the_other_or_together(jobs, overlap, tmp_path):
    trainings = [stand_in(tmp_path / name) for name in "ab"]
    train_all(trainings, COMMAND, jobs)
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in "ab")
    assert (max(first[0], second[0]) < min(first[1], second[1])) == overlap
    assert (tmp_path / "a" / "log.txt").is_file() == overlap


def test_a_finished_training_is_not_repeated_and_an_interrupted_one_goes_on(tmp_path):
    finished, interrupted, begun = (stand_in(tmp_path / name) for name in ("finished", "interrupted", "begun"))
    for training in (finished, interrupted, begun):
        (training.folder / "checkpoints").mkdir(parents=True)
        (training.folder / "config.yaml").write_text("seed_everything: 0")
    (finished.folder / "results.json").touch()
    (interrupted.folder / "checkpoints" / "best.ckpt").touch()
    (begun.folder / "checkpoints" / "last.123.part.ckpt").touch()
    (begun.folder / "metrics.csv").touch()
    lines = []
    train_all([finished, interrupted, begun], COMMAND, 1, lines.append)
    assert not (finished.folder / "called.txt").exists()
    assert "--ckpt_path=last" in (interrupted.folder / "called.txt").read_text()
    assert "--ckpt_path" not in (begun.folder / "called.txt").read_text()
    assert not (begun.folder / "metrics.csv").exists(), "it starts anew"
    assert lines[0].startswith("1 of 3 trainings are finished")


def test_a_failed_training_does_not_stop_the_others(tmp_path):
    trainings = [stand_in(tmp_path / "a", "--fails"), stand_in(tmp_path / "b")]
    with pytest.raises(ChildProcessError, match=r"1 of 2 trainings failed \(.*/a\).*same command goes on"):
        train_all(trainings, COMMAND, 1)
    assert (tmp_path / "b" / "results.json").is_file()


def test_sigterm_stops_the_running_training_too(tmp_path):
    training = stand_in(tmp_path / "a")
    write = "pathlib.Path(sys.argv[1][5:] + '.pid').write_text(str(os.getpid()))"
    waits = f"import os, pathlib, sys, time; {write}; time.sleep(60)"

    def terminate():
        while not (pid := tmp_path / "a.pid").is_file() or not pid.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    lines = []
    with pytest.raises(SystemExit) as stopped:
        train_all([training], [sys.executable, "-c", waits], 1, lines.append)
    assert stopped.value.code == 143
    assert lines[-1].startswith("stopped: the same command goes on")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "a.pid").read_text()), 0)


def test_a_folder_with_other_settings_is_refused_before_any_training(tmp_path):
    new, taken = stand_in(tmp_path / "new"), stand_in(tmp_path / "taken")
    taken.folder.mkdir()
    (taken.folder / "config.yaml").write_text("seed_everything: 1")
    with pytest.raises(ValueError, match="taken has seed_everything=1, this command 0: write to another name"):
        train_all([new, taken], COMMAND, 1)
    assert not new.folder.exists()


def test_an_option_that_is_newer_than_a_run_has_its_default_there():
    published = read_config(REPOSITORY / "checkpoints" / "image-conv4-protonet-omniglot")
    del published["model"]["init_args"]["optimizer"]  # its options are those of the torch that trained it
    now = with_defaults(published)
    before = copy.deepcopy(now)
    del before["data"]["init_args"]["episode"]["fewer_unlabelled"]
    del before["model"]["init_args"]["schedule"]
    assert flat_settings(before) != flat_settings(now)
    assert difference(before, now) is None
    now["data"]["init_args"]["episode"]["fewer_unlabelled"] = True
    assert difference(before, now) == ("data.episode.fewer_unlabelled", False, True)
    assert difference({"model": {"class_path": "nothing.Known"}}, now, ["model"])[:2] == (
        "model.class_path",
        "nothing.Known",
    )


def test_a_stopped_sweep_stops_its_trainings(tmp_path):
    """SIGINT to the parent alone, as a scheduler sends it."""
    code = f"""
import pathlib, signal, sys
from metaad_zoo.experiment.sweep import Training, train_all
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background of a shell ignores it
folders = [pathlib.Path(sys.argv[1], name) for name in "ab"]
slow = {STAND_IN.replace("0.3", "30")!r}
train_all([Training("", 0, f, (f"--at={{f}}",), {{}}) for f in folders], [sys.executable, "-c", slow], 1)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE)
    while process.poll() is None and not (tmp_path / "a" / "config.yaml").exists():
        time.sleep(0.05)
    process.send_signal(2)
    _, errors = process.communicate(timeout=20)
    assert b"KeyboardInterrupt" in errors
    assert not (tmp_path / "b").exists()


def test_the_newest_run_is_the_one_that_started_last(tmp_path):
    """Runs are named by their time, those of --seeds by their seed."""
    for at, name in enumerate(["2026-01-02_00-00-00", "seed1", "seed0", "2026-01-03_00-00-00"]):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        torch.save({"state_dict": {}}, tmp_path / name / "checkpoints" / "last.ckpt")
        (tmp_path / name / "config.yaml").touch()
        os.utime(tmp_path / name / "config.yaml", (at, at))
    assert find_checkpoint("last", tmp_path) == tmp_path / "2026-01-03_00-00-00" / "checkpoints" / "last.ckpt"
    os.utime(tmp_path / "seed0" / "config.yaml", (9, 9))
    assert find_checkpoint("last", tmp_path) == tmp_path / "seed0" / "checkpoints" / "last.ckpt"
    assert find_checkpoint("last", tmp_path, "seed1") == tmp_path / "seed1" / "checkpoints" / "last.ckpt"
    (tmp_path / "seed1" / "checkpoints" / "last.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"last\.ckpt can't be read.* no other whole checkpoint: remove .*seed1"):
        find_checkpoint("last", tmp_path, "seed1")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two finished trainings (each a process), the command line, and what was printed."""
    folder = tmp_path_factory.mktemp("sweep")
    line = ["train", "quickstart", "learners/protonet", *GRID, *TINY, "--runs", str(folder)]
    with redirect_stdout(io.StringIO()) as printed:
        assert main(line) == 0
    return folder, line, printed.getvalue()


def test_a_sweep_writes_one_table(sweep):
    folder, _, printed = sweep
    results = json.loads((folder / "quickstart" / "sweep,lr" / "results.json").read_text())
    assert list(results["methods"])[:2] == ["lr=0.01", "same network, untrained"]
    assert results["protocol"]["seeds"] == [0, 1]
    assert results["protocol"]["grid"] == {"model.optimizer.lr": ["0.01"]}
    assert "intervals over tasks and 2 trainings" in printed
    runs = [folder / "quickstart,lr=0.01" / f"seed{seed}" for seed in (0, 1)]
    figures = [json.loads((run / "results.json").read_text())["methods"]["protonet"]["tasks"] for run in runs]
    values = np.array([[task["auroc"] for task in tasks] for tasks in figures])
    assert results["methods"]["lr=0.01"]["mean"]["auroc"] == pytest.approx(values.mean())
    assert not np.array_equal(values[0], values[1])
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs]
    data = [config["data"]["init_args"] for config in configs]
    assert [config["seed_everything"] for config in configs] == [d["train_seed"] for d in data] == [0, 1]
    assert {d["seed"] for d in data} == {0}, "the tasks and episodes of the test stay"
    assert {c["model"]["init_args"]["optimizer"]["init_args"]["lr"] for c in configs} == {0.01}


def test_settings_of_a_grid_are_methods_beside_those_that_they_share(tmp_path):
    tasks = [f"task {i}" for i in range(6)]
    rng = np.random.default_rng(0)
    values = {(setting, seed): rng.uniform(size=6) for setting in ("lr=1", "lr=2") for seed in (0, 1)}
    trainings = []
    for (setting, seed), auroc in values.items():
        figures = {"ours": auroc, "untrained": auroc / 2, "1-NN": np.full(6, 0.5)}
        methods = {
            name: {
                "mean": {"auroc": float(np.mean(x))},
                "tasks": [{"task": task, "auroc": float(y)} for task, y in zip(tasks, x, strict=True)],
            }
            for name, x in figures.items()
        }
        folder = tmp_path / setting / f"seed{seed}"
        folder.mkdir(parents=True)
        results = {"protocol": {"tasks": 6, "seed": seed}, "methods": methods, "environment": {}}
        (folder / "results.json").write_text(json.dumps(results))
        trainings.append(Training(setting, seed, folder, (), {"name": "mine", "runs": str(tmp_path)}))
    results, folder = write_sweep(trainings, Sweep([0, 1], {"model.lr": ["1", "2"]}))
    assert folder == tmp_path / "mine" / "sweep,lr"
    assert list(results["methods"]) == ["lr=1", "lr=2", "1-NN"]
    assert results["protocol"]["trainings"] == 2
    for setting in ("lr=1", "lr=2"):
        mean = np.mean([values[setting, seed] for seed in (0, 1)])
        assert results["methods"][setting]["mean"]["auroc"] == pytest.approx(mean)
    behind = results["methods"]["lr=2"]["auroc_behind_first"]
    differences = np.array([values["lr=1", seed] - values["lr=2", seed] for seed in (0, 1)])
    assert behind["mean"] == pytest.approx(differences.mean())
    assert behind["ci95"] == interval_over_trainings(differences), "paired by seed"


def test_the_same_command_goes_on_where_it_stopped(sweep, tmp_path, capfd):
    """One training lacks its test, and its last checkpoint is damaged: it alone is resumed, from the newest whole one,
    and ends in the same figures."""
    folder, line, _ = sweep
    copy = tmp_path / "runs"
    shutil.copytree(folder, copy)
    stopped = copy / "quickstart,lr=0.01" / "seed1" / "results.json"
    expected = json.loads(stopped.read_text())
    stopped.unlink()
    last = stopped.parent / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:20000])
    again = [str(copy) if word == str(folder) else word for word in line]
    assert main(again) == 0
    notes = capfd.readouterr().err
    assert "1 of 2 trainings are finished" in notes
    assert "quickstart,lr=0.01/seed1: goes on from its last checkpoint" in notes
    assert "best.ckpt is taken, the newest whole checkpoint of the run" in " ".join(notes.split())
    means = [results["methods"]["protonet"]["mean"] for results in (json.loads(stopped.read_text()), expected)]
    assert means[0] == pytest.approx(means[1])


def test_evaluate_joins_runs_of_one_name(sweep, tmp_path, capsys):
    folder = sweep[0]
    runs = [str(folder / "quickstart,lr=0.01" / f"seed{seed}") for seed in (0, 1)]
    line = ["evaluate", *runs, "knn", "--data", f"{runs[0]}/config.yaml", "--episodes", "12", "--out", str(tmp_path)]
    assert main(line) == 0
    assert "over tasks and trainings" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    methods = results["joined"]["methods"]
    assert list(methods) == ["quickstart,lr=0.01 (2 trainings)", "knn"]
    single = [results["methods"][f"quickstart,lr=0.01/seed{seed}"] for seed in (0, 1)]
    values = np.array([[task["auroc"] for task in method["tasks"]] for method in single])
    assert methods["quickstart,lr=0.01 (2 trainings)"]["mean"]["auroc"] == pytest.approx(values.mean())
    knn = np.array([task["auroc"] for task in results["methods"]["knn"]["tasks"]])
    assert methods["knn"]["auroc_behind_first"]["mean"] == pytest.approx(values.mean() - knn.mean())


def test_runs_with_other_settings_or_the_same_seed_are_not_joined(tmp_path):
    figures = {}
    for name, seed, lr in [("a", 0, 1), ("b", 0, 1), ("c", 1, 2)]:
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(yaml.dump({"seed_everything": seed, "model": {"lr": lr}}))
        tasks = [{"task": str(i), "auroc": 0.5} for i in range(6)]
        figures[name] = {"mean": {"auroc": 0.5}, "tasks": tasks}
    folders = [str(tmp_path / name) for name in figures]
    assert join_runs(figures, folders) == {}
    (tmp_path / "c" / "config.yaml").write_text(yaml.dump({"seed_everything": 1, "model": {"lr": 1}}))
    assert list(join_runs(figures, folders)["joined"]["methods"]) == [f"{tmp_path.name} (2 trainings)", "b"]
