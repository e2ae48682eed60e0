"""Evaluate any number of methods on the same episodes of unseen tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.pixels import Aspect
from metaad_zoo.episodes import DomainTaskPool, EpisodeSpec, Method
from metaad_zoo.evaluation import protocol
from metaad_zoo.evaluation.calibration import can_hold
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.plots import episode_figure
from metaad_zoo.evaluation.rates import RealisedRates
from metaad_zoo.evaluation.report import write_json
from metaad_zoo.evaluation.scores import Scored, ScoreFile, record_all
from metaad_zoo.experiment.curves import inner_steps_curve, shots_curve, steppers
from metaad_zoo.experiment.leakage import make_up, number_of_episodes
from metaad_zoo.experiment.methods import (
    build_methods,
    data_of_config,
    describe_methods,
    guessed_modality,
    own_data,
    refuse_unfit,
)
from metaad_zoo.experiment.progress import Progress, silent
from metaad_zoo.experiment.sweep_results import join_runs
from metaad_zoo.zoo import Checkpoint

Calibration = Literal["across", "within"]


@dataclass(frozen=True)
class _Settings:
    """The arguments of :func:`evaluate`."""

    methods: Sequence[str]
    data: Path
    episodes: int | None
    shots: Sequence[int] | None
    alpha: float
    calibrate: Calibration | None
    seed: int | None
    modality: str | None
    inner_steps: Sequence[int] | None
    allow_transductive: bool
    unlabelled: int | None
    contamination: float | tuple[float, float] | None


def evaluate(
    methods: Sequence[str],
    data: str | Path,
    out: str | Path | None = None,
    *,
    episodes: int | None = None,
    shots: Sequence[int] | None = None,
    alpha: float = 0.1,
    calibrate: Calibration | None = None,
    seed: int | None = None,
    modality: str | None = None,
    inner_steps: Sequence[int] | None = None,
    allow_transductive: bool = False,
    unlabelled: int | None = None,
    contamination: float | tuple[float, float] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Evaluate methods on the same episodes of the test tasks, with intervals and paired differences.

    Args:
        methods: names or folders of models or runs, names of baselines, and ``BASELINE@MODEL`` on a model's embedding.
        data: config with a ``data`` section, such as a run's, or a user's own files.
        out: folder for ``results.json``, ``scores.parquet`` and pictures; None writes nothing.
        episodes: number of test episodes; None: 600, or one for each task if there are more tasks.
        shots: numbers of normal support samples; None: that of the data's config. The first number is evaluated;
            several numbers also give a curve.
        alpha: false-alarm rate to aim at.
        calibrate: ``"across"`` the validation tasks, or ``"within"`` each support set; None: ``"across"`` if there are
            validation tasks.
        seed: random seed of the episodes of a user's own files; None: 0. A config has its own.
        modality: modality of a user's own files, if there is no model; None: inferred from the files.
        inner_steps: numbers of inner steps for a curve of the gradient learners; None: no curve.
        allow_transductive: let batch normalisation take statistics over the queries.
        unlabelled: number of unlabelled samples in each support set, beside the normal ones; None: that of the data's
            config, or none of a user's own files.
        contamination: share of anomalies among the unlabelled samples, which no method is told, or a range from which
            each episode draws its share; None: that of the data's config.
        progress: reports the progress.

    Returns:
        ``protocol``, ``methods``, ``curves``, ``calibration`` and ``environment``, as in ``results.json``. Where runs
        of one name differ in their seeds alone, ``joined`` has their means, and intervals over trainings and tasks.

    Raises:
        ValueError: a method or the data can't be read, they do not fit together, a model has seen test classes or
            domains, or there are too few episodes for an interval.
    """
    settings = _Settings(
        methods,
        Path(data),
        episodes,
        shots,
        alpha,
        calibrate,
        seed,
        modality,
        inner_steps,
        allow_transductive,
        unlabelled,
        contamination,
    )
    return _evaluate(settings, None if out is None else Path(out), progress)


