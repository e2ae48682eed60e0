"""`metaad evaluate`: any number of methods on the same episodes, judged alike, with every score kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress

from metaad_zoo.cli.conclude import TABLE_WIDTH, refuse_seen
from metaad_zoo.cli.contestants import data_of_config, folders_of, names_of, own_data, refuse_other_shapes
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.episodes import Episode, Method
from metaad_zoo.evaluation.baselines import create_baseline
from metaad_zoo.evaluation.decisions import Always, Calibrator, WithinTask
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.plots import episode_figure
from metaad_zoo.evaluation.protocol import (
    LEAST_TASKS,
    across_tasks,
    environment,
    evaluate,
    flags_everything,
    interval,
)
from metaad_zoo.evaluation.report import results_table, write_json
from metaad_zoo.evaluation.scores import Scored, ScoreFile
from metaad_zoo.learners import Learner
from metaad_zoo.zoo import load_checkpoint

LEAST_EPISODES = 600
Calibration = Literal["across", "within"]


@dataclass(frozen=True)
class Settings:
    """What is asked of an evaluation.

    Args:
        methods: folders of models or runs, and names of baselines.
        data: a config with a ``data`` section, such as a run's, or a user's own files.
        out: folder for the results.
        episodes: on the test tasks; None: 600, or one of each task where there are more.
        shots: normal support samples; None as the data's config says. More than one number: a curve over all of them,
            the first one's figures in the table.
        alpha: false-alarm rate to aim at.
        calibrate: ``"across"`` the validation tasks, or ``"within"`` each support set; None: across where there are
            validation tasks.
        seed: of the episodes of a user's own files.
    """

    methods: Sequence[str]
    data: Path
    out: Path
    episodes: int | None = None
    shots: Sequence[int] | None = None
    alpha: float = 0.1
    calibrate: Calibration | None = None
    seed: int = 0


def run_evaluation(settings: Settings) -> dict[str, Any]:
    """Evaluate, print the table, and write ``results.json`` and ``scores.parquet``.

    Raises:
        ValueError: a method or the data can't be read; they do not fit together; or the evaluation would not be honest:
            a model has seen test classes or domains, or there are too few tasks for an interval.
    """
    console = Console()
    learners = {name: load_checkpoint(folder) for name, folder in folders_of(settings.methods).items()}
    data = _open(settings, [c.learner for c in learners.values()])
    for name, checkpoint in learners.items():
        refuse_other_shapes(name, checkpoint.learner, data)
        refuse_seen(data, checkpoint.trained_on)
    methods: dict[str, Method] = {
        name: learners[name].learner if name in learners else create_baseline(name)
        for name in names_of(settings.methods)
    }
    tasks = len(data.pools["test"])
    if tasks < LEAST_TASKS:
        raise ValueError(
            f"{settings.data} has {tasks} test tasks: an interval over fewer than {LEAST_TASKS} tells nothing of other "
            "tasks; give more classes, files or domains"
        )
    n = settings.episodes or max(LEAST_EPISODES, tasks)
    calibrate = settings.calibrate or ("across" if "val" in data.pools else "within")
    _check_before_work(settings, data, methods, calibrate)
    settings.out.mkdir(parents=True, exist_ok=True)
    extremes = _Extremes(next(iter(methods)))
    with Progress(console=console, transient=True) as progress:
        calibrators = _calibrators(methods, data, calibrate, progress)
        bar = progress.add_task("unseen tasks", total=n)
        with ScoreFile(settings.out / "scores.parquet") as record:

            def keep(row: Scored) -> None:
                record(row)
                extremes(row)

            figures = evaluate(
                methods, data.episodes("test", n), calibrators, settings.alpha, lambda: progress.advance(bar), keep
            )
        curves = _shots_curve(methods, data, settings.shots, progress) if len(settings.shots or ()) > 1 else {}
    results = {
        "protocol": _protocol(settings, data, methods, n, calibrate, {k: c.trained_on for k, c in learners.items()}),
        "methods": figures,
        "curves": curves,
        "environment": environment("cpu"),
    }
    write_json(settings.out / "results.json", results)
    if set(data.input_shapes) == {"image"}:
        extremes.draw(settings.out, data)
    (console if console.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)).print(results_table(results))
    console.print(f"Figures and every score: {settings.out}", soft_wrap=True)
    return results


def _check_before_work(
    settings: Settings, data: EpisodeDataModule, methods: Mapping[str, Method], calibrate: Calibration
) -> None:
    """Refuse what would fail later: a method that can't adapt to so few shots, a rate that can't be held.

    Raises:
        ValueError: as said.
    """
    spec = data.test_episode
    least = 1 / (spec.support_normal + 1)
    if not 0 < settings.alpha < 1 or (calibrate == "within" and settings.alpha < least):
        raise ValueError(
            f"alpha is {settings.alpha}; inside a support set of {spec.support_normal} normal samples no rate below "
            f"{least:.3f} can be held: raise --alpha or --shots, or --calibrate across"
        )
    for k in settings.shots or [spec.support_normal]:
        data.test_episode = replace(spec, support_normal=k)
        episode = next(data.episodes("test", 1))
        for method in methods.values():
            method.adapt(episode.support, episode.support_labels)
    data.test_episode = spec


class _Extremes:
    """Remembers the episodes on which a method did best and worst."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._best: tuple[float, Scored] | None = None
        self._worst: tuple[float, Scored] | None = None

    def __call__(self, row: Scored) -> None:
        if row.method != self._method:
            return
        value = auroc(row.scores, row.labels)
        if self._best is None or value > self._best[0]:
            self._best = (value, row)
        if self._worst is None or value < self._worst[0]:
            self._worst = (value, row)

    def draw(self, out: Path, data: EpisodeDataModule) -> None:
        """Write both as ``best`` and ``worst``, each as ``.png`` and ``.svg``."""
        sampler = data.sampler("test")
        for name, found in {"best": self._best, "worst": self._worst}.items():
            if found is not None:
                row = found[1]
                passed = row.scores[~row.flagged]  # a threshold for the picture, where each task may have its own
                threshold = float(passed.max()) if len(passed) else float("-inf")
                figure = episode_figure(sampler.episode(0, row.episode), row.scores, threshold)
                for kind in ("png", "svg"):
                    figure.savefig(out / f"{name}.{kind}", dpi=120)


