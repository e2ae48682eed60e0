"""From a clean clone to a first detector outside the repository: `python benchmarks/wheel_quickstart.py`.

Clones the committed state, builds the wheel, compares its files with those of the repository, installs it with its
dependencies (pinned by .ci/constraints.txt) into a new virtual environment, and runs there, in an empty folder and
without the repository on the path, what PACKAGE.md proposes: the quickstart training, adapting its model, and `metaad
detect` on a table. Needs about 7 GB in the temporary folder. benchmarks/results/wheel_quickstart.json is the result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
INSIDE = {"metaad_zoo/": "metaad_zoo/", "configs/": "metaad_zoo/_configs/", "checkpoints/": "metaad_zoo/_checkpoints/"}
"""By folder of the repository, its folder in the wheel."""
NOT_INSIDE = ("checkpoints/README.md",)
"""Overview of the folder, for readers of the repository."""
STEPS = (
    "train quickstart",
    "adapt {run} --support good --out mine",
    "score mine --data new --out scores.csv",
    "detect --support good.csv --data new.csv --out result",
)
"""Arguments of `metaad`; {run} is the folder of the training."""
WRITE = """
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_wine
from pathlib import Path
digits = load_digits()
for part, images in (("good", digits.images[digits.target == 7][:5]), ("new", digits.images[:40])):
    Path(part).mkdir()
    for i, image in enumerate(images):
        Image.fromarray((image * 15).astype(np.uint8)).save(f"{part}/{i:02}.png")
wine = load_wine()
for part, rows in (("good", wine.data[:20]), ("new", wine.data[20:90])):
    np.savetxt(f"{part}.csv", rows, "%.5f", ",", header=",".join(wine.feature_names), comments="")
"""


def compare(wheel: Path, clone: Path) -> int:
    """Require that a wheel has the files that git knows and no others; returns their number."""
    listed = subprocess.run(["git", "ls-files", *INSIDE], cwd=clone, check=True, capture_output=True, text=True)
    names = set(listed.stdout.splitlines()) - set(NOT_INSIDE)
    expected = {
        inside + name.removeprefix(folder)
        for folder, inside in INSIDE.items()
        for name in names
        if name.startswith(folder)
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    if packed != expected:
        raise SystemExit(f"error: missing {sorted(expected - packed)}, not expected {sorted(packed - expected)}")
    return len(packed)


def run(line: list[str | Path], folder: Path, environment: dict[str, str]) -> None:
    """Run a command.

    Raises:
        SystemExit: it fails; with the end of its output.
    """
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    text = " ".join(Path(line[0]).name if i == 0 else str(word) for i, word in enumerate(line))
    print(f"{text[:100]}: exit status {done.returncode}", flush=True)
    if done.returncode:
        raise SystemExit(f"error: {text}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/results/wheel_quickstart.json")
    options = parser.parse_args()
    hidden = ("PYTHONPATH", "METAAD_REPO", "METAAD_DATA")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"OMP_NUM_THREADS": "1", "PIP_CONSTRAINT": str(REPOSITORY / ".ci" / "constraints.txt")}
    with tempfile.TemporaryDirectory() as place:
        room = Path(place)
        clone, empty, bin_folder = room / "clone", room / "empty", room / "venv" / "bin"
        empty.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", clone], room, environment)
        (wheel,) = room.glob("*.whl")
        names = compare(wheel, clone)
        venv.create(room / "venv", with_pip=True)
        run([bin_folder / "pip", "install", "-q", "--no-compile", wheel], room, environment)
        run([bin_folder / "python", "-c", WRITE], empty, environment)
        for step in STEPS:
            folder = next(empty.glob("runs/quickstart/*"), empty).relative_to(empty)
            run([bin_folder / "metaad", *step.format(run=folder).split()], empty, environment)
        rows = len((empty / "scores.csv").read_text().splitlines()) - 1
        report = (empty / "result" / "report.html").is_file()
    result = {
        "python": sys.version.split()[0],
        "files_in_wheel": names,
        "commands": [f"metaad {step.partition(' ')[0]}" for step in STEPS],
        "scores_written": rows,
        "report_written": report,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if rows == 40 and report else 1


if __name__ == "__main__":
    raise SystemExit(main())
