"""`metaad train`: shipped configs by name, one's own by path."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from metaad_zoo.cli import main
from metaad_zoo.cli.train import run
from metaad_zoo.cli.train_arguments import name_configs
from metaad_zoo.experiment.configs import bases_of, configs_folder, describe_config, list_configs, locate_config
from metaad_zoo.learners import PrototypicalNetwork
from metaad_zoo.learners.training import trainable
from tests.cli.short import CONFIGS, QUICKSTART, SHORT


def test_shipped_configs_are_those_of_the_folder():
    assert configs_folder() == CONFIGS
    assert set(list_configs()) == {p.relative_to(CONFIGS).with_suffix("").as_posix() for p in CONFIGS.rglob("*.yaml")}
    assert list_configs("trainer/*gpu") == ["trainer/gpu", "trainer/multi_gpu"]


@pytest.mark.parametrize("name", list_configs())
def test_every_config_has_a_description_of_one_sentence(name):
    sentence = describe_config(name)
    assert 15 < len(sentence) <= 200, sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize("name", list_configs())
def test_overlays_are_the_configs_that_are_no_experiment(name):
    """A config that lacks a learner or data is laid over another one, which its first comment names."""
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    is_whole = all("class_path" in content.get(section, {}) for section in ("model", "data"))
    assert is_whole or bases_of(name)
    assert set(bases_of(name)) <= set(list_configs())


def test_the_list_names_every_config(capsys):
    assert main(["train", "--list"]) == 0
    assert set(re.findall(r"(?m)^ ([\w/]+) +│", capsys.readouterr().out)) >= set(list_configs())
    assert main(["train", "--list", "--json"]) == 0
    configs = json.loads(capsys.readouterr().out)
    assert list(configs) == list_configs()
    assert configs["few_labels"]["after"] == ["quickstart", "learners/deep_sad"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "expected metaad train CONFIG, such as quickstart"),
        ("quikstart", "unknown config 'quikstart'; did you mean 'quickstart'"),
        ("protonet", "unknown config 'protonet'; did you mean 'learners/protonet'?"),
        ("quickstart --config learners/protnet", "unknown config 'learners/protnet'; did you mean 'learners/protonet'"),
        ("mine.yaml", "there is no config file mine.yaml"),
        ("learners/protonet", "overlays another config: metaad train quickstart learners/protonet"),
        ("--trainer.max_epochs 3 --help quikstart", "unknown config 'quikstart'"),
    ],
)
def test_mistakes_end_in_one_line_that_mends_them(line, complaint, capsys):
    assert main(["train", *line.split()]) == 1
    assert complaint in (message := capsys.readouterr().err)
    assert message.count("\n") == 1


def test_an_unknown_key_gets_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "quickstart", "--trainer.max_epoch", "3"])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "Did you mean trainer.max_epochs" in message
    assert "For all options: metaad train CONFIG --help" in message


def test_a_learner_keeps_its_short_name_after_one_was_trained(capsys):
    trainable(PrototypicalNetwork(backbone="mlp", input_shapes={"tabular": [3]}))
    with pytest.raises(SystemExit) as caught:
        main(["train", "quickstart", "--model", "PrototypicalNetwork", "--print_config"])
    output = capsys.readouterr()
    assert caught.value.code == 0, output.err
    assert yaml.safe_load(output.out)["model"]["class_path"] == "metaad_zoo.learners.PrototypicalNetwork"


def test_help_of_a_config_lists_all_keys(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "quickstart", "--help"])
    assert caught.value.code == 0
    assert "--trainer.max_epochs" in capsys.readouterr().out


def test_names_and_paths_overlay_in_their_order(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("trainer: {max_epochs: 2}")
    line = ["fit", "quickstart", "--seed_everything", "3", "--config=learners/protonet", str(own)]
    names, arguments = name_configs(line, locate_config)
    assert names == ["quickstart", "learners/protonet", str(own)]
    files = [f"{CONFIGS}/quickstart.yaml", f"{CONFIGS}/learners/protonet.yaml", str(own)]
    assert [a for a in arguments if a.endswith(".yaml")] == files
    assert [a for a in arguments if not a.endswith(".yaml") and a != "--config"] == ["fit", "--seed_everything", "3"]


def test_a_training_is_that_of_train_py(tmp_path, monkeypatch):
    """From another folder, a shipped name gives the resolved config of `python train.py --config`."""
    monkeypatch.chdir(tmp_path)
    length = [*SHORT, "--trainer.max_steps=1", "--data.calibration_shots=[2]"]
    main(["train", "fit", "quickstart", "learners/protonet", *length, "--runs", "by_name"])
    overlay = ["--config", str(CONFIGS / "learners" / "protonet.yaml")]
    run(["fit", *QUICKSTART, *overlay, *length, "--runs", "by_path"])
    by_name, by_path = (
        yaml.safe_load(next((tmp_path / runs).glob("quickstart/*/config.yaml")).read_text())
        for runs in ("by_name", "by_path")
    )
    assert by_name.pop("runs") == "by_name"
    assert by_path.pop("runs") == "by_path"
    assert by_name == by_path
    assert by_name["model"]["class_path"] == "metaad_zoo.learners.PrototypicalNetwork"
