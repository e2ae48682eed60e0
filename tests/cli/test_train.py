"""`python train.py` as a user types it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
import torch
import yaml

import metaad_zoo as mz
from metaad_zoo.cli.parsing import arrange
from metaad_zoo.cli.train import TrainingCLI, run
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
QUICKSTART = ["--config", str(CONFIGS / "quickstart.yaml")]
SHORT = [
    "--data.episodes_per_epoch=8",
    "--data.tasks_per_batch=2",
    "--data.val_episodes=10",
    "--data.test_episodes=12",
    "--data.episode.query_normal=4",
    "--data.episode.query_anomalous=4",
    "--model.backbone_options={width: 4}",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
]
LISTED = sorted(CONFIGS.rglob("*.yaml"))


def command(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [sys.executable, str(REPOSITORY / "train.py"), *map(str, arguments)], environment


@pytest.mark.parametrize(
    ("line", "verb", "rest"),
    [
        ("fit --config a", "fit", "--config a"),
        ("--config a fit", "fit", "--config a"),
        ("--x 1 --config a test --config b", "test", "--config a --config b --x 1"),
        ("--name fit --config=a", None, "--config=a --name fit"),
        ("--print_config fit -c a", "fit", "-c a --print_config"),
        ("--config a", None, "--config a"),
    ],
)
def test_verbs_and_options_come_in_any_order(line, verb, rest):
    assert arrange(line.split()) == (verb, rest.split())


def parsed(*arguments):
    return TrainingCLI(arrange([*QUICKSTART, *SHORT, *arguments])[1], None)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("--model.inner_loop.steps=3", lambda c: (c.model.inner_loop.config.steps, 3)),
        ("--model.inner_loop.order=1", lambda c: (c.model.inner_loop.config.order, 1)),
        ("--model.optimizer.lr=0.5", lambda c: (c.model._optimizer([torch.zeros(1)]).defaults["lr"], 0.5)),
        ("--model.schedule=constant", lambda c: (c.model._schedule, "constant")),
        ("--data.seed=9", lambda c: (c.datamodule.seed, 9)),
        ("--data.init_args.seed=9", lambda c: (c.datamodule.seed, 9)),
        ("--data.camera.noise=0.3", lambda c: (c.datamodule.camera.noise, 0.3)),
        ("--data.camera=null", lambda c: (c.datamodule.camera, None)),
        ("--data.episode.support_normal=2", lambda c: (c.datamodule.episode.support_normal, 2)),
        ("--trainer.max_epochs=7", lambda c: (c.trainer.max_epochs, 7)),
        ("--seed_everything=4", lambda c: (c.config["seed_everything"], 4)),
    ],
)
def test_no_override_is_dropped(override, read, tmp_path):
    cli = parsed(override, "--runs", str(tmp_path))
    found, expected = read(cli)
    assert found == expected
    # What the override does not name stays as the config says.
    assert cli.model.inner_loop.config.learn_lr == "parameter_and_step"
    assert cli.datamodule.finer_tasks == 0.8


def test_an_override_wins_wherever_it_stands(tmp_path):
    args = arrange(["--trainer.max_epochs", "7", *QUICKSTART, *SHORT, "--runs", str(tmp_path)])[1]
    assert TrainingCLI(args, None).trainer.max_epochs == 7


def test_later_configs_overlay_earlier_ones(tmp_path):
    overlay = ["--config", str(CONFIGS / "debug" / "overfit.yaml")]
    cli = TrainingCLI(arrange([*QUICKSTART, *overlay, "--runs", str(tmp_path)])[1], None)
    assert cli.datamodule.repeat_episodes
    assert cli.datamodule.dataset == "digits"
    assert cli.datamodule.camera.rotation == 25


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("--trainer.max_epoch=3", "trainer.max_epochs"),
        ("--model.inner_loop.step=3", "model.inner_loop.steps"),
        ("--model.bacbone=conv4", "model.backbone"),
        ("--data.epsiode.support_normal=3", "data.episode"),
        ("--modle.backbone=conv4", "model.backbone"),
        ("--nmae=x", "name"),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(wrong, near, capsys):
    with pytest.raises(SystemExit) as caught:
        parsed(wrong)
    assert caught.value.code == 2
    assert "Did you mean" in (message := capsys.readouterr().err), message
    assert near in message.split("Did you mean")[1]


def test_an_unknown_key_in_a_config_gets_one_too(tmp_path, capsys):
    config = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
    config["data"]["init_args"]["episodes_per_epcoh"] = 3
    (tmp_path / "c.yaml").write_text(yaml.dump(config))
    with pytest.raises(SystemExit):
        TrainingCLI(["--config", str(tmp_path / "c.yaml")], None)
    assert "episodes_per_epoch" in capsys.readouterr().err.split("Did you mean")[1]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("--model.backbone=convv4", "did you mean 'conv4'"),
        ("--data.dataset=digit", "did you mean 'digits'"),
        ("--data.splits={train: ['0', '1'], test: ['1', '2']}", "in the train and in the test split"),
        ("--data.episode.support_normal=500", "normal samples but an episode draws"),
        ("--ckpt_path=last", "there is no run in .* yet"),
        ("--ckpt_path=nowhere.ckpt", "there is no such file"),
        ("--data.image_size=8", "at least 16, saw 8"),
        ("--model.backbone=timm/resnt18", "did you mean 'timm/resnet18"),
        ("--model.backbone_options={widht: 3}", "did you mean 'width'"),
        ("--data.root=nowhere", "digits read no files"),
        ("--data.splits={train: ['0', '1'], val: ['4', '5']}", "there is no test split"),
        ("--alpha=2", "alpha is 2"),
        ("--alpha=0.0001", "alpha is 0.0001; expected .* at least 1/41"),
        ("--trainer.limit_test_batches=2", "set data.test_episodes"),
        ("tset", "Did you mean test"),
    ],
)
def test_settings_that_cannot_work_end_in_a_plain_error_before_training(wrong, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run([*QUICKSTART, *SHORT, wrong, "--runs", str(tmp_path)])
    message = f"{caught.value} {capsys.readouterr().err}"
    assert re.search(complaint, message), message
    assert "Namespace(" not in message
    assert not list(tmp_path.glob("*/*/metrics.csv")), "no training has begun"


@pytest.mark.parametrize("verb", ["test", "validate", "predict"])
def test_verbs_that_need_a_trained_model_say_so(verb, tmp_path):
    with pytest.raises(SystemExit, match=f"{verb} needs a trained model: add --ckpt_path"):
        run([verb, *QUICKSTART, *SHORT, "--runs", str(tmp_path)])


@pytest.mark.usefixtures("_real_data")
@pytest.mark.parametrize("config", LISTED, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_config_trains_a_step(config, tmp_path):
    """Overlays are laid over the quickstart; a GPU's overlay is parsed whole and its device then replaced."""
    first = config.read_text().splitlines()[0]
    assert first.startswith("# "), "the first comment is the command that runs it"
    assert str(config.relative_to(REPOSITORY)) in first
    whole = "model" in yaml.safe_load(config.read_text())
    configs = ["--config", str(config)] if whole else [*QUICKSTART, "--config", str(config)]
    overrides = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
    cli = run(["fit", *configs, *overrides, "--trainer.max_steps=1", *SHORT, "--runs", str(tmp_path)])
    assert cli.trainer.global_step == 1


