"""`metaad score`: scores, p-values and decisions of any number of samples, as a CSV file."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaad_zoo.cli.arguments import (
    adapted_detector,
    column_options,
    data_arguments,
    decision_arguments,
    decision_way,
    fdr_argument,
    json_argument,
    note_many_flagged,
)
from metaad_zoo.cli.novelty import note_novelty
from metaad_zoo.cli.terminal import DAMAGED, OK, bars, note, note_account, tell

if TYPE_CHECKING:
    import numpy as np

    from metaad_zoo.data.read.series import Piece
    from metaad_zoo.data.windows import Pooling
    from metaad_zoo.detector import Detector
    from metaad_zoo.modality.streams import SampleStream

HELP = "score any number of samples with a detector, in constant memory"

Rows = Iterator[tuple[list[str], "np.ndarray", "np.ndarray | None", Mapping[str, "np.ndarray"], float]]
"""Names, scores, labels and carried columns of some samples, and the share of all samples that is scored with them."""

Scores = Callable[[Any], "np.ndarray"]
"""Scores of samples."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    data_arguments(command)
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="CSV file to write: sample, score, p_value, anomaly, and the times and identifiers of the data",
    )
    decision_arguments(command)
    fdr_argument(command)
    command.add_argument(
        "--points",
        action="store_true",
        help="score each time step of a series by the mean score of the windows that cover it, instead of consecutive "
        "windows; p-values compare this mean with scores of whole windows",
    )
    command.add_argument(
        "--causal",
        action="store_true",
        help="with --points: score each time step by the last window that ends at or before it, as a live series is "
        "scored; the first steps of a series have no score",
    )
    command.add_argument("--stride", type=int, help="with --points: number of steps between windows (default: 1)")
    json_argument(command)


def run(options: argparse.Namespace) -> int:
    import numpy as np

    from metaad_zoo.evaluation.labelled import in_words
    from metaad_zoo.experiment.score_file import ScoreCsv
    from metaad_zoo.modality.streams import SampleStream

    out: Path = options.out
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: name a file, such as {out / 'scores.csv'}")
    if out.is_symlink() or (out.exists() and not out.is_file()):  # it would be replaced: /dev/stdout, for one
        raise ValueError(f"--out {out} is a link or a device, which a new file would replace: name a file")
    if (options.stride is not None or options.causal) and not options.points:
        raise ValueError(f"{'--causal' if options.causal else '--stride'} is only with --points")
    detector = adapted_detector(options.folder)
    way = decision_way(options, detector)  # refuses what can't be decided before any work
    calibrate = way[1]
    chosen = column_options(options, detector.input_shapes)
    reading = {**detector.image_options, "damaged": "empty", "carry": True}
    stream = SampleStream(options.data, detector.input_shapes, chosen, detector.schemas, below=True, **reading)
    score_them = partial(
        detector.score_windows if options.points else detector.score_known, leave_one_out=calibrate == "contamination"
    )
    rows = (
        _points(
            detector,
            score_them,
            stream,
            1 if options.stride is None else options.stride,
            "last" if options.causal else "mean",
        )
        if options.points
        else _scored(score_them, stream)
    )
    with ScoreCsv(out, options.fdr) as written, bars() as progress:
        bar = progress.add_task("scoring", total=1.0)
        for names, scores, labels, carried, done in rows:
            p, decisions = detector.decide(scores[~np.isnan(scores)], *way)
            written.add(names, scores, p, decisions if options.fdr is None else None, labels, carried)
            progress.update(bar, completed=done, description=f"{written.n} scored")
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
        if options.causal:
            why = f"have no value or stand among the first {detector.window - 1} of a series or behind a gap"
        note(f"{unknown} of {n} {what} {why}: their score, p-value and decision are left empty")
    note_many_flagged(anomalous, n)
    judged = written.figures()
    figures["figures"] = {name: asdict(figure) for name, figure in judged.items()}
    if judged:
        note(f"on {written.labelled} labelled {what}, with 95 % intervals over them: {in_words(judged)}")
    tell(options.json, figures, f"{anomalous} of {n} {what} called anomalous{by} ({calibrate}): {out}")
    return DAMAGED if stream.account.damaged else OK


def _scored(score_them: Scores, stream: SampleStream) -> Rows:
    for chunk in stream:
        yield chunk.names, score_them(chunk.samples), chunk.labels, chunk.carried, chunk.done


def _points(detector: Detector, score_them: Scores, stream: SampleStream, stride: int, how: Pooling) -> Rows:
    import numpy as np

    from metaad_zoo.data.point_stream import stream_point_scores
    from metaad_zoo.data.read.times import time_texts

    if not detector.reads_windows:
        raise ValueError(f"--points is for models of series; this one reads {sorted(detector.input_shapes)}")
    for file in stream.files:
        step, shares = 0, [0.0]
        for pieces in _between_gaps(stream.series(file)):
            labels: list[np.ndarray] = []
            times: list[np.ndarray] = []

            def blocks(
                pieces: Iterable[tuple[Piece, float]] = pieces,
                labels: list[np.ndarray] = labels,
                times: list[np.ndarray] = times,
            ) -> Iterator[np.ndarray]:
                for piece, shares[0] in pieces:  # noqa: B023 - used up before the next turn
                    if piece.times is not None:
                        times.append(time_texts(piece.times, piece.in_seconds))
                    labels.append(np.full(len(piece.values), -1) if piece.labels is None else piece.labels)
                    yield piece.values

            for scores in stream_point_scores(score_them, blocks(), detector.window, stride, how, short=step > 0):
                n, of_points = len(scores), np.concatenate(labels)
                of_times = np.concatenate(times) if times else None
                carried = {} if of_times is None else {"time": of_times[:n]}
                yield [f"{file}:{step + i}" for i in range(n)], scores, of_points[:n], carried, shares[0]
                labels[:], times[:] = [of_points[n:]], [] if of_times is None else [of_times[n:]]
                step += n


def _between_gaps(pieces: Iterable[tuple[Piece, float]]) -> Iterator[Iterable[tuple[Piece, float]]]:
    """The pieces of a series, in groups without a gap."""
    groups = itertools.count()
    place = [next(groups)]

    def group(piece: tuple[Piece, float]) -> int:
        if not piece[0].continues:
            place[0] = next(groups)
        return place[0]

    for _, several in itertools.groupby(pieces, group):
        yield several
