"""`metaad evaluate`: any number of methods on the same episodes, judged alike, with every score kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.progress import Progress

from metaad_zoo.cli.contestants import contestants, data_of_config, described, own_data, refuse_unfit
from metaad_zoo.cli.curves import inner_steps_curve, shots_curve, steppers
from metaad_zoo.cli.honesty import make_up, number_of_episodes
from metaad_zoo.cli.terminal import bars, shown
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.episodes import DomainTaskPool, Method
from metaad_zoo.evaluation.decisions import Calibrator
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.plots import episode_figure
from metaad_zoo.evaluation.protocol import (
    across_tasks,
    environment,
    evaluate,
    within_tasks,
)
from metaad_zoo.evaluation.rates import RealisedRates
from metaad_zoo.evaluation.report import results_table, write_json
from metaad_zoo.evaluation.scores import Scored, ScoreFile, record_all
from metaad_zoo.learners import Learner

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
        seed: of the episodes of a user's own files; None: 0. A config has its own.
        modality: of a user's own files, where no model tells it.
        inner_steps: numbers of inner steps; None: as trained. A curve over them, of the methods that take gradient
            steps.
        allow_transductive: let batch normalisation take statistics over the queries.
    """

    methods: Sequence[str]
    data: Path
    out: Path
    episodes: int | None = None
    shots: Sequence[int] | None = None
    alpha: float = 0.1
    calibrate: Calibration | None = None
    seed: int | None = None
    modality: str | None = None
    inner_steps: Sequence[int] | None = None
    allow_transductive: bool = False


def run_evaluation(settings: Settings, as_json: bool = False) -> dict[str, Any]:
    """Evaluate, print the table, and write ``results.json`` and ``scores.parquet``.

    Raises:
        ValueError: a method or the data can't be read; they do not fit together; or the evaluation would not be honest:
            a model has seen test classes or domains, or there are too few tasks for an interval.
    """
    methods, checkpoints = contestants(settings.methods)
    data, left_out = _open(settings, [c.learner for c in checkpoints.values()])
    refuse_unfit(checkpoints, data, settings.allow_transductive)
    n = number_of_episodes(settings.episodes, len(data.pools["test"]), settings.data)
    calibrate = settings.calibrate or ("across" if "val" in data.pools else "within")
    _check_before_work(settings, data, methods, calibrate)
    learners = {name: c.learner for name, c in checkpoints.items()}
    settings.out.mkdir(parents=True, exist_ok=True)
    extremes = _Extremes(next(iter(methods)))
    with bars() as progress:
        calibrators = _calibrators(methods, data, calibrate, progress)
        bar = progress.add_task("unseen tasks", total=n)
        rates = RealisedRates()
        with ScoreFile(settings.out / "scores.parquet") as file:
            record = record_all(file, extremes, rates)
            figures = evaluate(
                methods, data.episodes("test", n), calibrators, settings.alpha, lambda: progress.advance(bar), record
            )
        curves = _curves(settings, methods, data, progress)
    results = {
        "protocol": {"too_small_for_so_many_shots": left_out}
        | _protocol(settings, data, n, calibrate)
        | make_up(data.test_episode, learners)
        | {
            "trained_or_chosen_on": {name: c.trained_on for name, c in checkpoints.items()},
            "methods": described(methods, checkpoints),
        },
        "methods": figures,
        "curves": curves,
        "calibration": rates.table(calibrators, data.test_episode.support_normal),
        "environment": environment("cpu"),
    }
    write_json(settings.out / "results.json", results)
    extremes.draw(settings.out, data, next(iter(figures.values()))["threshold"])
    shown(as_json, results, results_table(results), f"Figures and every score: {settings.out}")
    return results


