"""The pages and notebooks name what is there, show what the result files say, and run."""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import reduce
from pathlib import Path

import lightning.pytorch as pl
import pytest
import yaml

from metaad_zoo.cli.command_line import command_parser
from metaad_zoo.evaluation.baselines import list_baselines
from metaad_zoo.experiment.configs import list_configs
from metaad_zoo.learners import list_learners
from metaad_zoo.zoo import list_checkpoints
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
README = REPOSITORY / "README.md"
ON_BOTH = [*PAGES, *NOTEBOOKS, README]
CARDS = sorted((REPOSITORY / "checkpoints").glob("**/README.md"))
WITH_COMMANDS = [*ON_BOTH, REPOSITORY / "CONTRIBUTING.md", *CARDS]


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def text_of(path: Path) -> str:
    """A page, or the cells of a notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells)


def lines_of(page: Path, start: str) -> list[str]:
    """Commands on a page that start with a word, in blocks, tables and sentences (where they may be broken)."""
    text = re.sub(r"```.*?```|`([^`]+)`", _on_one_line, text_of(page), flags=re.DOTALL)
    return re.findall(rf"(?m)(?:^(?:    )?|`)({start} [^`\n]+)", text)


def _on_one_line(code: re.Match[str]) -> str:
    return code[0] if code[1] is None else code[0].replace("\n", " ")


def verbs() -> dict[str, argparse.ArgumentParser]:
    (commands,) = (a for a in command_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices


@pytest.mark.parametrize("path", ON_BOTH, ids=lambda p: p.name)
def test_every_file_named_is_there(path):
    for name in re.findall(r"(?:configs|benchmarks|tests|notebooks|docs)/[\w/.-]+\.\w+", text_of(path)):
        assert (REPOSITORY / name).is_file(), name


def test_commands_are_found():
    """Where the pages change their form, the tests below must not pass by finding none."""
    assert len(lines_of(README, "metaad")) > 5
    assert sum(len(lines_of(page, "metaad")) for page in PAGES) > 60
    assert sum(len(lines_of(page, "python train.py")) for page in PAGES) > 20
    assert all(len(lines_of(card, "metaad")) >= 2 for card in CARDS)
    assert all(len(lines_of(card, "python train.py")) == 1 for card in CARDS if card.parent.name != "checkpoints")


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_metaad_command_is_one(page):
    """Verb, options, and the published models and baselines that it names."""
    for line in lines_of(page, "metaad"):
        words = shlex.split(line.split("#")[0])
        if words[1].startswith("--"):
            assert words[1] in command_parser()._option_string_actions, line
            continue
        parser = verbs().get(words[1])
        assert parser is not None, f"{line}: no such verb"
        if words[1] == "train":  # keys of a config are overridden by `--key value`
            names = itertools.takewhile(lambda word: not word.startswith("--"), words[2:])
            assert {name for name in names if name.islower()} <= set(list_configs()), line
            words = [w for w in words if not re.match(r"--(model|data|trainer)\.", w)]
        assert {w for w in words if w.startswith("--")} <= set(parser._option_string_actions), line
        for word in words[2:]:
            if re.fullmatch(r"(image|sequence|tabular|multimodal)-[\w-]+", word):
                assert word in list_checkpoints(), line
        needed = [a.option_strings[0] for a in parser._actions if a.required and a.option_strings]
        if len(words) == 2 or "..." in words or not set(needed) <= set(words):  # the verb in a sentence
            continue
        options = parser.parse_args(words[2:])
        if words[1] == "evaluate":
            parts = [part for m in options.methods for part in m.split("@")]  # knn@NAME: a baseline on an embedding
            named = [m for m in parts if not m.startswith(("runs/", "pyod/")) and not m.isupper()]
            assert set(named) <= {*list_baselines(), *list_checkpoints()}, line


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_training_command_names_known_keys(page):
    """`test_configs.py` runs the configs themselves; here the options behind them are looked up."""
    for line in lines_of(page, "python train.py"):
        words = shlex.split(line.split("#")[0])[2:]
        configs = [words[i + 1] for i, w in enumerate(words) if w == "--config"]
        if any(config[0].isupper() for config in configs):  # stands for any
            continue
        merged: dict[str, dict] = {}
        for config in configs:
            for section, value in yaml.safe_load((REPOSITORY / config).read_text()).items():
                merged.setdefault(section, {}).update(value if isinstance(value, dict) else {})
        keys = {"--config", "--ckpt_path", "--import", "--runs", "--seed_everything"}
        keys |= {f"--trainer.{key}" for key in inspect.signature(pl.Trainer).parameters}
        if "--trainer.logger" in words and (name := words[words.index("--trainer.logger") + 1])[0].isupper():
            keys |= {f"--trainer.logger.{key}" for key in _keys(f"lightning.pytorch.loggers.{name}")}
        for section in ("data", "model"):
            keys |= {f"--{section}.{key}" for key in _keys(merged.get(section, {}).get("class_path"))}
        assert {w for w in words if w.startswith("--")} <= keys, line


def _keys(path: str | None) -> set[str]:
    """Arguments of what a config names, and of the classes above it."""
    if path is None:
        return set()
    module, _, name = path.rpartition(".")
    named = getattr(importlib.import_module(module), name)
    owners = inspect.getmro(named) if inspect.isclass(named) else (named,)
    return {key for owner in owners if owner is not object for key in inspect.signature(owner).parameters}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_name_in_code_is_there(page):
    """Those in backquotes that start with the package or `mz`, and what the API page shows."""
    text = text_of(page)
    for name in re.findall(r"(?m)(?:^::: |`)((?:metaad_zoo|mz)(?:\.\w+)+)", text):
        parts = name.replace("mz.", "metaad_zoo.", 1).split(".") if name.startswith("mz.") else name.split(".")
        reduce(_attribute, parts[1:], importlib.import_module(parts[0]))


def _attribute(owner: object, name: str) -> object:
    return getattr(owner, name) if hasattr(owner, name) else importlib.import_module(f"{owner.__name__}.{name}")


def test_every_learner_recommended_is_one():
    rows = re.findall(r"(?m)^\| [^|]+ \| ((?:`\w+`(?:, )?)+)", text_of(DOCS / "choosing.md"))
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named & set(list_learners())
    assert named <= {*list_learners(), *list_baselines()} | {
        p.stem for p in (REPOSITORY / "benchmarks").rglob("*.json")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_python_on_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL):
        if "@register" in code:  # in a process of its own, whose registries no other test reads
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            # Python warns of two faults in the library higher where it compiles it for the first time.
            excepted = ("invalid escape sequence", '"is" with a literal')
            warnings = ["-W", "error", *(word for start in excepted for word in ("-W", f"ignore:{start}"))]
            subprocess.run([sys.executable, *warnings, "-c", code], check=True, env=environment)
        else:
            exec(compile(code, str(page), "exec"), {})


@pytest.mark.parametrize("name", ["docs_tables.py", "defaults.py"])
def test_figures_and_defaults_are_what_the_result_files_say(name, monkeypatch):
    script = str(REPOSITORY / "benchmarks" / name)
    monkeypatch.setattr(sys, "argv", [script, "--check"])
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    status = None
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        status = end.code
    assert not status, f"run `python benchmarks/{name}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_no_figure_is_typed_by_hand(page):
    """A figure with a decimal stands between a marker and its end, in code, or is no result."""
    text = re.sub(r"<!-- (?!end).*?-->.*?<!-- end -->", "", text_of(page), flags=re.DOTALL)
    text = re.sub(r"```.*?```|`[^`\n]*`|^    .*$|\\\[.*?\\\]", "", text, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"\b\d+\.\d+\b", text) in ([], ["66.7", "1.0"]), "take it from a result file"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_stored_with_its_outputs(notebook):
    """Those of one run from top to bottom by `notebooks/run.py`, without messages and names of folders."""
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.read(notebook, as_version=4)
    nbformat.validate(book)
    titles = re.findall(r"(?m)^#+ ", "\n".join(c.source for c in book.cells if c.cell_type == "markdown"))
    assert book.cells[0].source.startswith("# ")
    assert set(titles[1:]) == {"## "}, "one title, and parts under it"
    code = [c for c in book.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1)), "run it by notebooks/run.py"
    outputs = [o for c in code for o in c.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert "/tmp" not in re.sub(r'"image/png": "[^"]*"', "", notebook.read_text(encoding="utf-8"))
    assert notebook.stat().st_size < 500_000


TAKES_LONG = ("image_inspection", "multimodal")


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(p, marks=pytest.mark.slow if p.stem in TAKES_LONG else ()) for p in NOTEBOOKS],
    ids=lambda p: p.stem,
)
def test_notebook_runs(notebook):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.read(notebook, as_version=4)
    os.environ.pop("MPLBACKEND", None)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    client = nbclient.NotebookClient(book, timeout=600, kernel_name="python3")
    client.create_kernel_manager()
    client.resources = {"metadata": {"path": str(REPOSITORY / "notebooks")}}
    client.execute(env=environment)
    assert any("image/png" in o.get("data", {}) for c in book.cells for o in c.get("outputs", [])), (
        "no figure was drawn"
    )


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(line, cwd=REPOSITORY, check=True)
    assert "FewShotOutlierDetector" in (tmp_path / "api" / "index.html").read_text()
    for card in (REPOSITORY / "checkpoints").glob("*/README.md"):
        assert (tmp_path / "models" / card.parent.name / "index.html").is_file()
    concepts = (tmp_path / "concepts" / "index.html").read_text()
    assert concepts.count("<math") > 30
    assert "arithmatex" not in concepts, "a formula was left in LaTeX"
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)[^>]* (?:src|href)=\"(https?:[^\"]+)", page.read_text())
        assert not loaded, f"{page} loads {loaded}"
