"""The end of a run: test on unseen tasks beside the baselines, and write all that came out."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.episodes import Method
from metaad_zoo.evaluation.baselines import FlagEverything, NearestNeighbour
from metaad_zoo.evaluation.calibration import normal_scores
from metaad_zoo.evaluation.plots import episode_figure, learning_curve
from metaad_zoo.evaluation.protocol import calibrated_thresholds, environment, evaluate
from metaad_zoo.evaluation.report import results_table, write_json
from metaad_zoo.learners import GradientLearner, Learner, from_scratch, untrained
from metaad_zoo.zoo import Checkpoint, save_checkpoint

if TYPE_CHECKING:
    from metaad_zoo.cli.train import TrainingCLI

TABLE_WIDTH = 118


def conclude(cli: TrainingCLI, learner: Learner, data: EpisodeDataModule) -> dict[str, Any]:
    """Evaluate on the test split, print the table, and fill the run's folder.

    Writes ``results.json``, ``episode.png``, ``learning_curve.png`` and the folder ``model`` that
    :func:`metaad_zoo.load_detector` reads.

    Returns:
        The results.
    """
    console = Console()
    learner.eval()
    results = test_results(learner, data, cli.config["alpha"], cli.config["seed_everything"], console)
    cli.run_dir.mkdir(parents=True, exist_ok=True)
    write_json(cli.run_dir / "results.json", results)
    _draw(cli.run_dir, learner, data, results)
    _save_model(cli, learner, data)
    wide = console if console.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)
    wide.print(results_table(results))
    camera = results["protocol"]["data"].get("camera")
    console.print(f"Pictures seen through: {camera or 'no camera, as they are'}")
    console.print(f"All figures, pictures and the model: {cli.run_dir}")
    if cli.config["next"]:
        console.print(f"Next, try:  [bold]{cli.config['next'].format(run=cli.run_dir)}[/bold]", soft_wrap=True)
    return results


def methods_for(learner: Learner, seed: int) -> dict[str, Method]:
    """What is evaluated, ours first."""
    methods: dict[str, Method] = {learner.registered_name: learner}
    if isinstance(learner, GradientLearner):
        methods["same network, untrained"] = untrained(learner, seed)
        methods["same network, from scratch"] = from_scratch(learner, seed)
    methods["1-NN on pixels"] = NearestNeighbour()
    methods["1-NN on standardised pixels"] = NearestNeighbour(standardise=True)
    methods["flag everything"] = FlagEverything()
    return methods


def test_results(
    learner: Learner, data: EpisodeDataModule, alpha: float, seed: int, console: Console
) -> dict[str, Any]:
    """The content of ``results.json``.

    Args:
        learner: trained, in eval mode.
        data: its val split chooses thresholds, its test split is scored.
        alpha: false-alarm rate that the thresholds aim at.
        seed: of the untrained networks.
        console: shows progress.
    """
    methods = methods_for(learner, seed)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("thresholds on validation tasks", total=len(methods))
        calibration = list(data.episodes("val", data.val_episodes))
        thresholds = calibrated_thresholds(methods, calibration, alpha, lambda: progress.advance(bar))
        bar = progress.add_task("test on unseen tasks", total=data.test_episodes)
        episodes = data.episodes("test", data.test_episodes)
        figures = evaluate(methods, episodes, thresholds, lambda: progress.advance(bar))
    protocol = {
        "data": data.description(),
        "split": "test",
        "episodes": data.test_episodes,
        "tasks": len(next(iter(figures.values()))["tasks"]),
        "alpha": alpha,
        "threshold": f"{1 - alpha:.0%} conformal quantile of normal queries in {data.val_episodes} validation episodes",
        "intervals": "95 % BCa bootstrap over tasks, a task's figure being the mean of its episodes",
        "seed": seed,
        "learner": {"name": learner.registered_name, **learner.arguments()},
    }
    return {"protocol": protocol, "methods": figures, "environment": environment()}


def _draw(run_dir: Path, learner: Learner, data: EpisodeDataModule, results: dict[str, Any]) -> None:
    parts = sorted(run_dir.glob("metrics-*.csv"), key=lambda p: int(p.stem.rpartition("-")[2]))
    parts += [p for p in [run_dir / "metrics.csv"] if p.is_file()]
    if parts:
        learning_curve(parts).savefig(run_dir / "learning_curve.png", dpi=120)
    episode = next(data.episodes("test", 1))
    if "image" in episode.support:
        scores = learner.adapt(episode.support, episode.support_labels).score(episode.query).cpu()
        threshold = results["methods"][learner.registered_name]["threshold"]
        episode_figure(episode, scores, threshold).savefig(run_dir / "episode.png", dpi=120)


def _save_model(cli: TrainingCLI, learner: Learner, data: EpisodeDataModule) -> None:
    calibration = normal_scores(learner, data.episodes("val", data.val_episodes))
    seen = sorted(m for split in ("train", "val") if split in data.pools for m in data.pools[split].members)
    config = cli.run_dir / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.is_file() else None
    save_checkpoint(cli.run_dir / "model", Checkpoint(learner, seen, {"calibration": calibration}), text)


def write_predictions(predictions: Any, run_dir: Path) -> None:
    """Scores of all test episodes as ``predictions.csv``: episode, task, sample, label, score."""
    batches: Iterable[list[dict[str, Any]]] = predictions or []
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["episode", "task", "sample", "label", "score"])
        for i, row in enumerate(row for batch in batches for row in batch):
            pairs = zip(row["labels"].tolist(), row["scores"].tolist(), strict=True)
            writer.writerows([i, row["task"], sample, label, score] for sample, (label, score) in enumerate(pairs))
    Console().print(f"Scores of all test episodes: {run_dir / 'predictions.csv'}")
