"""Evaluate methods on whole series, point by point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaad_zoo.data import EpisodeDataModule, SequenceEpisodes
from metaad_zoo.data.labelled_series import LabelledSeries
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.evaluation import series_protocol
from metaad_zoo.evaluation.calibration import can_hold
from metaad_zoo.evaluation.decisions import USUAL_ALPHA
from metaad_zoo.evaluation.protocol import LEAST_TASKS, environment, within_tasks
from metaad_zoo.evaluation.report import write_json
from metaad_zoo.evaluation.scores import ScoreFile, record_all
from metaad_zoo.experiment.leakage import batch_norm_of
from metaad_zoo.experiment.methods import build_methods, data_of_config, describe_methods, refuse_unfit
from metaad_zoo.experiment.progress import Progress, silent
from metaad_zoo.modality import SequenceModality
from metaad_zoo.zoo import Checkpoint

USUAL_WINDOW = 64
WITHIN = (
    "leave-one-out conformal over the support windows, a point's score set beside theirs; windows that overlap, and a "
    "series that changes, let more false alarms through than were aimed at"
)


@dataclass(frozen=True)
class _Settings:
    """The arguments of :func:`evaluate_points`."""

    methods: Sequence[str]
    data: Path
    shots: int
    draws: int
    stride: int | None
    longest: int | None
    buffer: int | None
    seed: int
    calibrate: str | None
    alpha: float | None
    allow_transductive: bool

    @property
    def rate(self) -> float:
        """The false-alarm rate to aim at, where points are flagged."""
        return USUAL_ALPHA if self.alpha is None else self.alpha


def evaluate_points(
    methods: Sequence[str],
    data: str | Path,
    out: str | Path | None = None,
    *,
    shots: int = 50,
    draws: int = 3,
    stride: int | None = None,
    longest: int | None = 50_000,
    buffer: int | None = None,
    seed: int = 0,
    calibrate: str | None = None,
    alpha: float | None = None,
    allow_transductive: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Evaluate methods point by point on the test part of whole labelled series.

    Args:
        methods: names or folders of models or runs, and names of baselines.
        data: config with a ``data`` section of :class:`SequenceEpisodes`, or a user's own series with labels.
        out: folder for ``results.json`` and ``scores.parquet``, a row a point; None writes nothing.
        shots: number of support windows of each series.
        draws: number of draws of the support; figures are averaged over them.
        stride: steps from one scored window to the next; None: a quarter of the window.
        longest: maximum number of scored points of a series, from the start of its test part; None: all.
        buffer: longest buffer of the volumes (VUS), in points; None: the window.
        seed: random seed of the draws.
        calibrate: ``"within"`` flags points by leave-one-out over the support windows; None: no threshold.
        alpha: false-alarm rate to aim at; None: 0.1. Only with ``calibrate``.
        allow_transductive: let batch normalisation take statistics over the queries.
        progress: reports the progress.

    Returns:
        ``protocol``, ``methods`` and ``environment``, as in ``results.json``.

    Raises:
        ValueError: a method or the data can't be read, they do not fit together, a model has seen a test series, or
            there are too few series for an interval.
    """
    settings = _Settings(
        methods, Path(data), shots, draws, stride, longest, buffer, seed, calibrate, alpha, allow_transductive
    )
    return _evaluate(settings, None if out is None else Path(out), progress)


