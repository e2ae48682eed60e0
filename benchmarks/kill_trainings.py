"""Trainings that are killed and resumed: `python benchmarks/kill_trainings.py --runs FOLDER --temporary FOLDER`.

Trainings of every learner and both inner-loop engines, in one process and in two, are stopped by SIGKILL or SIGTERM at
random moments, half of them inside the writing of a checkpoint, and some a second time. Each is resumed by
`--ckpt_path last` and must end with the weights, optimiser and model of an undisturbed run, bit for bit. The temporary
folder and the folder of runs should be on different file systems. benchmarks/results/kill_trainings.json is its result.

A server imports everything once and forks a process for each training, so that a trial takes seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from matplotlib import pyplot
from torch import Tensor

from metaad_zoo.atomic_write import write_whole
from metaad_zoo.cli import train as training_command
from metaad_zoo.evaluation.protocol import environment
from metaad_zoo.experiment.whole_checkpoints import LastCheckpoint
from metaad_zoo.learners import GradientLearner, learner_class, list_learners
from metaad_zoo.learners import training as lightning_training

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = REPOSITORY / "configs"
EVERY = 3
"""Optimiser steps between checkpoints; `train.py` takes 50."""
STEPS, EPOCHS = 6, 2
SHORT = [
    f"--data.episodes_per_epoch={2 * STEPS}",
    "--data.tasks_per_batch=2",
    "--data.val_episodes=2",
    "--data.calibration_episodes=3",
    "--data.calibration_shots=[5]",
    "--data.test_episodes=2",
    "--data.episode.query_normal=4",
    "--data.episode.query_anomalous=4",
    "--model.backbone_options={width: 4}",
    f"--trainer.max_epochs={EPOCHS}",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.num_sanity_val_steps=0",
]
PATCHES = {"patch_change": "PatchChange", "patch_metric": "PatchMetric"}
UNTRAINED = ("patch_memory",)
MOMENTS = ("step", "opened", "half", "renaming")
"""Where a signal arrives: at a random moment near a random step; or when a checkpoint's file is opened, half written,
or about to be renamed."""
WAITING = b"w"
PATIENCE = 600.0
"""Seconds after which a process counts as hanging."""


@dataclass(frozen=True)
class Case:
    """A kind of training.

    Attributes:
        learner: name of the learner.
        engine: inner-loop engine; "" for learners without inner loop.
        processes: number of processes under DDP (gloo on the CPU).
        arguments: command line of `train.py fit`.
    """

    learner: str
    engine: str
    processes: int
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Readable and a folder's name."""
        return "-".join(filter(None, [self.learner, self.engine, f"{self.processes}p"]))


@dataclass
class Trial:
    """What happened to one training that was stopped.

    Attributes:
        stops: of each stop the moment, the step that had begun, and the exit codes of the processes.
        resumed_at: optimiser step of the checkpoint that each resumption took; 0: there was none yet.
        differences: what differs from the undisturbed run.
        faults: other faults, such as a half-written file, or a process that hangs.
    """

    case: str
    signal: str
    stops: list[dict[str, Any]] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def cases(processes: int) -> Iterator[Case]:
    """Every learner that is trained, with each engine that it has; with two processes, one of each kind."""
    two = ["--config", str(CONFIGS / "trainer" / "ddp_cpu.yaml")] if processes == 2 else []
    for learner in list_learners():
        if learner in UNTRAINED:
            continue
        overlay = CONFIGS / "learners" / f"{learner}.yaml"
        own = ["--config", str(overlay)] if overlay.is_file() and learner not in PATCHES else []
        if learner in PATCHES:
            own = [f"--model=metaad_zoo.learners.{PATCHES[learner]}", "--model.backbone=conv4"]
        for engine in ("higher", "vectorized") if issubclass(learner_class(learner), GradientLearner) else ("",):
            choice = [f"--model.inner_loop.engine={engine}"] if engine else []
            line = ("fit", "--config", str(CONFIGS / "quickstart.yaml"), *own, *two, *choice, *SHORT)
            yield Case(learner, engine, processes, line)


