"""Several trainings: seeds and a grid of settings, each in its own process and folder, resumed where they stopped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from metaad_zoo.experiment.training_config import difference, read_config

RESERVED = ("seed_everything", "data.train_seed", "data.init_args.train_seed", "name", "runs", "ckpt_path", "config")
State = Literal["new", "interrupted", "finished"]


@dataclass(frozen=True)
class Sweep:
    """What varies between the trainings.

    Args:
        seeds: seeds of each setting; None: that of the config.
        grid: values of each key; every combination is a setting.
        jobs: number of trainings at the same time.
    """

    seeds: Sequence[int] | None
    grid: Mapping[str, Sequence[str]]
    jobs: int = 1


@dataclass(frozen=True)
class Setting:
    """One combination of the grid.

    Args:
        label: such as ``lr=0.1,steps=3``; empty without a grid.
        arguments: overrides of the command line.
    """

    label: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Training:
    """One training of a sweep.

    Args:
        setting: label of its setting.
        seed: its seed.
        folder: where it writes to.
        arguments: command line after `metaad train`, but for ``--ckpt_path``.
        config: its resolved config.
    """

    setting: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``<name>/<folder>``, as `metaad evaluate` names it."""
        return "/".join(self.folder.parts[-2:])

    @property
    def has_checkpoint(self) -> bool:
        """Whether it has written a checkpoint, from which an interrupted training continues."""
        return any(".part." not in path.name for path in (self.folder / "checkpoints").glob("*.ckpt"))

    def state(self) -> State:
        """Whether it is finished, interrupted or new.

        Raises:
            ValueError: the folder holds a training with other settings.
        """
        config = read_config(self.folder)
        if config is not None:
            changed = difference(config, self.config)
            if changed is not None:
                key, before, now = changed
                raise ValueError(
                    f"the training in {self.folder} has {key}={before}, this command {now}: write to another name "
                    "(--name), or remove that folder"
                )
        if (self.folder / "results.json").is_file():
            return "finished"
        return "interrupted" if self.has_checkpoint else "new"


def settings_of(grid: Mapping[str, Sequence[str]]) -> list[Setting]:
    """All combinations of a grid; one without overrides where it is empty.

    Raises:
        ValueError: a key is not for a grid, or two combinations have one label.

    Example:
        >>> [setting.label for setting in settings_of({"model.inner_loop.lr": ["0.1", "0.3"], "model.order": ["1"]})]
        ['lr=0.1,order=1', 'lr=0.3,order=1']
    """
    reserved = [key for key in grid if key in RESERVED]
    if reserved:
        raise ValueError(
            f"--grid can't vary {reserved[0]}: seeds are given by --seeds, and each run has its own folder"
        )
    short = short_keys(grid)
    settings = []
    for values in product(*grid.values()):
        pairs = dict(zip(grid, values, strict=True))
        label = ",".join(f"{short[key]}={value}" for key, value in pairs.items())
        overrides = tuple(f"--{key}={value}" for key, value in pairs.items())
        settings.append(Setting(re.sub(r"[^\w.=,+-]+", "_", label), overrides))
    labels = [setting.label for setting in settings]
    if len(set(labels)) < len(labels):
        raise ValueError(f"--grid gives two settings one name: {sorted(labels)}; take values that differ in letters")
    return settings


def short_keys(grid: Iterable[str]) -> dict[str, str]:
    """The last part of each key, or the whole key where two keys have the same last part."""
    ends = {key: key.rpartition(".")[2] for key in grid}
    return {key: end if list(ends.values()).count(end) == 1 else key for key, end in ends.items()}