def _evaluate(settings: _Settings, out: Path | None, progress: Progress) -> dict[str, Any]:
    methods, checkpoints = build_methods(settings.methods)
    guesses = Account()
    try:
        data, left_out = _open(settings, checkpoints, guesses)
    except ValueError as error:
        if guesses:  # a wrong guess may be the cause
            raise ValueError(f"{error}; {'; '.join(guesses)}") from error
        raise
    refuse_unfit(checkpoints, data, settings.allow_transductive)
    n = number_of_episodes(settings.episodes, len(data.pools["test"]), settings.data)
    calibrate = settings.calibrate or ("across" if "val" in data.pools else "within")
    _check_before_work(settings, data, methods, calibrate)
    learners = {name: c.learner for name, c in checkpoints.items()}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    extremes, rates = _Extremes(next(iter(methods))), RealisedRates()
    if calibrate == "within":
        calibrators = protocol.within_tasks(methods)
    else:
        tick = progress("validation tasks", len(methods))
        calibrators = protocol.across_tasks(methods, list(data.calibration()), tick)
    with nullcontext() if out is None else ScoreFile(out / "scores.parquet") as file:
        record = record_all(*([] if file is None else [file]), extremes, rates)
        tick = progress("unseen tasks", n)
        figures = protocol.evaluate(
            methods, data.episodes("test", n), calibrators, settings.alpha, tick, record, data.query_masks
        )
    results = {
        "protocol": {"too_small_for_so_many_shots": left_out}
        | _protocol(settings, data, n, calibrate)
        | {"account": [*guesses, *data.skipped]}
        | make_up(data.test_episode, learners)
        | _weighing(data.test_episode, methods)
        | {
            "trained_or_chosen_on": {name: c.trained_on for name, c in checkpoints.items()},
            "methods": describe_methods(methods, checkpoints),
        },
        "methods": figures,
        **join_runs(figures, settings.methods),
        "curves": _curves(settings, methods, data, progress),
        "calibration": rates.table(calibrators, data.test_episode.support_normal),
        "environment": protocol.environment("cpu"),
    }
    if out is not None:
        write_json(out / "results.json", results)
        extremes.draw(out, data, next(iter(figures.values()))["threshold"])
    return results


