"""`metaad evaluate`: any number of methods on the same episodes, judged alike, with every score kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import Progress

from metaad_zoo.cli.conclude import TABLE_WIDTH, calibration_episodes, refuse_seen
from metaad_zoo.data import (
    EpisodeDataModule,
    ImageEpisodes,
    MultimodalEpisodes,
    SequenceEpisodes,
    TabularEpisodes,
)
from metaad_zoo.episodes import Episode, EpisodeSpec, Method
from metaad_zoo.evaluation.baselines import create_baseline, list_baselines
from metaad_zoo.evaluation.decisions import Always, Calibrator, WithinTask
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import across_tasks, environment, evaluate, flags_everything, interval
from metaad_zoo.evaluation.report import results_table, write_json
from metaad_zoo.evaluation.scores import ScoreFile
from metaad_zoo.learners import Learner
from metaad_zoo.names import unknown_name
from metaad_zoo.zoo import is_checkpoint, load_checkpoint

LEAST_TASKS = 5
"""Fewer tasks say nothing of others: a bootstrap over them draws the same few again and again."""
LEAST_EPISODES = 600
OWN: Mapping[str, type[EpisodeDataModule]] = {
    "image": ImageEpisodes,
    "sequence": SequenceEpisodes,
    "tabular": TabularEpisodes,
}
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
    learners = {name: load_checkpoint(folder) for name, folder in _folders(settings.methods).items()}
    data = _open(settings, [c.learner for c in learners.values()])
    for name, checkpoint in learners.items():
        _refuse_other_shapes(name, checkpoint.learner, data)
        refuse_seen(data, checkpoint.trained_on)
    methods: dict[str, Method] = {
        name: learners[name].learner if name in learners else create_baseline(name) for name in _names(settings.methods)
    }
    tasks = len(data.pools["test"])
    if tasks < LEAST_TASKS:
        raise ValueError(
            f"{settings.data} has {tasks} test tasks: an interval over fewer than {LEAST_TASKS} tells nothing of other "
            "tasks; give more classes, files or domains"
        )
    n = settings.episodes or max(LEAST_EPISODES, tasks)
    settings.out.mkdir(parents=True, exist_ok=True)
    calibrate = settings.calibrate or ("across" if "val" in data.pools else "within")
    with Progress(console=console, transient=True) as progress:
        calibrators = _calibrators(methods, data, calibrate, progress)
        bar = progress.add_task("unseen tasks", total=n)
        with ScoreFile(settings.out / "scores.parquet") as record:
            figures = evaluate(
                methods, data.episodes("test", n), calibrators, settings.alpha, lambda: progress.advance(bar), record
            )
        curves = _shots_curve(methods, data, settings.shots, progress) if len(settings.shots or ()) > 1 else {}
    results = {
        "protocol": _protocol(settings, data, methods, n, calibrate, {k: c.trained_on for k, c in learners.items()}),
        "methods": figures,
        "curves": curves,
        "environment": environment("cpu"),
    }
    write_json(settings.out / "results.json", results)
    (console if console.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)).print(results_table(results))
    console.print(f"Figures and every score: {settings.out}", soft_wrap=True)
    return results


def _names(methods: Sequence[str]) -> list[str]:
    names = [_name(m) for m in methods]
    if len(set(names)) != len(names):
        raise ValueError(f"two methods have one name: {sorted(names)}; give each once")
    return names


def _name(method: str) -> str:
    """A baseline's own name; of a model the last parts of its folder."""
    path = Path(method)
    return "/".join(path.parts[-2:]) if model_folder(path) is not None else method


def model_folder(path: Path) -> Path | None:
    """The model that a path stands for: itself, or the folder ``model`` of a run; None where there is none."""
    return next((p for p in (path, path / "model") if is_checkpoint(p)), None)


def _folders(methods: Sequence[str]) -> dict[str, Path]:
    found = {}
    for method in methods:
        folder = model_folder(Path(method).expanduser())
        if folder is not None:
            found[_name(method)] = folder
        elif method not in list_baselines() and not method.startswith("pyod/"):
            raise unknown_name("method (no model lies there, and no baseline is called so):", method, list_baselines())
    return found


def _open(settings: Settings, learners: Sequence[Learner]) -> EpisodeDataModule:
    """The data, with the episodes that are asked for."""
    is_config = settings.data.suffix in (".yaml", ".yml")
    data = data_of_config(settings.data) if is_config else _own(settings, learners)
    if settings.shots:
        data.test_episode = replace(data.test_episode, support_normal=settings.shots[0])
    data.sampler("test")
    return data


def data_of_config(path: Path) -> EpisodeDataModule:
    """The DataModule that a training config describes.

    Raises:
        ValueError: there is no such file, or it describes none.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    if not isinstance(content, dict) or "data" not in content:
        raise ValueError(f"{path} has no section `data`: give a config of a training, such as RUN/config.yaml")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(EpisodeDataModule, "data")
    built = parser.instantiate_classes(parser.parse_object({"data": content["data"]}))
    data: EpisodeDataModule = built.data
    return data


def _own(settings: Settings, learners: Sequence[Learner]) -> EpisodeDataModule:
    """A user's own files: all of their classes or domains are tested."""
    shapes: dict[str, Any] = next(iter(x.arguments()["input_shapes"] for x in learners), {})
    if len(shapes) > 1:
        return MultimodalEpisodes("own", root=str(settings.data), splits={"test": ["*"]}, seed=settings.seed)
    if not shapes:
        raise ValueError("name at least one model, or give a config as --data: baselines alone don't tell the modality")
    ((modality, shape),) = shapes.items()
    options: dict[str, Any] = {"dataset": "own", "root": str(settings.data), "splits": {"test": ["*"]}}
    if modality == "image":
        options |= {"image_size": shape[-1], "channels": shape[0]}
    if modality == "sequence":
        options |= {"window": shape[0], "stride": shape[0]}
    return OWN[modality](**options, episode=EpisodeSpec(), seed=settings.seed)


def _refuse_other_shapes(name: str, learner: Learner, data: EpisodeDataModule) -> None:
    reads, has = learner.arguments()["input_shapes"], data.input_shapes
    fit = set(reads) == set(has) and all(
        len(reads[m]) == len(has[m]) and all(a in (b, -1) for a, b in zip(reads[m], has[m], strict=True)) for m in reads
    )
    if not fit:
        raise ValueError(f"{name} reads {reads}, but the data gives {dict(has)}: take a model of such data")


def _calibrators(
    methods: Mapping[str, Method], data: EpisodeDataModule, calibrate: Calibration, progress: Progress
) -> dict[str, Calibrator]:
    if calibrate == "within":
        return {n: Always() if flags_everything(m) else WithinTask(m) for n, m in methods.items()}
    bar = progress.add_task("validation tasks", total=len(methods))
    return across_tasks(methods, list(calibration_episodes(data)), lambda: progress.advance(bar))


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
    across = f"{1 - settings.alpha:.0%} conformal over the normal queries of {data.val_episodes} validation episodes"
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