def _evaluate(settings: _Settings, out: Path | None, progress: Progress) -> dict[str, Any]:
    methods, checkpoints = build_methods(settings.methods)
    data = _open(settings, checkpoints)
    refuse_unfit(checkpoints, data, settings.allow_transductive)
    stride = max(1, data.rule.window // 4) if settings.stride is None else settings.stride
    buffer = data.rule.window if settings.buffer is None else settings.buffer
    _check_numbers(settings, stride, buffer, data.rule.window)
    series, left_out = _testable(data.labelled_series(stride), settings)
    for method in methods.values():  # what can't adapt to so few windows is refused before work is lost
        support = series[0].draw_support(settings.shots, np.random.default_rng(0))
        method.adapt(support, torch.zeros(settings.shots, dtype=torch.long))
    calibrators = within_tasks(methods) if settings.calibrate else None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with nullcontext() if out is None else ScoreFile(out / "scores.parquet") as file:
        figures = series_protocol.evaluate_points(
            methods,
            series,
            settings.shots,
            settings.draws,
            buffer,
            settings.seed,
            calibrators,
            settings.rate,
            progress("unseen series", len(series) * settings.draws),
            record_all(*([] if file is None else [file])),
        )
    results = {
        "protocol": {
            **_protocol(settings, data, series, left_out, stride, buffer),
            "batch_norm": {name: batch_norm_of(c.learner) for name, c in checkpoints.items()},
            "trained_or_chosen_on": {name: c.trained_on for name, c in checkpoints.items()},
            "methods": describe_methods(methods, checkpoints),
        },
        "methods": figures,
        "environment": environment("cpu"),
    }
    if out is not None:
        write_json(out / "results.json", results)
    return results


def _open(settings: _Settings, checkpoints: Mapping[str, Checkpoint]) -> SequenceEpisodes:
    if settings.data.suffix in (".yaml", ".yml"):
        data: EpisodeDataModule = data_of_config(settings.data, checkpoints)
    else:
        shapes: dict[str, Any] = next((c.learner.arguments()["input_shapes"] for c in checkpoints.values()), {})
        window = shapes.get(SequenceModality.name, [USUAL_WINDOW])[0]
        least = EpisodeSpec(support_normal=1, query_normal=1, query_anomalous=1)
        data = SequenceEpisodes(
            "own", str(settings.data), {"test": ["*"]}, window=window, stride=max(1, window // 4), episode=least
        )
    if not isinstance(data, SequenceEpisodes):
        raise ValueError(
            f"evaluate_points (--points) is for series, but {settings.data} gives {data.input_shapes}: use evaluate"
        )
    return data


def _check_numbers(settings: _Settings, stride: int, buffer: int, window: int) -> None:
    for name, value, least in [
        ("shots", settings.shots, 1),
        ("draws", settings.draws, 1),
        ("buffer", buffer, 0),
        ("longest", window if settings.longest is None else settings.longest, window),
    ]:
        if value < least:
            raise ValueError(f"{name} (--{name}) is {value}; expected at least {least}")
    if settings.calibrate == "across":
        raise ValueError(
            "calibrate (--calibrate) is 'across'; points (--points) take 'within' or none: a series is compared with "
            "its own support windows"
        )
    if settings.alpha is not None and not settings.calibrate:
        raise ValueError(
            f"alpha (--alpha) is {settings.alpha}, but points (--points) have no threshold: add calibrate='within' "
            "(--calibrate within)"
        )
    if settings.calibrate and not can_hold(settings.rate, settings.shots):
        raise ValueError(
            f"alpha (--alpha) is {settings.rate}; by {settings.shots} support windows expected "
            f"{1 / (settings.shots + 1):.3f} to 1: raise it or shots (--shots)"
        )
    if not 1 <= stride <= window:
        raise ValueError(
            f"stride (--stride) is {stride}; expected 1 to {window}, the window, so that every point has a score"
        )


def _testable(candidates: Sequence[LabelledSeries], settings: _Settings) -> tuple[list[LabelledSeries], list[str]]:
    """The series that can be tested, and reasons for those that can't; raises ValueError if too few can."""
    testable, left_out = [], []
    for series in candidates:
        tested = series if settings.longest is None else series.first(settings.longest)
        if len(tested.support) < settings.shots:
            left_out.append(f"{tested.name}: {len(tested.support)} normal windows before the part that is tested")
        elif len(set(tested.labels.tolist())) < 2:
            left_out.append(f"{tested.name}: {len(tested.labels)} points are tested, all of one kind")
        elif len(tested.values) < tested.window:
            left_out.append(f"{tested.name}: {len(tested.values)} points are tested, fewer than a window")
        else:
            testable.append(tested)
    if len(testable) < LEAST_TASKS:
        raise ValueError(
            f"{settings.data} has {len(testable)} series that can be tested on {settings.shots} windows, and an "
            f"interval over fewer than {LEAST_TASKS} says nothing about others: give more series with labels, or lower "
            f"shots (--shots). Left out: {'; '.join(left_out[:5]) or 'none'}"
        )
    return testable, left_out


def _protocol(
    settings: _Settings,
    data: SequenceEpisodes,
    series: Sequence[LabelledSeries],
    left_out: Sequence[str],
    stride: int,
    buffer: int,
) -> dict[str, Any]:
    """All settings of the evaluation."""
    longest = "whole" if settings.longest is None else f"its first {settings.longest:,} points"
    return {
        "data": data.description(),
        "account": data.skipped,
        "split": "test",
        "judged": "point by point, without point adjustment",
        "tasks": len(series),
        "episodes": len(series) * settings.draws,
        "points": sum(len(s.labels) for s in series),
        "anomalous_points": int(sum(s.labels.sum() for s in series)),
        "support": f"{settings.shots} normal windows of {data.rule.window} steps out of each series' training part (or "
        f"its first {data.rule.support_share:.0%}, where it has none), the same for all methods; they may overlap one "
        "another, but share no point with the scored part",
        "draws": f"{settings.draws} of the support; a series' figures are their means",
        "scored": f"each series' later part, {longest}; windows every {stride} steps, a point's score is the mean over "
        "the windows that cover it",
        "vus": f"mean over buffers of 0 to {buffer} points, every score a threshold",
        "threshold": WITHIN if settings.calibrate else "none: all figures are over ranks",
        **({"alpha": settings.rate} if settings.calibrate else {}),
        "left_out": list(left_out),
        "intervals": "95 % BCa bootstrap over series; differences paired by series, Wilcoxon signed-rank",
        "seed": settings.seed,
    }