def _check_before_work(
    settings: _Settings, data: EpisodeDataModule, methods: Mapping[str, Method], calibrate: Calibration
) -> None:
    """Refuse a rate that can't be held and methods that can't adapt to so few shots, before work is lost."""
    spec = data.test_episode
    across = calibrate == "across"
    if across and "val" not in data.pools:
        raise ValueError(
            "calibrate (--calibrate) is 'across', which needs validation tasks, and this data has none: set 'within'"
        )
    compared = data.calibration_episodes * spec.query_normal if across else spec.support_normal
    if not 0 < settings.alpha < 1:
        raise ValueError(
            f"alpha (--alpha) is {settings.alpha}; expected a false-alarm rate between 0 and 1, such as 0.1"
        )
    if not can_hold(settings.alpha, compared):
        where = "of the validation episodes" if across else "inside a support set"
        remedy = "it" if across else "it or shots (--shots)"
        remedy += "" if across or "val" not in data.pools else ", or set calibrate (--calibrate) to 'across'"
        raise ValueError(
            f"alpha (--alpha) is {settings.alpha}; by {compared} normal samples {where} no rate below "
            f"{1 / (compared + 1):.3f} can be held: raise {remedy}"
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
    """Records the episodes with a method's best and worst AUROC."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._extremes: dict[str, tuple[float, Scored]] = {}

    def __call__(self, row: Scored) -> None:
        if row.method == self._method:
            value = auroc(row.scores, row.labels)
            for name, sign in (("best", 1), ("worst", -1)):
                if name not in self._extremes or sign * value > sign * self._extremes[name][0]:
                    self._extremes[name] = (value, row)

    def draw(self, out: Path, data: EpisodeDataModule, threshold: float | None) -> None:
        """Write figures of both episodes, ``best`` and ``worst``, as PNG and SVG."""
        sampler = data.sampler("test")
        for name, (_, row) in self._extremes.items():
            figure = episode_figure(sampler.episode(0, row.episode), row.scores, threshold, row.flagged)
            for kind in ("png", "svg"):
                figure.savefig(out / f"{name}.{kind}", dpi=120)


def _open(
    settings: _Settings, checkpoints: Mapping[str, Checkpoint], guesses: Account
) -> tuple[EpisodeDataModule, list[str]]:
    """The data with the requested episodes, and notes on domains that are too small for them; guesses are noted.

    Splits follow the config's own episodes and not the number of shots, so that a model is tested on classes that it
    was not trained on, and all points of a curve over shots are on the same tasks.
    """
    if settings.data.suffix in (".yaml", ".yml"):
        for name, value in {"seed": settings.seed, "modality": settings.modality}.items():
            if value is not None:
                raise ValueError(
                    f"{name} (--{name}) {value} is for your own files; {settings.data} has its own: leave it out"
                )
        data = data_of_config(settings.data, checkpoints)
    else:
        learners = [c.learner for c in checkpoints.values()]
        aspect: Aspect = next((c.aspect for c in checkpoints.values()), "squash")
        modality = settings.modality
        if modality is None and not learners:
            modality = guessed_modality(settings.methods, settings.data, guesses)
        data = own_data(settings.data, learners, settings.seed or 0, modality, aspect)
    left_out = []
    spec = _requested_episode(settings, data.test_episode)
    if spec != data.test_episode or settings.shots:
        most = replace(spec, support_normal=max(settings.shots or [spec.support_normal]))
        for split in ("val", "test"):
            pool = data.pools.get(split)
            if isinstance(pool, DomainTaskPool):
                left_out += [f"{split}: {why}" for why in pool.leave_out_small(most)]
        data.test_episode = spec
    data.sampler("test")
    return data, left_out


def _weighing(spec: EpisodeSpec, methods: Mapping[str, Method]) -> dict[str, Any]:
    """Entry of the protocol that says which methods weigh unlabelled samples, where there are any."""
    weigh = {name: bool(getattr(method, "reads_unlabelled", False)) for name, method in methods.items()}
    return {"weigh_unlabelled": weigh} if spec.support_unlabelled else {}


def _requested_episode(settings: _Settings, spec: EpisodeSpec) -> EpisodeSpec:
    """Composition of the test episodes: that of the data but for what the settings say."""
    unlabelled = spec.support_unlabelled if settings.unlabelled is None else settings.unlabelled
    contamination = spec.contamination if settings.contamination is None else settings.contamination
    if not unlabelled:
        if settings.contamination:
            raise ValueError(
                f"contamination (--contamination) is {settings.contamination}, the share of anomalies among unlabelled "
                "samples, and there are none: set unlabelled (--unlabelled) to their number, such as 500"
            )
        contamination = 0.0
    shots = settings.shots[0] if settings.shots else spec.support_normal
    return replace(spec, support_normal=shots, support_unlabelled=unlabelled, contamination=contamination)


def _curves(
    settings: _Settings, methods: Mapping[str, Method], data: EpisodeDataModule, progress: Progress
) -> dict[str, Any]:
    curves = {}
    for name, values, curve in (
        ("shots", settings.shots if len(settings.shots or ()) > 1 else None, shots_curve),
        ("inner_steps", settings.inner_steps, inner_steps_curve),
    ):
        if values:
            curves[name] = curve(methods, data, values, progress(name.replace("_", " "), len(set(values))))
    return curves


def _protocol(settings: _Settings, data: EpisodeDataModule, episodes: int, calibrate: Calibration) -> dict[str, Any]:
    """All settings of the evaluation, except those of the methods."""
    across = (
        f"{1 - settings.alpha:.0%} conformal over the normal queries of {data.calibration_episodes} validation episodes"
    )
    within = "leave-one-out conformal inside each support set"
    few = len(data.pools["test"]) < protocol.LEAST_TASKS
    unit = "draws of the support: they say nothing about other tasks" if few else "tasks"
    return {
        "data": data.description(),
        "split": "test",
        "episodes": episodes,
        "tasks": min(len(data.pools["test"]), episodes),
        "episode": data.test_episode.as_dict(),
        "alpha": settings.alpha,
        "threshold": across if calibrate == "across" else within,
        "intervals": f"95 % BCa bootstrap over {unit}; differences paired by them, Wilcoxon signed-rank",
        "seed": data.seed,
    }