class Beacons:
    """Reports of a training process to the server: steps that begin, and moments in the writing of checkpoints.

    At the moment that the server waits for, the process goes on only when the server says so.
    """

    def __init__(self, reports: int, orders: int, moment: str, count: int) -> None:
        self.reports, self.orders, self.moment, self.count = reports, orders, moment, count

    def report(self, moment: str) -> None:
        """Send the first letter of the moment, and :data:`WAITING` before a wait."""
        os.write(self.reports, moment[0].encode())
        if moment == self.moment or (moment, self.moment) == ("step", "halt"):
            self.count -= 1
            if self.count == 0 and self.moment != "step":
                os.write(self.reports, WAITING)
                os.read(self.orders, 1)

    def install(self) -> None:
        """Put the reports into training and writing."""
        step, write, replace = lightning_training._Training.training_step, Path.write_bytes, os.replace

        def training_step(module: Any, batch: Any, batch_idx: int) -> Any:
            self.report("step")
            return step(module, batch, batch_idx)

        def write_bytes(path: Path, content: Any) -> int:
            if not path.name.endswith(".part.ckpt"):
                return write(path, content)
            with path.open("wb") as file:
                self.report("opened")
                half = len(content) // 2
                file.write(content[:half])
                file.flush()
                self.report("half")
                return half + file.write(content[half:])

        def renamed(source: Any, target: Any, **options: Any) -> None:
            if str(source).endswith(".part.ckpt"):
                self.report("renaming")
            replace(source, target, **options)

        lightning_training._Training.training_step = training_step  # type: ignore[method-assign]
        Path.write_bytes = write_bytes  # type: ignore[assignment, method-assign]
        os.replace = renamed  # type: ignore[assignment]


@dataclass
class Process:
    """A forked training process."""

    pid: int
    reports: int
    orders: int
    code: int | None = None

    def wait(self, seconds: float) -> int | None:
        """Exit code, negative for a signal; None if it still runs after so many seconds."""
        end = time.monotonic() + seconds
        while self.code is None and time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.02)
        return self.code

    def release(self) -> None:
        """Let the process go on, if it still runs."""
        with suppress(BrokenPipeError):
            os.write(self.orders, b"g")

    def send(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self.wait(0.01) is None:
            os.kill(self.pid, number)


def start(arguments: Sequence[str], log: Path, rank: int, port: int, moment: str = "step", count: int = 0) -> Process:
    """Fork a training process; ``port`` is 0 for a training in one process."""
    reports, report_end = os.pipe()
    order_end, orders = os.pipe()
    pid = os.fork()
    if pid:
        os.close(report_end)
        os.close(order_end)
        return Process(pid, reports, orders)
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["train.py", *arguments]
        if port:
            _as_rank(rank, port)
        Beacons(report_end, order_end, moment, count).install()
        training_command.run(arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _as_rank(rank: int, port: int) -> None:
    """Make this process one of two, as torchrun does."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    sizes = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "kills"}
    os.environ |= {name: str(value) for name, value in {**sizes, **place}.items()}
    rank_zero_only.rank = rank


def start_all(case: Case, runs: Path, resume: bool, moment: str = "step", count: int = 0) -> list[Process]:
    """Start the processes of a training; the first one writes the checkpoints."""
    line = [*case.arguments, "--runs", str(runs), "--folder=run", *(["--ckpt_path=last"] if resume else [])]
    port = 0
    if case.processes == 2:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    runs.mkdir(parents=True, exist_ok=True)
    log = runs / "log.txt"
    return [start(line, log, rank, port, moment if rank == 0 else "step", count) for rank in range(case.processes)]


def finish(processes: Sequence[Process], trial: Trial | None = None) -> list[int]:
    """Exit codes of all processes; one that hangs is a fault."""
    codes = []
    for process in processes:
        code = process.wait(PATIENCE)
        if code is None:
            os.kill(process.pid, signal.SIGKILL)
            code = process.wait(PATIENCE)
            if trial is not None:
                trial.faults.append(f"a process still ran {PATIENCE:.0f} s after the signal")
        os.close(process.reports)
        os.close(process.orders)
        codes.append(-1 if code is None else code)
    return codes


def stop(processes: Sequence[Process], number: int, moment: str, count: int, rng: random.Random) -> dict[str, Any]:
    """Wait for the moment's ``count``-th occurrence, send the signal to one process or all, and tell what happened."""
    first, steps = processes[0], 0
    since, pace = time.monotonic(), 0.0
    while (report := os.read(first.reports, 1)) and report != WAITING:
        if report == b"s":
            steps, pace, since = steps + 1, time.monotonic() - since, time.monotonic()
        if moment == "step" and steps == count:
            break
    if moment == "step" and steps > 1:
        time.sleep(rng.uniform(0, 2) * min(pace, 1.0))
    targets = rng.choice([processes[:1], processes[-1:], processes])
    for process in targets:
        process.send(number)
    first.release()
    whom = "all" if len(targets) == len(processes) else f"rank {processes.index(targets[0])}"
    return {"moment": moment, "step": steps, "to": whom}


def torn_files(run: Path) -> list[str]:
    """Checkpoints that can't be read; those under a temporary name are never taken."""
    torn = []
    for path in (run / "checkpoints").glob("*.ckpt"):
        if ".part." in path.name:
            continue
        try:
            torch.load(path, weights_only=True)
        except Exception as error:  # whatever a torn file leads to
            torn.append(f"{path.name} can't be read: {type(error).__name__}")
    return torn


def step_of(run: Path) -> int:
    """Optimiser step of the newest checkpoint; 0 without one."""
    files = [path for path in (run / "checkpoints").glob("*.ckpt") if ".part." not in path.name]
    return max((int(torch.load(path, weights_only=True)["global_step"]) for path in files), default=0)


def end_of(run: Path) -> dict[str, Any]:
    """Everything in which a resumed run must equal an undisturbed one."""
    files = {path.stem: torch.load(path, weights_only=True) for path in (run / "checkpoints").glob("[lb]*t.ckpt")}
    last, best = files["last"], files.get("best", {"state_dict": "removed"})
    kept = ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "rng_state", "ImageEpisodes")
    model = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((run / "model").glob("*.safetensors"))))
    return {**{name: last[name] for name in kept}, "best": best["state_dict"], "model": model.hexdigest()}


