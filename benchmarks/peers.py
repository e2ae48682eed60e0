"""Beside other packages, on work that both can do: `python benchmarks/peers.py --folder ENVIRONMENTS`.

Each peer gets a virtual environment in the folder. It reuses the packages of the present environment, torch among them,
and adds the peer. `--python PEER=PATH` takes an environment that exists. The contests are in `peer_contests.py`; each
writes benchmarks/results/peer_PEER.json. Where a peer can't be installed, the file says why. METAAD_DATA names the
folder of omniglot28.npz, piped128.npz, adbench.npz and bank/.
"""

from __future__ import annotations

import argparse
import json
import os
import site
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from judging_tables import cell, head  # beside this script

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
PEERS = ("learn2learn", "easyfsl", "anomalib", "pyod")
LEARN2LEARN = "learn2learn==0.2.0"


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of the table on the page: a row a contestant, ours first.

    Args:
        results: contents of the result files.
    """
    lines = head("work", "method", "AUROC, %", "accuracy, %", "seconds", "time over ours", "memory, MiB")
    for result in results:
        if "error" in result:
            lines.append(f"| {result['peer']} | could not be installed: {result['error']} | | | | | |")
            continue
        work = f"{result['work']}; seconds of {result['seconds_of']}"
        for name, figures in result["contestants"].items():
            peer = f"{name} ({result['peer']} {result['environment'][result['peer']]})"
            cells = [work, name if name.startswith("metaad_zoo") else peer]
            cells += [
                cell(figures[m]["mean"], figures[m]["ci95"]) if m in figures else "" for m in ("auroc", "accuracy")
            ]
            cells += [f"{figures['seconds']:.2g}", f"{figures['over_first']:.2f}"]
            memory = f"{figures['memory_mib']:.0f}" if "memory_mib" in figures else ""
            lines.append(f"| {' | '.join([*cells, memory])} |")
            work = ""
    return lines


def make_environment(peer: str, folder: Path) -> Path:
    """A virtual environment with the peer on top of the packages of the present environment.

    Returns:
        Its Python.

    Raises:
        subprocess.CalledProcessError: the peer can't be installed.
    """
    place = folder / peer
    python = place / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", str(place))
        own = next(place.glob("lib/python*/site-packages"))
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (own / "present_environment.pth").write_text("\n".join(lines) + "\n")
    if peer == "learn2learn":
        install_learn2learn(str(python), place)
    else:
        run(str(python), "-m", "pip", "install", "-q", peer)
    return python


def install_learn2learn(python: str, place: Path) -> None:
    """Build the sources of 2023 with their C files made anew: those in the archive do not compile on Python 3.11."""
    run(python, "-m", "pip", "install", "-q", "cython<3", "setuptools", "wheel", "gym")
    run(python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:", "-d", str(place), LEARN2LEARN)
    (archive,) = place.glob("learn2learn-*.tar.gz")
    with tarfile.open(archive) as sources:
        sources.extractall(place, filter="data")
    folder = place / archive.name.removesuffix(".tar.gz")
    for generated in (folder / "learn2learn" / "data").glob("*.c"):
        generated.unlink()
    run(python, "setup.py", "-q", "build_ext", "bdist_wheel", cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    run(python, "-m", "pip", "install", "-q", "--no-deps", str(wheel))


def run(*command: str, cwd: Path | None = None) -> str:
    """Standard output of a command.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }
    return subprocess.run(command, cwd=cwd, env=environment, check=True, text=True, capture_output=True).stdout


def measure(peer: str, python: Path | None, folder: Path) -> dict[str, Any]:
    """Content of the result file of a peer."""
    if python is None:
        try:
            python = make_environment(peer, folder)
        except subprocess.CalledProcessError as error:
            return {"peer": peer, "error": error.stderr.strip().splitlines()[-1]}
    contest = REPOSITORY / "benchmarks" / "peer_contests.py"
    result: dict[str, Any] = json.loads(run(str(python), str(contest), peer).splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="peers to measure")
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="folder of the virtual environments")
    parser.add_argument("--python", nargs="+", default=[], metavar="PEER=PATH", help="Python of a peer's environment")
    options = parser.parse_args()
    pythons = dict(item.split("=", 1) for item in options.python)
    if unknown := sorted(set(pythons) - set(PEERS)):
        parser.error(f"--python {unknown[0]}=...: expected one of {', '.join(PEERS)}")
    for peer in options.only:
        try:
            result = measure(peer, Path(pythons[peer]) if peer in pythons else None, options.folder.resolve())
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"error: the contest with {peer} failed:\n{error.stderr}") from error
        (RESULTS / f"peer_{peer}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print("\n".join(table([result])), flush=True)


if __name__ == "__main__":
    main()