def _check_before_work(
    settings: Settings, data: EpisodeDataModule, methods: Mapping[str, Method], calibrate: Calibration
) -> None:
    """Refuse what would fail later: a method that can't adapt to so few shots, a rate that can't be held.

    Raises:
        ValueError: as said.
    """
    spec = data.test_episode
    across = calibrate == "across"
    if across and "val" not in data.pools:
        raise ValueError("--calibrate across needs validation tasks, and this data has none: --calibrate within")
    compared = data.calibration_episodes * spec.query_normal if across else spec.support_normal
    if not 0 < settings.alpha < 1:
        raise ValueError(f"--alpha is {settings.alpha}; expected a false-alarm rate between 0 and 1, such as 0.1")
    if settings.alpha * (compared + 1) < 1 - 1e-9:
        where = "of the validation episodes" if across else "inside a support set"
        raise ValueError(
            f"--alpha is {settings.alpha}; by {compared} normal samples {where} no rate below {1 / (compared + 1):.3f} "
            f"can be held: raise --alpha{'' if across else ' or --shots, or --calibrate across'}"
        )
    for k in settings.shots or [spec.support_normal]:
        data.test_episode = replace(spec, support_normal=k)
        episode = next(data.episodes("test", 1))
        for method in methods.values():
            method.adapt(episode.support, episode.support_labels)
    data.test_episode = spec
    if settings.inner_steps:
        steppers(methods, settings.inner_steps)


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

    def draw(self, out: Path, data: EpisodeDataModule, threshold: float | None) -> None:
        """Write both as ``best`` and ``worst``, each as ``.png`` and ``.svg``.

        Args:
            out: folder.
            data: whose test episodes these are.
            threshold: above which the method flags, None where each task has its own.
        """
        sampler = data.sampler("test")
        for name, found in {"best": self._best, "worst": self._worst}.items():
            if found is not None:
                row = found[1]
                figure = episode_figure(sampler.episode(0, row.episode), row.scores, threshold, row.flagged)
                for kind in ("png", "svg"):
                    figure.savefig(out / f"{name}.{kind}", dpi=120)


def _open(settings: Settings, learners: Sequence[Learner]) -> tuple[EpisodeDataModule, list[str]]:
    """The data, with the episodes that are asked for, and what is left out because it is too small for these.

    Who is in which split is settled by the config's own episodes, whatever number of shots is asked for: a model is
    tested on what it was not trained on, and a curve over shots on the same tasks all along.
    """
    if settings.data.suffix in (".yaml", ".yml"):
        for option, given in {"--seed": settings.seed, "--modality": settings.modality}.items():
            if given is not None:
                raise ValueError(f"{option} {given} is for your own files; {settings.data} has its own: leave it out")
        data = data_of_config(settings.data)
    else:
        data = own_data(settings.data, learners, settings.seed or 0, settings.modality)
    left_out = []
    if settings.shots:
        most = replace(data.test_episode, support_normal=max(settings.shots))
        for split in ("val", "test"):
            pool = data.pools.get(split)
            if isinstance(pool, DomainTaskPool):
                left_out += [f"{split}: {why}" for why in pool.leave_out_small(most)]
        data.test_episode = replace(data.test_episode, support_normal=settings.shots[0])
    data.sampler("test")
    return data, left_out


def _calibrators(
    methods: Mapping[str, Method], data: EpisodeDataModule, calibrate: Calibration, progress: Progress
) -> dict[str, Calibrator]:
    if calibrate == "within":
        return within_tasks(methods)
    bar = progress.add_task("validation tasks", total=len(methods))
    return across_tasks(methods, list(data.calibration()), lambda: progress.advance(bar))


def _curves(
    settings: Settings, methods: Mapping[str, Method], data: EpisodeDataModule, progress: Progress
) -> dict[str, Any]:
    found = {}
    for name, values, curve in (
        ("shots", settings.shots if len(settings.shots or ()) > 1 else None, shots_curve),
        ("inner_steps", settings.inner_steps, inner_steps_curve),
    ):
        if values:
            bar = progress.add_task(name.replace("_", " "), total=len(set(values)))
            found[name] = curve(methods, data, values, partial(progress.advance, bar))
    return found


def _protocol(settings: Settings, data: EpisodeDataModule, episodes: int, calibrate: Calibration) -> dict[str, Any]:
    """Every choice that fixes the figures, but for those of the methods."""
    across = (
        f"{1 - settings.alpha:.0%} conformal over the normal queries of {data.calibration_episodes} validation episodes"
    )
    within = "leave-one-out conformal inside each support set"
    return {
        "data": data.description(),
        "split": "test",
        "episodes": episodes,
        "tasks": min(len(data.pools["test"]), episodes),
        "episode": data.test_episode.as_dict(),
        "alpha": settings.alpha,
        "threshold": across if calibrate == "across" else within,
        "intervals": "95 % BCa bootstrap over tasks; differences paired by task, Wilcoxon signed-rank",
        "seed": data.seed,
    }
