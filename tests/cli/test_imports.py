"""What commands import: help, lists and cards wait neither for torch nor for Lightning, and names load when used."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
from importlib.metadata import version
from typing import get_args

import pytest
from packaging.version import Version

import metaad_zoo
from metaad_zoo.cli.command_line import VERBS
from metaad_zoo.evaluation.decisions import WAYS
from metaad_zoo.evaluation.explanation import Explanation
from metaad_zoo.experiment.evaluate import Calibration
from metaad_zoo.export import EXPORTED_WAYS, Format

HEAVY = (
    "torch",
    "lightning",
    "torchvision",
    "timm",
    "matplotlib",
    "scipy",
    "sklearn",
    "torchmetrics",
    "captum",
    "pandas",
)
LAZY = ("metaad_zoo", "metaad_zoo.data", "metaad_zoo.zoo")
RUN = """
import contextlib, io, json, sys
from metaad_zoo.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    for arguments in {commands}:
        assert main(arguments) == 0
print(json.dumps([name for name in {heavy} if name in sys.modules]))
"""


def loaded_by(code: str) -> list:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--print-completion", "bash"],
        ["list"],
        ["list", "--json"],
        ["info", "image-conv4-maml-omniglot"],
        *([verb, "--help"] for verb in VERBS),
    ],
    ids=" ".join,
)
def test_help_lists_and_cards_import_nothing_heavy(arguments):
    assert loaded_by(RUN.format(commands=[arguments], heavy=HEAVY)) == []


@pytest.mark.parametrize(("method", "rows"), [("tabular-columns-maml-generated", 12), ("series_experts", 320)])
def test_adapt_and_score_import_nothing_heavy_but_torch(method, rows, tmp_path):
    support = tmp_path / "rows.csv"
    support.write_text("a,b\n" + "".join(f"{i % 7 / 7},{i % 5 / 5 if i else ''}\n" for i in range(rows)))
    adapt = ["adapt", method, "--support", str(support), "--out", str(tmp_path / "mine")]
    score = ["score", str(tmp_path / "mine"), "--data", str(support), "--out", str(tmp_path / "scores.csv")]
    assert loaded_by(RUN.format(commands=[adapt, score], heavy=HEAVY)) == ["torch"]


@pytest.mark.skipif(Version(version("torch")) < Version("2.7"), reason="torch 2.6 needs sympy for any layer on meta")
def test_published_models_load_without_the_compiler_of_torch():
    """Layers on the device meta import it for some operations, which takes longer than the import of torch."""
    code = f"""
import json, sys, metaad_zoo as mz
for name in mz.list_checkpoints():
    if "-patch_memory-" not in name:  # timm imports it
        mz.load_detector(name)
print(json.dumps([name for name in {(*HEAVY, "sympy", "torch._dynamo")} if name in sys.modules]))
"""
    assert loaded_by(code) == ["torch"]


def test_the_package_loads_names_when_they_are_used():
    code = f"import metaad_zoo, sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    assert loaded_by(code) == []


@pytest.mark.parametrize("package", LAZY)
def test_every_public_name_loads(package):
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", LAZY)
def test_no_public_name_is_hidden_by_a_module(package):
    """The import of a submodule sets the attribute of its name."""
    module = importlib.import_module(package)
    modules = {m.name for m in pkgutil.iter_modules(module.__path__)}
    hidden = {name for name in modules & set(module.__all__) if module._MODULES[name] != f"{package}.{name}"}
    assert not hidden


def test_submodules_are_attributes():
    assert metaad_zoo.evaluation.metrics.auroc is importlib.import_module("metaad_zoo.evaluation.metrics").auroc


@pytest.mark.parametrize(
    ("verb", "option", "choices"),
    [
        ("explain", "--method", get_args(Explanation)),
        ("score", "--calibrate", tuple(way for way in WAYS if way != "points")),  # --points takes that one
        ("export", "--calibrate", EXPORTED_WAYS),
        ("serve", "--calibrate", EXPORTED_WAYS),
        ("export", "--format", get_args(Format)),
        ("evaluate", "--calibrate", get_args(Calibration)),
    ],
)
def test_choices_are_those_of_the_library(verb, option, choices):
    """The parsers write them out, because the library that defines them takes seconds to import."""
    command = argparse.ArgumentParser()
    VERBS[verb].add_arguments(command)
    assert command._option_string_actions[option].choices == choices


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_explained_by_a_phrase(verb):
    command = argparse.ArgumentParser()
    VERBS[verb].add_arguments(command)
    for action in command._actions:
        assert action.help, action.dest
        assert not action.help.startswith(("of ", "for ", "by default")), action.help