def plan(sweep: Sweep, arguments: Sequence[str], resolve: Callable[[Sequence[str]], dict[str, Any]]) -> list[Training]:
    """The trainings of a sweep, setting by setting, after every setting has been checked.

    Args:
        sweep: what varies.
        arguments: command line that all trainings share.
        resolve: checks a command line as a training does before its first step, and returns the resolved config.

    Raises:
        ValueError: the grid or a setting can't be trained.
    """
    trainings = []
    for setting in settings_of(sweep.grid):
        config = resolve([*arguments, *setting.arguments])
        name = ",".join(filter(None, [config["name"], setting.label]))
        seeds = [int(config["seed_everything"])] if sweep.seeds is None else sweep.seeds
        for seed in seeds:
            own = [f"--seed_everything={seed}", f"--name={name}"]
            resolved = {**config, "seed_everything": seed}
            if "train_seed" in config["data"]["init_args"]:
                own.append(f"--data.train_seed={seed}")
                resolved["data"] = {**config["data"], "init_args": {**config["data"]["init_args"], "train_seed": seed}}
            folder = Path(config["runs"]) / name / f"seed{seed}"
            line = (*arguments, *setting.arguments, *own, f"--folder={folder.name}")
            trainings.append(Training(setting.label, seed, folder, line, resolved))
    return trainings


def train_all(
    trainings: Sequence[Training], command: Sequence[str], jobs: int, tell: Callable[[str], None] = lambda line: None
) -> None:
    """Run the trainings that are not finished, each in a process of its own.

    One after the other they write to the terminal; several at the same time write to ``log.txt`` of their folders.

    Args:
        trainings: what to run; see :func:`plan`.
        command: command that trains, such as ``[python, "-m", "metaad_zoo.cli", "train"]``.
        jobs: number of processes.
        tell: called with a line of text when a training starts and ends.

    Raises:
        ValueError: a folder holds a training with other settings; nothing has been run then.
        ChildProcessError: trainings failed; those that follow have been run.
    """
    states = {training.folder: training.state() for training in trainings}
    finished = [training for training in trainings if states[training.folder] == "finished"]
    if finished:
        tell(f"{len(finished)} of {len(trainings)} trainings are finished: {', '.join(t.name for t in finished)}")
    waiting = [training for training in trainings if states[training.folder] != "finished"]
    processes = _Processes(command, min(jobs, max(len(waiting), 1)))
    with ThreadPoolExecutor(processes.jobs) as pool, _sigterm_as_exit():
        try:
            codes = list(pool.map(lambda t: processes.run(t, states[t.folder], tell), waiting))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            tell("stopped: the same command goes on from the last checkpoint of each training")
            raise
    failed = [training for training, code in zip(waiting, codes, strict=True) if code != 0]
    if failed:
        where = "their output is above" if jobs == 1 else "see log.txt in " + ", ".join(str(t.folder) for t in failed)
        raise ChildProcessError(
            f"{len(failed)} of {len(trainings)} trainings failed ({', '.join(t.name for t in failed)}): {where}; the "
            "same command goes on where they stopped"
        )


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Context in which SIGTERM ends this process by an exception, as Ctrl-C does, so that no training runs on alone."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Processes:
    """Processes of trainings, which can be stopped together."""

    def __init__(self, command: Sequence[str], jobs: int) -> None:
        self.command, self.jobs = list(command), jobs
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, training: Training, state: State, tell: Callable[[str], None]) -> int:
        """Run a training to its end; returns its exit code."""
        if self._stopped:
            return 1
        line = [*self.command, *training.arguments]
        if state == "interrupted":
            line.append("--ckpt_path=last")
        elif training.folder.exists():  # stopped before its first checkpoint
            shutil.rmtree(training.folder)
        tell(f"{training.name}: {'goes on from its last checkpoint' if state == 'interrupted' else 'starts'}")
        code = self._run(line, None if self.jobs == 1 else training.folder / "log.txt")
        if not self._stopped:
            tell(f"{training.name}: {'is finished' if code == 0 else f'failed (exit code {code})'}")
        return code

    def _run(self, line: Sequence[str], log: Path | None) -> int:
        environment = dict(os.environ)
        if log is None:
            return self._wait(subprocess.Popen(line, env=environment))
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.jobs)))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return self._wait(subprocess.Popen(line, env=environment, stdout=file, stderr=subprocess.STDOUT))

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        self._running.add(process)
        try:
            return process.wait()
        finally:
            self._running.discard(process)

    def stop(self) -> None:
        """Stop the running trainings; they keep their last checkpoints."""
        self._stopped = True
        for process in list(self._running):
            process.terminate()
