"""`metaad score`: scores, p-values and decisions of any number of samples, as a CSV file, and events of series."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaad_zoo.cli.arguments import (
    adapted_detector,
    adaptive_argument,
    column_options,
    data_arguments,
    decision_arguments,
    decision_way,
    fdr_argument,
    follows,
    json_argument,
    note_many_flagged,
    refuse_replacing,
)
from metaad_zoo.cli.novelty import note_novelty
from metaad_zoo.cli.terminal import DAMAGED, OK, bars, note, note_account, tell

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from metaad_zoo.data.windows import Pooling
    from metaad_zoo.detector import Detector
    from metaad_zoo.experiment.series_report import SeriesReport
    from metaad_zoo.modality.streams import SampleStream

HELP = "score any number of samples with a detector, in constant memory"


@dataclass(frozen=True)
class Rows:
    """Some scored samples, with the columns that the data carry and the share of all samples that is scored with them;
    ``values``, ``times`` and ``after_gap`` are those of steps or windows of series, as in
    :meth:`metaad_zoo.experiment.series_report.SeriesReport.decide`; ``several`` are the samples with a score, if
    they are of several modalities."""

    names: list[str]
    scores: np.ndarray
    labels: np.ndarray | None
    carried: Mapping[str, np.ndarray]
    done: float
    values: np.ndarray | None
    times: np.ndarray | None = None
    after_gap: np.ndarray | None = None
    several: dict[str, Tensor] | None = None


Scores = Callable[[Any], "np.ndarray"]
"""Scores of samples."""
Way = tuple[Any, Any, Any]
"""False-alarm rate, way to calibrate and contamination that decide."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    data_arguments(command)
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="CSV file to write: sample, score, p_value, anomaly, and the times and identifiers of the data; for "
        "series, events.csv is written to the same folder",
    )
    decision_arguments(command)
    adaptive_argument(command)
    fdr_argument(command)
    command.add_argument(
        "--points",
        action="store_true",
        help="score each time step of a series by the mean score of the windows that cover it, instead of consecutive "
        "windows; p-values compare with time steps of the support's history",
    )
    command.add_argument(
        "--causal",
        action="store_true",
        help="with --points: score each time step by the last window that ends at or before it, as a live series is "
        "scored; the first steps of a series have no score",
    )
    command.add_argument("--stride", type=int, help="with --points: number of steps between windows (default: 1)")
    command.add_argument(
        "--plot",
        action="store_true",
        help="draw whole series with score, threshold and events, as PNG files beside the scores",
    )
    json_argument(command)


def run(options: argparse.Namespace) -> int:
    from metaad_zoo.evaluation.labelled import in_words
    from metaad_zoo.experiment.score_file import ScoreCsv
    from metaad_zoo.modality.streams import SampleStream

    out: Path = options.out
    _check_out(options)
    if (options.stride is not None or options.causal) and not options.points:
        raise ValueError(f"{'--causal' if options.causal else '--stride'} is only with --points")
    detector = adapted_detector(options.folder)
    if options.points and not detector.reads_windows:
        raise ValueError(f"--points is for models of series; this one reads {sorted(detector.input_shapes)}")
    if options.points and options.fdr is not None:
        raise ValueError(
            "--fdr selects among samples, and neighbouring points share windows, so that one incident would count as "
            "many: leave out --points to select among windows, or take --alpha, which merges points into events"
        )
    stride = 1 if options.stride is None else options.stride
    if options.points and not options.causal:
        detector = detector.with_point_stride(stride)
    # Refuses what can't be decided before any work.
    way = decision_way(options, detector, options.points and not options.causal)
    calibrate = way[1]
    chosen = column_options(options, detector.input_shapes)
    reading = {**detector.image_options, "damaged": "empty", "carry": True}
    stream = SampleStream(options.data, detector.input_shapes, chosen, detector.schemas, below=True, **reading)
    refuse_replacing(_written(options, detector.reads_windows), stream.files)
    score_them = partial(
        detector.score_windows if options.points else detector.score_known, leave_one_out=calibrate == "contamination"
    )
    if options.points:
        rows = _points(score_them, stream, detector.window, stride, "last" if options.causal else "mean")
    else:
        rows = _scored(detector, score_them, stream, way)
    with ExitStack() as stack:
        report = _report(options, detector, way, stream)
        written = stack.enter_context(ScoreCsv(out, options.fdr))
        progress = stack.enter_context(bars())
        if report is not None:
            stack.enter_context(report)
        bar = progress.add_task("scoring", total=1.0)
        for part in rows:
            p, decisions = _decided(detector, way, report, part)
            written.add(part.names, part.scores, p, None if options.fdr else decisions, part.labels, part.carried)
            progress.update(bar, completed=part.done, description=f"{written.n} scored")
    n, anomalous, unknown = written.n, written.anomalous, written.without_value
    note_account(stream.account)
    novelty = note_novelty(detector)
    bound, rate = ("alpha", way[0]) if options.fdr is None else ("fdr", options.fdr)
    figures: dict[str, Any] = {"samples": n, "anomalous": anomalous, "without_value": unknown, bound: rate}
    figures |= {"calibrate": calibrate, "out": out, "novelty": novelty, "account": stream.account.as_json()}
    what, by = "points" if options.points else "samples", "" if rate is None else f" at {bound}={rate}"
    if reason := written.too_few_scores(len(detector.normal_scores(*way[1:]))):
        note(reason)
    if unknown:
        why = "can't be read" if stream.account.damaged else "have no value at all"
        if options.points:
            why = "have no value at all or are in no window with a score"
        if options.causal:
            why = f"have no value or are among the first {detector.window - 1} of a series or after a gap"
        note(f"{unknown} of {n} {what} have no score, because they {why}: their cells are left empty")
    note_many_flagged(anomalous, n)
    judged = written.figures()
    figures["figures"] = {name: asdict(figure) for name, figure in judged.items()}
    if judged:
        note(f"on {written.labelled} labelled {what}, with 95 % intervals over them: {in_words(judged)}")
    sentence = f"{anomalous} of {n} {what} called anomalous{by} ({calibrate}): {out}"
    if report is not None:
        figures |= report.as_json()
        sentence += f"\n{report.log.sentence()}: {', '.join(map(str, [_events(out), *report.pictures]))}"
    tell(options.json, figures, sentence)
    return DAMAGED if stream.account.damaged else OK