def _open(settings: Settings, learners: Sequence[Learner]) -> EpisodeDataModule:
    """The data, with the episodes that are asked for."""
    is_config = settings.data.suffix in (".yaml", ".yml")
    data = data_of_config(settings.data) if is_config else own_data(settings.data, learners, settings.seed)
    if settings.shots:
        data.test_episode = replace(data.test_episode, support_normal=settings.shots[0])
    data.sampler("test")
    return data


def _calibrators(
    methods: Mapping[str, Method], data: EpisodeDataModule, calibrate: Calibration, progress: Progress
) -> dict[str, Calibrator]:
    if calibrate == "within":
        return {n: Always() if flags_everything(m) else WithinTask(m) for n, m in methods.items()}
    bar = progress.add_task("validation tasks", total=len(methods))
    return across_tasks(methods, list(data.calibration()), lambda: progress.advance(bar))


def _shots_curve(
    methods: Mapping[str, Method], data: EpisodeDataModule, shots: Sequence[int] | None, progress: Progress
) -> dict[str, Any]:
    """Mean AUROC of each method by the number of normal support samples, over at most 200 episodes each."""
    values = sorted(set(shots or ()))
    bar = progress.add_task("shots", total=len(values))
    by_method: dict[str, dict[str, list[Any]]] = {name: {"mean": [], "ci95": []} for name in methods}
    spec = data.test_episode
    for k in values:
        data.test_episode = replace(spec, support_normal=k)
        episodes = list(data.episodes("test", max(200, len(data.pools["test"]))))
        for name, method in methods.items():
            tasks = _auroc_by_task(method, episodes)
            by_method[name]["mean"].append(float(tasks.mean()))
            by_method[name]["ci95"].append(interval(tasks))
        progress.advance(bar)
    data.test_episode = spec
    return {"shots": {"values": values, "methods": by_method}}


def _auroc_by_task(method: Method, episodes: Sequence[Episode]) -> np.ndarray:
    found: dict[str, list[float]] = {}
    for e in episodes:
        scores = method.adapt(e.support, e.support_labels).score(e.query).cpu()
        found.setdefault(e.task, []).append(auroc(scores, e.query_labels))
    return np.array([np.mean(values) for values in found.values()])


def _protocol(
    settings: Settings,
    data: EpisodeDataModule,
    methods: Mapping[str, Method],
    episodes: int,
    calibrate: Calibration,
    trained_on: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Every choice that fixes the figures."""
    across = (
        f"{1 - settings.alpha:.0%} conformal over the normal queries of {data.calibration_episodes} validation episodes"
    )
    within = "leave-one-out conformal inside each support set"
    return {
        "data": data.description(),
        "split": "test",
        "episodes": episodes,
        "tasks": len(data.pools["test"]),
        "episode": data.test_episode.as_dict(),
        "alpha": settings.alpha,
        "threshold": across if calibrate == "across" else within,
        "intervals": "95 % BCa bootstrap over tasks; differences paired by task, Wilcoxon signed-rank",
        "seed": data.seed,
        "trained_or_chosen_on": dict(trained_on),
        "methods": {n: m.arguments() if isinstance(m, Learner) else vars(m) for n, m in methods.items()},
    }
