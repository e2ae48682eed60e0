"""What runs by itself: the import of the package starts nothing, and no file of it runs text or pickles as code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import REPOSITORY
from tests.test_architecture import MODULES

LOCK = REPOSITORY / ".ci" / "constraints.txt"
AUDIT = """
import pkgutil, sys
events = []
NEVER = ("socket.", "urllib.Request", "http.client.", "subprocess.Popen", "os.system", "os.exec", "os.spawn", "os.fork",
         "os.posix_spawn", "pickle.find_class", "ftplib.", "smtplib.", "webbrowser.open", "os.startfile", "pty.spawn")
def hook(event, arguments):
    never = event.startswith(NEVER) and event not in ("socket.gethostname", "socket.__new__")
    if never or event in ("exec", "compile"):  # only now: asking for the frame is an event too
        caller = sys._getframe(1).f_code.co_filename
        if never or "metaad_zoo" in caller:
            events.append(f"{event} {arguments!r:.200} from {caller}")
sys.addaudithook(hook)
import metaad_zoo
for module in pkgutil.walk_packages(metaad_zoo.__path__, "metaad_zoo."):
    if not module.name.rpartition(".")[2].startswith("__"):
        __import__(module.name)
print("\\n".join(events))
"""
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load", "torch.jit.load"}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LIBRARIES = {
    r"^subprocess.Popen \('/sbin/ldconfig'": "ctypes.util.find_library asks for the path of a system library",
    r"^socket.bind .*'::1', 0.*urllib3": "urllib3 asks whether the machine has IPv6; nothing is sent",
}
"""Events of libraries, as regular expressions, and what they are for."""
ALLOWED = {
    ("metaad_zoo.cli.resume", "import pickle"): "names the exception of a damaged checkpoint",
    ("metaad_zoo.experiment.sweep", "import subprocess"): "starts the trainings of a sweep, without a shell",
}


def dangerous(tree: ast.Module) -> Iterator[str]:
    """Calls and imports of a file that run text, a shell, another program or a pickle."""
    assignments = [node for node in tree.body if isinstance(node, ast.Assign)]
    assigned = {ast.unparse(node.targets[0]): ast.unparse(node.value) for node in assignments}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"import {name}" for name in names if name.partition(".")[0] in PICKLES | {"subprocess"})
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {k.arg: k.value for k in node.keywords}
            literal = {k: v.value for k, v in given.items() if isinstance(v, ast.Constant)}
            if name in CALLS or name.startswith(("os.exec", "os.spawn", "os.posix_spawn")):
                yield name
            if name == "torch.load" and literal.get("weights_only") is not True:
                yield "torch.load without weights_only=True"
            if name in ("yaml.load", "yaml.load_all"):
                loaders = [ast.unparse(x) for x in [*node.args[1:], *(k.value for k in node.keywords)]]
                if not any("Safe" in assigned.get(loader, loader) for loader in loaders):
                    yield f"{name} without a safe loader"
            if name.startswith("yaml.") and ("unsafe_" in name or "full_" in name):
                yield name
            for argument in ("shell", "allow_pickle"):
                if argument in given and literal.get(argument) is not False:
                    yield f"{argument}=True"


@pytest.mark.parametrize(
    "code",
    [
        "eval(text)",
        "exec(compile(text, 'a', 'exec'))",
        "import os\nos.system('ls')",
        "import os\nos.execv('ls', [])",
        "import pickle",
        "from joblib import load",
        "import subprocess",
        "run(line, shell=True)",
        "run(line, shell=wanted)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=wanted)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "LOADER = yaml.Loader\nyaml.load(text, LOADER)",
        "yaml.unsafe_load(text)",
    ],
)
def test_dangerous_code_is_seen(code):
    assert list(dangerous(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "re.compile(text)",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.load(text, Loader=yaml.CSafeLoader)",
        "LOADER = yaml.CSafeLoader\nyaml.load(text, LOADER)",
        "yaml.safe_load(text)",
        "import pickletools",
    ],
)
def test_harmless_code_passes(code):
    assert not list(dangerous(ast.parse(code)))


def test_no_file_runs_text_a_shell_or_a_pickle():
    seen = {
        (module, what)
        for module, path in MODULES.items()
        for what in dangerous(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert seen == set(ALLOWED)


def test_imports_start_nothing():
    """No network, no other program, no pickle, also in libraries; no text run as code by a file of the package."""
    done = subprocess.run([sys.executable, "-c", AUDIT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    events = [line for line in done.stdout.splitlines() if not any(re.search(text, line) for text in LIBRARIES)]
    assert events == []


def pins(text: str) -> dict[str, list[Version]]:
    """Versions by distribution of a file of constraints."""
    versions: dict[str, list[Version]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            (only,) = requirement.specifier
            assert only.operator == "=="
            versions.setdefault(canonicalize_name(requirement.name), []).append(Version(only.version))
    return versions


def test_continuous_integration_pins_every_dependency_within_its_bounds():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = pins(LOCK.read_text(encoding="utf-8"))
    for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        requirement = Requirement(text)
        assert canonicalize_name(requirement.name) in versions, (
            f"{text} is not pinned: {LOCK.name} says how to write it anew"
        )
        assert all(requirement.specifier.contains(v) for v in versions[canonicalize_name(requirement.name)]), text
    run = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r'PIP_CONSTRAINT="\$PWD/\.ci/constraints\.txt"', run)


def test_every_dependency_has_a_lower_bound():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    for text in [*project["dependencies"], *extras]:
        assert any(bound.operator == ">=" for bound in Requirement(text).specifier), text
