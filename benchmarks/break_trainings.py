"""Faults under a training other than kills: `python benchmarks/break_trainings.py --runs FOLDER`.

A full disk while a checkpoint is written, folders that vanish, a loader process that dies, data that change or go away,
and divergence. The training goes on to the weights of an undisturbed run, or it ends with an error that names the
cause; once the cause is mended, it resumes to these weights, bit for bit. benchmarks/results/break_trainings.json is
its result. As root on Linux the full disk is a small file system in memory; otherwise that fault is left out.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from kill_trainings import WAITING, Case, cases, differences, end_of, finish, often, start_all, warm_up
from PIL import Image
from sklearn.datasets import load_digits

from metaad_zoo.atomic_write import write_whole
from metaad_zoo.evaluation.protocol import environment

MIB = 2**20


@dataclass(frozen=True)
class Fault:
    """What is done to a training.

    Args:
        moment: where the process waits while it is done, see kill_trainings.MOMENTS; "halt": at the start of a step.
        count: how often the moment has to come.
        harm: does it; gets the folder of runs and the process's number.
        mend: undoes it.
        error: part of the message that the training has to end with; None: it goes on to the same end.
        at_resume: whether the error comes when the training, which is killed at the moment, is resumed.
        arguments: further command line.
    """

    moment: str
    count: int
    harm: Callable[[Path, int], None]
    mend: Callable[[Path], None] = lambda runs: None
    error: str | None = None
    at_resume: bool = False
    arguments: tuple[str, ...] = ()


def fill(runs: Path, pid: int) -> None:
    """Write to a file system until nothing fits."""
    with (runs / "filler").open("wb", buffering=0) as file:
        for size in (MIB // 4, 1024, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def remove(*names: str) -> Callable[[Path, int], None]:
    """Remove a folder of the run."""
    return lambda runs, pid: shutil.rmtree(Path(runs, "quickstart", "run", *names))


def kill_loader(runs: Path, pid: int) -> None:
    """SIGKILL to a loader process of a training."""
    children = [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    os.kill(children[0], signal.SIGKILL)


def write_pictures(root: Path) -> None:
    """Folders of scikit-learn's digits."""
    digits = load_digits()
    for kind in range(8):
        (root / str(kind)).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(digits.images[digits.target == kind][:30]):
            Image.fromarray((image * 15.9).astype("uint8")).save(root / str(kind) / f"{i:02}.png")


def faults(pictures: Path) -> dict[str, Fault]:
    """All faults by name."""
    own = (f"--data.root={pictures}", "--data.dataset=own", "--data.camera=null", "--data.finer_tasks=0")
    own += ("--data.splits={train: ['0', '1', '2', '3'], val: ['4', '5'], test: ['6', '7']}",)

    def whole(runs: Path) -> None:
        write_pictures(pictures)

    def change(runs: Path, pid: int) -> None:
        shutil.copy(pictures / "7" / "00.png", pictures / "1" / "00.png")

    def go_away(runs: Path, pid: int) -> None:
        shutil.rmtree(pictures / "2")

    changed = "the data changed within an epoch"
    return {
        "disk full while a checkpoint is written": Fault(
            "opened", 3, fill, lambda runs: (runs / "filler").unlink(), "no space left on the disk"
        ),
        "checkpoint folder removed between checkpoints": Fault("halt", 8, remove("checkpoints")),
        "checkpoint folder removed while one is written": Fault(
            "half", 4, remove("checkpoints"), error="last.ckpt can't be written (No such file"
        ),
        "folder of the run removed": Fault("halt", 8, remove()),
        "loader process killed": Fault(
            "halt", 8, kill_loader, error="a loader process died", arguments=("--data.num_workers=1",)
        ),
        "image changed in mid-run": Fault("halt", 8, change, whole, arguments=own),
        "image changed before the resumption": Fault("halt", 5, change, whole, changed, True, own),
        "class gone in mid-run": Fault("halt", 8, go_away, whole, arguments=own),
        "class gone before the resumption": Fault("halt", 8, go_away, whole, "", True, own),
        "learning rate of 1e30": Fault(
            "halt",
            1,
            lambda runs, pid: None,
            error="at outer step 1, ",
            arguments=("--model.optimizer.init_args.lr=1e30",),
        ),
    }


def run_fault(base: Case, fault: Fault, runs: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Do it to one training, resume, and compare."""
    case = Case(base.learner, base.engine, base.processes, (*base.arguments, *fault.arguments))
    outcome: dict[str, Any] = {}
    processes = start_all(case, runs, False, fault.moment, fault.count)
    while (report := os.read(processes[0].reports, 1)) and report != WAITING:
        pass
    fault.harm(runs, processes[0].pid)
    if fault.at_resume:
        processes[0].send(signal.SIGKILL)
    processes[0].release()
    (outcome["exit_code"],) = finish(processes)
    if fault.at_resume:
        (outcome["exit_code"],) = finish(start_all(case, runs, True))
    text = (runs / "log.txt").read_text(errors="replace") if (runs / "log.txt").exists() else ""
    outcome["message"] = next((line for line in reversed(text.splitlines()) if line.startswith("error: ")), "")
    fault.mend(runs)
    wanted = fault.error is not None
    outcome["as_wanted"] = bool(outcome["exit_code"]) == wanted and (fault.error or "") in outcome["message"]
    outcome["traceback"] = "Traceback" in text
    if "1e30" in str(fault.arguments):
        return outcome
    if wanted:
        resume = (runs / "quickstart" / "run" / "checkpoints" / "last.ckpt").is_file()
        if not resume:
            shutil.rmtree(runs / "quickstart", ignore_errors=True)
        outcome["resumed"] = resume
        (outcome["exit_code_after"],) = finish(start_all(case, runs, resume))
    end = end_of(runs / "quickstart" / "run")
    if end["best"] == "removed":  # the model is that of the last step, which is noted
        end, expected = ({**state, "best": None, "model": None} for state in (end, expected))
        outcome["noted"] = "was removed during the training" in (runs / "log.txt").read_text(errors="replace")
    outcome["differences"] = list(differences(expected, end))[:10]
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs, removed at the end")
    parser.add_argument("--only", nargs="+", help="words in the names of faults")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    often()
    warm_up()
    (base,) = (case for case in cases(1) if case.learner == "protonet")
    expected: dict[tuple[str, ...], dict[str, Any]] = {}
    results: dict[str, Any] = {"environment": environment("cpu"), "faults": {}}
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder, "pictures")
        for name, fault in faults(pictures).items():
            if args.only and not any(word in name for word in args.only):
                continue
            write_pictures(pictures)
            disk = name.startswith("disk full")
            runs = args.runs / ("disk" if disk else "run")
            runs.mkdir(parents=True)
            if disk and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", str(runs)]).returncode:
                continue
            data = tuple(a for a in fault.arguments if a.startswith("--data") and "num_workers" not in a)
            if data not in expected:
                undisturbed = Case(base.learner, base.engine, 1, (*base.arguments, *data))
                finish(start_all(undisturbed, args.runs / "undisturbed", False))
                expected[data] = end_of(args.runs / "undisturbed" / "quickstart" / "run")
                shutil.rmtree(args.runs / "undisturbed")
            results["faults"][name] = run_fault(base, fault, runs, expected[data])
            print(name, json.dumps(results["faults"][name]), flush=True)
            if disk:
                subprocess.run(["umount", str(runs)], check=True)
            shutil.rmtree(runs)
            if args.json:
                write_whole(args.json, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
