"""Results of several trainings as one: of a sweep, and of runs of one name in an evaluation."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metaad_zoo.evaluation.report import write_json
from metaad_zoo.evaluation.saved import read_results
from metaad_zoo.evaluation.trainings import INTERVALS, difference_over_trainings, join_trainings
from metaad_zoo.experiment.sweep import Sweep, Training, short_keys
from metaad_zoo.experiment.training_config import SEEDS, flat_settings, read_config, with_defaults

ByTraining = Mapping[str, Mapping[str, Any]]
"""A method's results by the name of each training."""


def write_sweep(trainings: Sequence[Training], sweep: Sweep) -> tuple[dict[str, Any], Path]:
    """Join the results of finished trainings, and write them.

    The file is ``<runs>/<name>/sweep/results.json`` or, of a grid over ``lr``, ``<runs>/<name>/sweep,lr/results.json``.

    Args:
        trainings: all trainings of the sweep.
        sweep: what varies between them.

    Returns:
        The results, and their folder.
    """
    results = sweep_results(trainings, sweep)
    config = trainings[0].config
    folder = Path(config["runs"]) / config["name"] / ",".join(["sweep", *short_keys(sweep.grid).values()])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results)
    return results, folder


def sweep_results(trainings: Sequence[Training], sweep: Sweep) -> dict[str, Any]:
    """Results of a sweep as those of an evaluation: a method for each setting, then those that all settings share.

    Raises:
        ValueError: a training has no results.
    """
    by_setting: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for training in trainings:
        by_setting[training.setting][f"seed {training.seed}"] = read_results(training.folder)
    runs = [results for group in by_setting.values() for results in group.values()]
    first = runs[0]
    learner, *names = first["methods"]
    methods: dict[str, ByTraining] = {
        setting or learner: {seed: next(iter(results["methods"].values())) for seed, results in group.items()}
        for setting, group in by_setting.items()
    }
    if len(by_setting) == 1:
        (group,) = by_setting.values()
        methods |= {method: {seed: results["methods"][method] for seed, results in group.items()} for method in names}
    else:
        shared = [m for m in names if all(_same(r["methods"].get(m), first["methods"][m]) for r in runs)]
        methods |= {method: {"all trainings": first["methods"][method]} for method in shared}
    own = ("learner", "weights", "seed", "trained_or_chosen_on", "intervals")
    protocol = {key: value for key, value in first["protocol"].items() if key not in own} | {
        "trainings": len(trainings) // len(by_setting),
        "seeds": [training.seed for training in trainings if training.setting == trainings[0].setting],
        "grid": {key: list(values) for key, values in sweep.grid.items()},
        "runs": {training.name: str(training.folder) for training in trainings},
        "intervals": INTERVALS,
    }
    return {"protocol": protocol, "methods": join_methods(methods), "environment": first["environment"]}


def _same(method: Mapping[str, Any] | None, first: Mapping[str, Any]) -> bool:
    return method is not None and method["tasks"] == first["tasks"]


def join_methods(methods: Mapping[str, ByTraining]) -> dict[str, Any]:
    """Results of each method over its trainings, with differences in AUROC to the first one if tasks are the same."""
    joined = {name: join_trainings(trainings) for name, trainings in methods.items()}
    tasks = {name: [task["task"] for task in figures["tasks"]] for name, figures in joined.items()}
    first, *_ = methods
    for name, trainings in methods.items():
        if all(names == tasks[first] for names in tasks.values()):
            joined[name]["auroc_behind_first"] = difference_over_trainings(methods[first], trainings)
    return joined


def join_runs(figures: Mapping[str, Mapping[str, Any]], folders: Sequence[str]) -> dict[str, Any]:
    """The methods of an evaluation, with runs of one name as one method.

    Runs are joined that lie in one folder and whose configs differ in their seeds alone; of two with the same seeds,
    the second stays a method of its own.

    Args:
        figures: results of each method, in the order of ``folders``.
        folders: what the user named each method by.

    Returns:
        ``{"joined": {"methods": ..., "intervals": ...}}``, or {} where there are no runs to join.
    """
    groups: dict[tuple[Path, str], dict[tuple[Any, ...], str]] = defaultdict(dict)
    for method, folder in zip(figures, folders, strict=True):
        config = read_config(Path(folder)) if (Path(folder) / "model").is_dir() else None
        if config is not None:
            settings = flat_settings(with_defaults(config))
            seeds = tuple(settings.pop(key, None) for key in SEEDS)
            key = (Path(folder).resolve().parent, json.dumps(settings, sort_keys=True, default=str))
            groups[key].setdefault(seeds, method)
    several = {key: list(members.values()) for key, members in groups.items() if len(members) > 1}
    if not several:
        return {}
    owner = {
        member: f"{_shared_name(key, several)} ({len(members)} trainings)"
        for key, members in several.items()
        for member in members
    }
    methods: dict[str, dict[str, Any]] = defaultdict(dict)
    for method, result in figures.items():
        methods[owner.get(method, method)][method] = result
    return {"joined": {"methods": join_methods(methods), "intervals": INTERVALS}}


def _shared_name(key: tuple[Path, str], groups: Iterable[tuple[Path, str]]) -> str:
    """Name of the runs' folder; numbered where it holds runs of several settings."""
    numbers = [settings for folder, settings in groups if folder == key[0]]
    number = f" {numbers.index(key[1]) + 1}" if len(numbers) > 1 else ""
    return f"{key[0].name}{number}"
