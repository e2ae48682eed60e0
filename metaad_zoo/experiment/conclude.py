"""Test of a finished run on unseen tasks, together with baselines; writes the model, results and figures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.episodes import Method
from metaad_zoo.evaluation.baselines import FlagEverything, NearestNeighbour, OnNetwork, create_baseline
from metaad_zoo.evaluation.calibration import normal_scores
from metaad_zoo.evaluation.decisions import AcrossTasks, Calibrator
from metaad_zoo.evaluation.plots import episode_figure, learning_curve
from metaad_zoo.evaluation.protocol import across_tasks, environment, evaluate
from metaad_zoo.evaluation.rates import RealisedRates
from metaad_zoo.evaluation.report import write_json
from metaad_zoo.evaluation.scores import ScoreFile, record_all
from metaad_zoo.experiment.leakage import make_up, refuse_transductive
from metaad_zoo.experiment.progress import Progress, silent
from metaad_zoo.experiment.shown_calibration import shown_calibration_scores
from metaad_zoo.experiment.training_tasks import training_tasks
from metaad_zoo.learners import (
    EmbeddingLearner,
    GradientLearner,
    Learner,
    can_start_from_scratch,
    from_scratch,
    untrained,
)
from metaad_zoo.modality import form_of
from metaad_zoo.zoo import (
    Checkpoint,
    calibration_tensors,
    save_checkpoint,
    shown_calibration_tensors,
    training_tasks_tensors,
)

CONTROL, CONTROLS_BY = "same network", 300
"""Name prefix of the control methods, and maximum number of episodes that they are calibrated by."""


Comparisons = Literal["all", "quick"]
"""``"quick"`` leaves out the network trained from scratch on each support, which takes longer than all others."""


@dataclass(frozen=True)
class Conclusion:
    """Settings of the test of a run.

    Args:
        run_dir: the run's folder.
        alpha: false-alarm rate that thresholds aim at.
        seed: random seed of the untrained networks.
        seen: classes or domains of training and validation.
        weights: description of the weights (such as the best epoch), for the protocol.
        trained_by: config of the training, if that was another run.
        comparisons: methods to compare with, see :data:`Comparisons`.
        outer_steps: number of optimiser steps that made the weights; None if unknown.
    """

    run_dir: Path
    alpha: float
    seed: int
    seen: list[str]
    weights: str
    trained_by: Path | None = None
    comparisons: Comparisons = "all"
    outer_steps: int | None = None


def check_before_training(
    learner: Learner, data: EpisodeDataModule, alpha: float, allow_transductive: bool = False
) -> None:
    """Check before training that the evaluation after it can run.

    Args:
        learner: learner that will be trained.
        data: data for training and test.
        alpha: false-alarm rate that thresholds aim at.
        allow_transductive: let batch normalisation take statistics over the queries.

    Raises:
        ValueError: there is no val or test split, a class is too small, ``alpha`` is out of range or lower than the
            validation episodes can hold, or the learner normalises over the queries.
    """
    if not allow_transductive:
        refuse_transductive("this learner", learner, "--allow_transductive=true")
    data.sampler("val")
    data.sampler("test")
    scores = data.calibration_episodes * data.test_episode.query_normal
    if not 0 < alpha < 1 or alpha * (scores + 1) < 1:
        raise ValueError(
            f"alpha (--alpha) is {alpha}; expected a false-alarm rate of at least 1/{scores + 1} and below 1, as there "
            f"are {scores} normal queries in the calibration episodes (data.calibration_episodes)"
        )
    if data.test_episode.query_normal == 0 or data.test_episode.query_anomalous == 0:
        raise ValueError("data.test_episode has queries of one kind only: AUROC needs normal and anomalous ones")


def conclude(learner: Learner, data: EpisodeDataModule, end: Conclusion, progress: Progress = silent) -> dict[str, Any]:
    """Evaluate on the test split and fill the run's folder.

    Writes ``results.json``, ``scores.parquet``, ``episode.png``, ``learning_curve.png`` and the folder ``model`` that
    :func:`metaad_zoo.load_detector` reads.

    Returns:
        The results.
    """
    by_shots = save_model(learner, data, end, progress)
    results = test_results(learner, data, end, by_shots, progress)
    write_json(end.run_dir / "results.json", results)
    _draw(end.run_dir, learner, data, results)
    return results


def methods_for(
    learner: Learner, shapes: Mapping[str, Sequence[int]], seed: int, comparisons: Comparisons = "all"
) -> dict[str, Method]:
    """The methods of the test: the learner first, then controls and baselines.

    Args:
        learner: trained learner.
        shapes: shape of one sample of the data, by modality.
        seed: random seed of the untrained networks.
        comparisons: see :data:`Comparisons`.
    """
    methods: dict[str, Method] = {learner.registered_name: learner}
    if learner.parent is not None:
        methods["before fine-tuning"] = learner.parent.learner.to(learner.device)
    if isinstance(learner, GradientLearner | EmbeddingLearner) and any(p.requires_grad for p in learner.parameters()):
        methods[f"{CONTROL}, untrained"] = untrained(learner, seed)
        if comparisons == "all" and can_start_from_scratch(learner):
            methods[f"{CONTROL}, from scratch"] = from_scratch(learner, seed)
    network = getattr(learner, "network", None)
    if not learner.trains and network is not None:
        methods["1-NN on the embedding"] = OnNetwork(create_baseline("knn", standardise="none"), network)
    methods |= {name: NearestNeighbour(way) for name, way in form_of(shapes).neighbours.items()}
    methods["flag everything"] = FlagEverything()
    return methods


def test_results(
    learner: Learner, data: EpisodeDataModule, end: Conclusion, by_shots: Mapping[int, Tensor], progress: Progress
) -> dict[str, Any]:
    """Content of ``results.json``.

    Args:
        learner: trained learner in eval mode.
        data: data whose val split sets thresholds and whose test split is scored.
        end: settings of the test.
        by_shots: calibration scores of the learner by the size of the support set.
        progress: reports the progress.
    """
    methods = methods_for(learner, data.input_shapes, end.seed, end.comparisons)
    left_out = sorted(methods_for(learner, data.input_shapes, end.seed).keys() - methods.keys())
    baselines = {name: method for name, method in methods.items() if method is not learner}
    tick = progress(f"Thresholds of {len(baselines)} other methods on validation tasks", len(baselines))
    calibration = list(data.calibration())
    calibrators: dict[str, Calibrator] = {learner.registered_name: AcrossTasks(by_shots[data.test_episode.shots])}
    for name, method in baselines.items():  # from scratch takes ten times as long as adapting
        by = calibration[:CONTROLS_BY] if name.startswith(CONTROL) else calibration
        calibrators |= across_tasks({name: method}, by, tick)
    tick = progress(f"Testing {len(methods)} methods on {data.test_episodes} unseen episodes", data.test_episodes)
    rates = RealisedRates()
    with ScoreFile(end.run_dir / "scores.parquet") as file:
        episodes = data.episodes("test", data.test_episodes)
        figures = evaluate(methods, episodes, calibrators, end.alpha, tick, record_all(file, rates), data.query_masks)
    protocol = {
        "data": data.description(),
        "account": data.skipped,
        **({"changed_since_checkpoint": data.changes} if data.changes else {}),
        "split": "test",
        "trained_or_chosen_on": end.seen,
        "weights": end.weights,
        **({} if end.outer_steps is None else {"outer_steps": end.outer_steps}),
        **({"left_out": left_out} if left_out else {}),
        "episodes": data.test_episodes,
        "tasks": len(next(iter(figures.values()))["tasks"]),
        **make_up(data.test_episode, methods),
        "alpha": end.alpha,
        "threshold": f"{1 - end.alpha:.0%} conformal quantile of the normal queries in {data.calibration_episodes} "
        f"episodes of the validation tasks ({CONTROL} ...: at most {CONTROLS_BY}), others than those that chose the "
        "weights",
        "calibrated_for": list(by_shots),
        "intervals": "95 % BCa bootstrap over tasks, a task's figure being the mean of its episodes; pairs that share "
        "a class are taken as independent, and there is one training",
        "seed": end.seed,
        "learner": {"name": learner.registered_name, **learner.arguments()},
        **learner.pretrained_sources(),
        **({} if learner.parent is None else {"fine_tuned_from": learner.parent.as_dict()}),
    }
    return {
        "protocol": protocol,
        "methods": figures,
        "calibration": rates.table(calibrators, data.test_episode.support_normal),
        "environment": environment(str(learner.device)),
    }


def _draw(run_dir: Path, learner: Learner, data: EpisodeDataModule, results: dict[str, Any]) -> None:
    parts = sorted(run_dir.glob("metrics-*.csv"), key=lambda p: int(p.stem.rpartition("-")[2]))
    parts += [p for p in [run_dir / "metrics.csv"] if p.is_file()]
    if parts:
        learning_curve(parts).savefig(run_dir / "learning_curve.png", dpi=120)
    episode = next(data.episodes("test", 1))
    scores = learner.adapt(episode.support, episode.support_labels).score(episode.query).cpu()
    threshold = results["methods"][learner.registered_name]["threshold"]
    episode_figure(episode, scores, threshold).savefig(run_dir / "episode.png", dpi=120)


def save_model(
    learner: Learner, data: EpisodeDataModule, end: Conclusion, progress: Progress = silent
) -> dict[int, Tensor]:
    """Write the folder ``model`` of a run; returns its calibration scores by the size of the support set."""
    learner.eval()
    config = end.trained_by or end.run_dir / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.is_file() else None
    sizes = data.shots_with_room()
    tick = progress(
        f"Calibrating on validation tasks, for supports of {', '.join(map(str, sizes))} samples", len(sizes)
    )
    by_shots = {}
    for n in sizes:
        by_shots[n] = normal_scores(learner, data.calibration(shots=n))
        tick()
    splits = data.split_record.as_dict()
    tensors = calibration_tensors(by_shots)
    tensors |= shown_calibration_tensors(shown_calibration_scores(learner, data, sizes))
    tensors |= training_tasks_tensors(training_tasks(learner, data))
    save_checkpoint(end.run_dir / "model", Checkpoint(learner, end.seen, tensors, text, splits, data.aspect))
    return by_shots


def write_predictions(learner: Learner, data: EpisodeDataModule, run_dir: Path) -> Path:
    """Write scores of all test episodes as ``predictions.csv``: episode, task, sample, label, score.

    Returns:
        The file.
    """
    learner.eval()
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["episode", "task", "sample", "label", "score"])
        for i, episode in enumerate(data.episodes("test", data.test_episodes)):
            scores = learner.adapt(episode.support, episode.support_labels).score(episode.query).tolist()
            pairs = zip(episode.query_labels.tolist(), scores, strict=True)
            writer.writerows([i, episode.task, sample, label, score] for sample, (label, score) in enumerate(pairs))
    return run_dir / "predictions.csv"