def differences(a: Any, b: Any, name: str = "") -> Iterator[str]:
    """Paths of the values that differ between two nested states."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from differences(a[key], b[key], f"{name}.{key}".lstrip("."))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, pair in enumerate(zip(a, b, strict=True)):
            yield from differences(*pair, f"{name}.{i}")
    elif not (torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b):
        yield name


def stop_and_resume(case: Case, number: int, runs: Path, expected: dict[str, Any], rng: random.Random) -> Trial:
    """Stop a training once or twice, resume it to its end, and compare."""
    trial = Trial(case.name, signal.Signals(number).name)
    run = runs / "quickstart" / "run"
    for _ in range(1 + (rng.random() < 0.25)):
        moment = rng.choice(("step", rng.choice(MOMENTS[1:])))
        remaining = STEPS * EPOCHS - step_of(run)
        count = rng.randint(1, max(1, remaining if moment == "step" else remaining // EVERY))
        resume = step_of(run) > 0
        if not resume:
            shutil.rmtree(runs, ignore_errors=True)
        processes = start_all(case, runs, resume, moment, count)
        about = stop(processes, number, moment, count, rng)
        trial.stops.append({**about, "exit_codes": finish(processes, trial)})
        trial.faults += torn_files(run)
        trial.resumed_at.append(step_of(run))
    resume = trial.resumed_at[-1] > 0
    if not resume:
        shutil.rmtree(runs, ignore_errors=True)
    codes = finish(start_all(case, runs, resume), trial)
    if any(codes):
        text = (runs / "log.txt").read_text(errors="replace")
        trial.faults.append(f"the resumed training ended with {codes}: {text[-600:]}")
    else:
        trial.differences = list(differences(expected, end_of(run)))[:10]
    return trial


def measure(todo: Sequence[Case], runs: Path, trials: int, seed: int) -> Iterator[Trial]:
    """Trials of each case with both signals."""
    for case in todo:
        codes = finish(start_all(case, runs / "undisturbed", False))
        if any(codes):
            text = (runs / "undisturbed" / "log.txt").read_text(errors="replace")
            raise SystemExit(f"{case.name}: the undisturbed training ended with {codes}:\n{text[-3000:]}")
        expected = end_of(runs / "undisturbed" / "quickstart" / "run")
        for number in (signal.SIGKILL, signal.SIGTERM):
            for i in range(trials):
                rng = random.Random(f"{seed} {case.name} {number} {i}")
                yield stop_and_resume(case, number, runs / "stopped", expected, rng)
                shutil.rmtree(runs / "stopped")
        shutil.rmtree(runs / "undisturbed")


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """Counts by signal."""
    figures: dict[str, Any] = {}
    for name in sorted({trial.signal for trial in trials}):
        own = [trial for trial in trials if trial.signal == name]
        stops = [stop for trial in own for stop in trial.stops]
        figures[name] = {
            "trainings": len(own),
            "signals": len(stops),
            "moments": dict(Counter(stop["moment"] for stop in stops)),
            "exit_codes": dict(Counter(str(stop["exit_codes"][0]) for stop in stops)),
            "with_two_processes": sum("2p" in trial.case for trial in own),
            "learners_and_engines": len({trial.case for trial in own}),
            "other_end": sum(bool(trial.differences) for trial in own),
            "faults": sum(bool(trial.faults) for trial in own),
        }
    return figures


def often() -> None:
    """Write checkpoints every :data:`EVERY` steps."""
    original = LastCheckpoint.__init__

    def initialise(self: LastCheckpoint, **settings: Any) -> None:
        original(self, **{**settings, "every_n_train_steps": EVERY})

    LastCheckpoint.__init__ = initialise  # type: ignore[method-assign]


def warm_up() -> None:
    """Do in the server what every training would do again: imports, and the types of the command line."""
    with TemporaryDirectory() as folder:
        training_command.TrainingCLI([*next(cases(1)).arguments[1:], "--runs", folder], "fit")
        pyplot.subplots(2, 2)[0].suptitle("imports fonts").figure.savefig(Path(folder, "a.png"))
    pyplot.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs, removed at the end")
    parser.add_argument("--temporary", type=Path, required=True, help="temporary folder, on another file system")
    parser.add_argument("--trials", type=int, default=2, help="trials for each case and signal")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="*", help="names of learners; none: only --joined")
    parser.add_argument("--two", nargs="+", default=["maml", "reptile", "protonet", "imaml"], help="in two processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--joined", type=Path, nargs="+", default=[], help="results to add, such as of other learners")
    args = parser.parse_args()
    earlier = [json.loads(path.read_text()) for path in args.joined]
    for folder in (args.runs, args.temporary):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(args.temporary)
    torch.set_num_threads(1)
    todo = [case for processes in args.processes for case in cases(processes)]
    todo = [
        c for c in todo if (not args.only or c.learner in args.only) and (c.processes == 1 or c.learner in args.two)
    ]
    often()
    warm_up()
    other = args.runs.stat().st_dev != args.temporary.stat().st_dev
    other = other and all(results["temporary_folder_on_another_file_system"] for results in earlier)
    trials = [Trial(**trial) for results in earlier for trial in results["trials"]]

    def write() -> None:
        results = {
            "temporary_folder_on_another_file_system": other,
            "summary": summary(trials),
            "trials": [asdict(trial) for trial in trials],
            "environment": environment("cpu"),
        }
        if args.json:
            write_whole(args.json, json.dumps(results, indent=1) + "\n")

    write()
    for trial in measure(todo, args.runs, args.trials, args.seed):
        trials.append(trial)
        print(json.dumps(asdict(trial)), flush=True)
        write()
    shutil.rmtree(args.runs)
    print(json.dumps(summary(trials), indent=2))


if __name__ == "__main__":
    main()
