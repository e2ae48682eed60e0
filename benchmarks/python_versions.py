"""Tests on other Pythons and with the lowest versions: `python benchmarks/python_versions.py [oldest newest lowest]`.

For each name a new virtual environment is made in a temporary folder with uv (`pip install uv`), the package is
installed into it with its test extra, and pytest runs there:

- oldest: the oldest Python that pyproject.toml allows, newest versions of all packages;
- newest: the newest Python that torch has wheels for, newest versions of all packages;
- lowest: the oldest Python, and of each direct dependency the lowest version that pyproject.toml allows. Warnings are
  no errors in this one, because old versions call functions that newer versions of their own dependencies have renamed.

uv finds a Python by its number, or gets it; `--python` names another one. Each environment takes about 7 GB and is
deleted afterwards, unless `--folder` names a place where it is kept and used again. `--tests tests/episodes` runs a
part. benchmarks/results/python_versions.json is the result; the exit status is 1 if a test failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENTS = {
    "oldest": ("3.10", "highest"),
    "newest": ("3.14", "highest"),
    "lowest": ("3.10", "lowest-direct"),
}
"""By name, the Python and how uv resolves the dependencies."""
SHOWN = ("torch", "torchvision", "lightning", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "pillow", "timm")


def build(folder: Path, python: str, resolution: str) -> dict[str, str]:
    """Make an environment; returns the versions of some packages."""
    uv = shutil.which("uv")
    if uv is None:
        raise SystemExit("error: uv is missing: pip install uv")
    environment = {**os.environ, "VIRTUAL_ENV": str(folder)}
    if not folder.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", python, str(folder)], check=True)
    line = [uv, "pip", "install", "--quiet", "--resolution", resolution, "--editable", f"{REPOSITORY}[test]"]
    subprocess.run(line, check=True, env=environment)
    listed = subprocess.run(
        [uv, "pip", "list", "--format=json"], check=True, env=environment, capture_output=True, text=True
    )
    versions = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    return {name: versions[name] for name in SHOWN}


def run_tests(folder: Path, tests: list[str], jobs: int, warnings: str) -> tuple[int, dict[str, int]]:
    """Exit status of pytest, and how many tests passed, failed and were skipped."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(folder), "PYTHONPATH": str(REPOSITORY)}
    line = [str(folder / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    line += ["-o", "filterwarnings=default"] if warnings == "default" else []
    line += ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
    done = subprocess.Popen([*line, *tests], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.stdout is not None
    last = ""
    for text in done.stdout:
        sys.stdout.write(text)
        last = text if text.strip() else last
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?|xfailed)", last)}
    return done.wait(), counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(ENVIRONMENTS)} (default: all)")
    parser.add_argument("--python", help="path or number of a Python to use instead")
    parser.add_argument("--tests", nargs="*", default=[], help="files and folders of tests (default: all)")
    parser.add_argument("--folder", type=Path, help="keep the environments here (default: a temporary folder)")
    parser.add_argument("--jobs", type=int, default=2, help="processes that run tests")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/results/python_versions.json")
    options = parser.parse_args()
    unknown = set(options.names) - ENVIRONMENTS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(ENVIRONMENTS)}")
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    failed = False
    for name in options.names or ENVIRONMENTS:
        python, resolution = ENVIRONMENTS[name]
        with contextlib.nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as place:
            folder = Path(place).absolute() / name
            versions = build(folder, options.python or python, resolution)
            number = subprocess.run([folder / "bin" / "python", "-V"], check=True, capture_output=True, text=True)
            started = time.perf_counter()
            warnings = "default" if name == "lowest" else "error"
            status, counts = run_tests(folder, options.tests, options.jobs, warnings)
        failed |= status != 0
        results[name] = {
            "python": number.stdout.split()[1],
            "resolution": resolution,
            "packages": versions,
            "tests": options.tests or "all",
            "warnings": warnings,
            "counts": counts,
            "exit_status": status,
            "minutes": round((time.perf_counter() - started) / 60, 1),
        }
        print(name, json.dumps(results[name]), flush=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