@pytest.fixture
def _real_data(request):
    if "omniglot" in str(request.node.callspec.params.get("config", "")):
        request.getfixturevalue("data_folder")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole short run: fit, then test."""
    folder = tmp_path_factory.mktemp("runs")
    line, environment = command(*QUICKSTART, *SHORT, "--trainer.max_epochs=2", "--runs", folder)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((folder / "quickstart").iterdir()), done.stdout


def test_a_run_leaves_what_it_promises(finished):
    folder, printed = finished
    for name in ("config.yaml", "metrics.csv", "results.json", "episode.png", "learning_curve.png"):
        assert (folder / name).stat().st_size > 0, name
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list(folder.glob("events.out.tfevents.*")), "TensorBoard"
    assert "Next, try:  metaad adapt" in printed
    assert "rotation" in printed, "the camera is declared"
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"step", "train/loss", "val/auroc", "episodes/s"} <= set(rows[0])
    assert sum(bool(row["train/loss"]) for row in rows) == 8


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
        assert set(method["mean"]) == {"auroc", "ap", "precision", "recall", "f1", "fpr"}
        assert len(method["tasks"]) == 12
    assert results["protocol"]["data"]["camera"]["rotation"] == 25
    assert results["environment"]["torch"] == version("torch")


def test_the_resolved_config_runs_again_with_the_same_figures(finished, tmp_path):
    """The resolved config alone, in another folder, gives the same results but for the clock."""
    line, environment = command("--config", finished[0] / "config.yaml", "--runs", tmp_path)
    subprocess.run(line, env=environment, check=True, capture_output=True, timeout=600)
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
    again = json.loads((tested.run_dir / "results.json").read_text())
    assert again["methods"]["maml"]["mean"] == pytest.approx(results["methods"]["maml"]["mean"], abs=0.1)
    assert again["protocol"]["trained_or_chosen_on"] == [f"digits/{i}" for i in range(6)]
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


def test_a_damaged_or_missing_checkpoint_is_named(copied):
    folder, place = copied
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:20000])
    for verb in ("fit", "test"):
        with pytest.raises(SystemExit, match=r"last\.ckpt can't be read as a training checkpoint"):
            run([verb, *place, "last"])
    (folder.parent / "2999-01-01_00-00-00").mkdir()
    (folder.parent / "2999-01-01_00-00-00" / "config.yaml").touch()
    with pytest.raises(SystemExit, match=r"newest run .*2999.* has no last\.ckpt yet"):
        run(["fit", *place, "last"])


def test_fit_alone_leaves_a_model_and_runs_without_loggers(tmp_path):
    cli = run(["fit", *QUICKSTART, *SHORT, "--trainer.max_steps=1", "--trainer.logger=false", "--runs", str(tmp_path)])
    assert (cli.run_dir / "config.yaml").is_file()
    assert not mz.load_detector(cli.run_dir).is_fitted


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
    ours, *others = (results["methods"][name]["ci95"]["auroc"] for name in results["methods"])
    beaten = {name: ours[0] > other[1] for name, other in zip(list(results["methods"])[1:], others, strict=True)}
    assert all(won for name, won in beaten.items() if name != "1-NN on standardised pixels"), beaten


def final_weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_killed_run_resumes_to_the_same_end(tmp_path):
    """SIGKILL in the middle of training; `--ckpt_path last` then ends in the same weights."""
    length = [*QUICKSTART, *SHORT, "--data.episodes_per_epoch=60", "--trainer.max_epochs=4"]
    line, environment = command("fit", *length, "--runs", tmp_path / "straight")
    subprocess.run(line, env=environment, check=True, capture_output=True, timeout=600)

    line, environment = command("fit", *length, "--runs", tmp_path / "killed")
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "killed").glob("*/*/checkpoints/last.ckpt")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = next((tmp_path / "killed" / "quickstart").iterdir())
    reached = final_weights(folder)["global_step"]
    assert reached < 120, "the kill came too late to test anything"

    subprocess.run([*line, "--ckpt_path", "last"], env=environment, check=True, capture_output=True, timeout=600)
    assert next((tmp_path / "killed" / "quickstart").iterdir()) == folder, "it goes on in its own folder"
    ends = [final_weights(next((tmp_path / name / "quickstart").iterdir())) for name in ("straight", "killed")]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 120
    for name, x in ends[0]["state_dict"].items():
        assert torch.equal(x, ends[1]["state_dict"][name]), name
    assert (folder / "metrics-1.csv").exists(), "what was logged before the kill is kept"


def test_ddp_on_two_cpu_processes(tmp_path):
    line, environment = command(
        *QUICKSTART,
        "--config",
        CONFIGS / "trainer" / "ddp_cpu.yaml",
        *SHORT,
        "--trainer.max_epochs=1",
        "--runs",
        tmp_path,
    )
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = list((tmp_path / "quickstart").iterdir())
    assert len(folders) == 1, "one run, one folder"
    assert json.loads((folders[0] / "results.json").read_text())["methods"]["maml"]
