"""What is installed: the wheel's files, the version, and what the package imports."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from importlib.metadata import packages_distributions, version

import pytest
import yaml

import metaad_zoo as mz
from metaad_zoo.cli import main
from tests.conftest import REPOSITORY
from tests.test_architecture import MODULES, PACKAGE, imports

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
NOT_COPIED = (".git", ".*cache", "__pycache__", "runs", "build", "dist", "*.egg-info", ".venv")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    """Names of the files in a wheel of this repository."""
    room = tmp_path_factory.mktemp("wheel")
    shutil.copytree(REPOSITORY, room / "copy", ignore=shutil.ignore_patterns(*NOT_COPIED))
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(room)], cwd=room / "copy", capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (path,) = room.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize(
    ("folder", "inside", "pattern"),
    [
        ("metaad_zoo", "metaad_zoo", "**/*.py"),
        ("metaad_zoo", "metaad_zoo", "**/*.j2"),
        ("metaad_zoo", "metaad_zoo", "**/*.json"),
        ("metaad_zoo", "metaad_zoo", "py.typed"),
        ("configs", "metaad_zoo/_configs", "**/*.yaml"),
        ("checkpoints", "metaad_zoo/_checkpoints", "**/*.*"),
    ],
)
def test_the_wheel_has_every_file(folder, inside, pattern, wheel):
    root = REPOSITORY / folder
    files = {f"{inside}/{path.relative_to(root).as_posix()}" for path in root.glob(pattern) if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    if folder == "checkpoints":
        files.discard(f"{inside}/README.md")  # the overview of the folder, for the repository's readers
    assert files
    assert files <= wheel


def test_the_page_of_the_package_index_has_no_link_into_the_repository():
    page, readme = (
        (REPOSITORY / name).read_text(encoding="utf-8") for name in (PROJECT["project"]["readme"], "README.md")
    )
    links = re.findall(r"\]\(([^)]+)\)", page) + re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(link.startswith("https://") for link in links)
    assert readme.split("\n\n")[1] in page, "both say the same"
    commands = {line for line in page.splitlines() if line.startswith("| ") and "`metaad" in line}
    assert len(commands) >= 4
    assert commands <= set(readme.splitlines()), "those of the README are tested"


def test_every_package_is_named():
    folders = [path.parent.relative_to(REPOSITORY) for path in PACKAGE.rglob("__init__.py")]
    packages = {".".join(folder.parts) for folder in folders}
    named = set(PROJECT["tool"]["setuptools"]["packages"])
    assert named == packages | {"metaad_zoo._checkpoints", "metaad_zoo._configs"}


def test_the_version_is_that_of_the_metadata(capsys):
    assert mz.__version__ == version("metaad_zoo")
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"metaad_zoo {mz.__version__}\n"


def test_the_changelog_and_the_citation_have_the_version():
    number = PROJECT["project"]["version"]
    assert f"## {number}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))["version"] == number


def test_the_workflow_runs_the_test_command():
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps
    assert (REPOSITORY / ".ci" / "run").is_file()


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms_ask_for_something(form):
    content = yaml.safe_load((REPOSITORY / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    assert any(field.get("validations", {}).get("required") for field in content["body"])


def requirement(text: str) -> str:
    """Name of a required distribution, as distributions are compared."""
    name = text.partition(";")[0]
    for end in "[<>=!~ ":
        name = name.partition(end)[0]
    return name.lower().replace("_", "-")


def test_every_import_is_declared():
    """Each imported distribution is a dependency, or part of an extra."""
    project = PROJECT["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    declared = {requirement(text) for text in [*project["dependencies"], *extras]}
    tops = (
        {
            name.partition(".")[0]
            for path in MODULES.values()
            for name in [module for module, _ in imports(path)]
            if name not in _only_for_types(path)
        }
        - {"metaad_zoo"}
        - sys.stdlib_module_names
    )
    distributions = packages_distributions()
    undeclared = {
        top for top in tops if not {n.lower().replace("_", "-") for n in distributions.get(top, [top])} & declared
    }
    assert not undeclared


@cache
def _only_for_types(path) -> set[str]:
    """Modules from which a file imports for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    inside = {ast.unparse(node) for block in blocks for node in ast.walk(block) if isinstance(node, ast.ImportFrom)}
    whole = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    at_run_time = {node.module for node in whole if ast.unparse(node) not in inside}
    return {node.module for node in whole if node.module} - at_run_time