def _check_out(options: argparse.Namespace) -> None:
    out: Path = options.out
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: name a file, such as {out / 'scores.csv'}")
    if out.is_symlink() or (out.exists() and not out.is_file()):  # it would be replaced: /dev/stdout, for one
        raise ValueError(f"--out {out} is a link or a device, which a new file would replace: name a file")
    refuse_replacing([out], [options.data])


def _events(out: Path) -> Path:
    """The file of events beside a file of scores."""
    return out.with_name("events.csv" if out.stem == "scores" else f"{out.stem}_events.csv")


def _written(options: argparse.Namespace, is_series: bool) -> list[Path]:
    """Files that will be written."""
    events = [_events(options.out)] if is_series and options.fdr is None else []
    return [options.out, *events, *([options.out.with_suffix(".png")] if options.plot else [])]


def _report(options: argparse.Namespace, detector: Detector, way: Way, stream: SampleStream) -> SeriesReport | None:
    """Events of series; None for other samples, and where all samples are selected together by ``--fdr``."""
    adaptive = follows(options, detector)
    if options.plot and (options.fdr is not None or not detector.reads_windows):
        raise ValueError("--plot draws series with a threshold: it is for models of series, without --fdr")
    if options.fdr is not None and detector.reads_windows:
        events = _events(options.out)
        stale = f"; {events} is of an earlier run" if events.exists() else ""
        note(f"no events are written: --fdr decides when all samples are scored, events need --alpha{stale}")
    if options.fdr is not None or not detector.reads_windows:
        return None
    from metaad_zoo.experiment.series_decisions import SeriesDecisions  # not for other samples
    from metaad_zoo.experiment.series_report import SeriesReport

    picture = options.out.with_suffix(".png") if options.plot else None
    decisions = SeriesDecisions(detector, *way, adaptive, options.points)
    return SeriesReport(detector, decisions, _events(options.out), picture, options.points, stream.schemas, note)


def _decided(detector: Detector, way: Way, report: SeriesReport | None, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """p-values and decisions of the samples that have a score."""
    if report is None or rows.values is None:
        return detector.decide(rows.scores[rows.scores == rows.scores], *way, rows.several)  # without NaN
    return report.decide(rows.names, rows.scores, rows.values, rows.times, rows.labels, rows.after_gap)


def _scored(detector: Detector, score_them: Scores, stream: SampleStream, way: Way) -> Iterator[Rows]:
    from metaad_zoo.modality.samples import have_values

    for chunk in stream:
        values = next(iter(chunk.samples.values())).numpy() if detector.reads_windows else None
        several = None
        if len(chunk.samples) > 1:
            valued = have_values(chunk.samples)
            several = {m: x[valued] for m, x in chunk.samples.items()}
            names = [name for name, is_valued in zip(chunk.names, valued.tolist(), strict=True) if is_valued]
            _note_missing(detector, stream, several, names, way)
        scores = score_them(chunk.samples)
        series = (values, chunk.times, chunk.after_gap)
        yield Rows(chunk.names, scores, chunk.labels, chunk.carried, chunk.done, *series, several)


def _note_missing(
    detector: Detector, stream: SampleStream, samples: dict[str, Tensor], names: list[str], way: Way
) -> None:
    """Add to the account the samples that lack some of several modalities, and the normal samples they compare with."""
    from metaad_zoo.evaluation.calibration import can_hold

    alpha, calibrate, contamination = way
    for name, modalities in zip(names, detector.compared_in(samples) if names else (), strict=True):
        lost = " and ".join(m for m in samples if m not in modalities)
        if not lost:
            continue
        why = f"scored without {lost}, which they or the support lack; so are the normal samples they are compared with"
        n = len(detector.normal_scores(calibrate, contamination, tuple(sorted(modalities))))
        if alpha is not None and not can_hold(alpha, n):
            why += f"; {n} of these can't promise {alpha} false alarms, so no such sample is called anomalous"
        stream.account.add("changed", "the samples", why, [name])


def _points(score_them: Scores, stream: SampleStream, window: int, stride: int, how: Pooling) -> Iterator[Rows]:
    from metaad_zoo.data.read.times import time_texts
    from metaad_zoo.experiment.series_points import scored_points

    for part in scored_points(score_them, stream, window, stride, how):
        carried = {} if part.times is None else {"time": time_texts(part.times)}
        series = (part.values, part.times, part.after_gap)
        yield Rows(part.names, part.scores, part.labels, carried, part.done, *series)
