"""How `python train.py` reads its command line, and what it refuses before any training."""

from __future__ import annotations

import re

import pytest
import torch
import yaml

from metaad_zoo.cli.train import TrainingCLI, run
from metaad_zoo.cli.train_arguments import arrange
from tests.cli.short import CONFIGS, QUICKSTART, SHORT


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
    value, expected = read(cli)
    assert value == expected
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
        (
            "--model.inner_loop.batch_norm=transductive",
            "normalises over the queries .* or allow it by --allow_transductive=true",
        ),
        ("--data.image_size=8", "at least 16, saw 8"),
        ("--model.backbone=timm/resnt18", "did you mean 'timm/resnet18"),
        ("--model.backbone_options={widht: 3}", "did you mean 'width'"),
        ("--data.root=nowhere", "digits read no files"),
        ("--data.splits={train: ['0', '1'], val: ['4', '5']}", "there is no test split"),
        ("--alpha=2", r"alpha \(--alpha\) is 2"),
        ("--alpha=0.0001", r"alpha \(--alpha\) is 0.0001; expected .* at least 1/41"),
        ("--trainer.limit_test_batches=2", "set data.test_episodes"),
        ("tset", "Did you mean test"),
        (
            "--model.inner_loop.steps=many",
            "^2 error: --model.inner_loop.steps is 'many': expected a whole number\nConf",
        ),
        ("--model.optimizer.lr=fast", "^2 error: --model.optimizer.lr is 'fast': expected a number\nConf"),
        ("--data.camera.noise=loud", "^2 error: --data.camera.noise is 'loud': expected a number\nConf"),
        ("--data.image_size=big", "^2 error: --data.image_size is 'big': expected a whole number or null\nConf"),
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
