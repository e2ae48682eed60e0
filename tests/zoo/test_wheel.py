"""The published checkpoints come with the package: a wheel, installed elsewhere, finds and loads them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.zoo.conftest import NAME

LOAD = f"""
import metaad_zoo as mz
from metaad_zoo.zoo.index import zoo_folder
assert zoo_folder().name == "_checkpoints", zoo_folder()
assert mz.list_checkpoints() == [{NAME!r}]
print(mz.load_detector({NAME!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["clone", "sdist"])
def test_a_wheel_holds_the_checkpoints(source, original, tmp_path):
    pytest.importorskip("setuptools")
    clone, wheels, site = tmp_path / "clone", tmp_path / "wheels", tmp_path / "site"
    shutil.copytree(REPOSITORY / "metaad_zoo", clone / "metaad_zoo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(original, clone / "checkpoints")
    shutil.copytree(REPOSITORY / "configs", clone / "configs")
    for name in ("pyproject.toml", "PACKAGE.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, clone / name)
    if source == "sdist":
        build = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=clone, check=True, capture_output=True)
        shutil.rmtree(clone)
        shutil.unpack_archive(next(tmp_path.glob("*.tar.gz")), tmp_path / "unpacked")
        clone = next((tmp_path / "unpacked").iterdir())
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run([*pip, "--target", str(site), str(clone)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wheels.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=wheels, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Detector(maml, gru")
    assert not (site / "checkpoints").exists()
