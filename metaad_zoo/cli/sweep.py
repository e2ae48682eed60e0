"""Several trainings by one command: `--seeds 0 1 2`, `--grid KEY=VALUE,VALUE` and `--jobs N`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from metaad_zoo.cli.terminal import NARROW, note, wide_console
from metaad_zoo.cli.train_arguments import arrange, take_grid, take_option, take_seeds
from metaad_zoo.evaluation.report import results_table
from metaad_zoo.experiment.sweep import Sweep, plan, train_all
from metaad_zoo.experiment.sweep_results import write_sweep

COMMAND = (sys.executable, "-m", "metaad_zoo.cli", "train")


def take_sweep(argv: Sequence[str]) -> tuple[Sweep | None, list[str]]:
    """Take ``--seeds``, ``--grid`` and ``--jobs`` out of a command line.

    Returns:
        The sweep, None for a single training, and the other arguments.

    Raises:
        ValueError: a value can't be read, or an option contradicts another one.
    """
    seeds, rest = take_seeds(argv)
    grid, rest = take_grid(rest)
    jobs, rest = take_option(rest, "--jobs")
    if seeds is None and not grid:
        if jobs is not None:
            raise ValueError("--jobs is for several trainings: add --seeds or --grid")
        return None, rest
    if jobs is not None and (not jobs.isdigit() or int(jobs) < 1):
        raise ValueError(f"--jobs {jobs}: expected a whole number of 1 or more")
    names = {token.partition("=")[0] for token in rest}
    verb, _ = arrange(rest)
    for option in ("--ckpt_path", "--folder", *(["--seed_everything"] if seeds is not None else [])):
        if option in names:
            raise ValueError(f"{option} is for a single training: leave it out with --seeds and --grid")
    if verb is not None:
        raise ValueError(f"--seeds and --grid train and test: leave out the verb {verb}")
    return Sweep(seeds, grid, 1 if jobs is None else int(jobs)), rest


def run_sweep(sweep: Sweep, arguments: Sequence[str], resolve: Callable[[Sequence[str]], dict[str, Any]]) -> None:
    """Train all that is not finished, then print and write one table.

    Args:
        sweep: what varies between the trainings.
        arguments: command line that they share.
        resolve: checks a command line and returns its resolved config.

    Raises:
        ValueError: a setting can't be trained, or a folder holds a training with other settings.
        ChildProcessError: trainings failed.
    """
    trainings = plan(sweep, arguments, resolve)
    train_all(trainings, COMMAND, sweep.jobs, note)
    results, folder = write_sweep(trainings, sweep)
    console = wide_console(NARROW)
    console.print(results_table(results))
    console.print(f"All figures, and those of each training: {folder / 'results.json'}", soft_wrap=True)
