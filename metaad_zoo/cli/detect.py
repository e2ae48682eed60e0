"""`metaad detect`: adapt, score, decide, explain and report in one go."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from metaad_zoo.cli.arguments import (
    adaptive_argument,
    column_options,
    decision_arguments,
    decision_choice,
    fdr_argument,
    follows,
    json_argument,
    note_many_flagged,
    refuse_replacing,
    require_folder,
    support_arguments,
    unlabelled_arguments,
)
from metaad_zoo.cli.novelty import note_novelty
from metaad_zoo.cli.opening import fitted_detector, model_arguments, region_argument
from metaad_zoo.cli.terminal import DAMAGED, OK, bars, note, note_account, tell

HELP = "adapt to normal samples, then score new ones, explain what is flagged, and write a report"
EXPLAINED = 20
"""Number of pictures of the highest scores."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--method",
        dest="name",
        metavar="NAME",
        help="detector, as for `metaad adapt` (default: the default detector for the kind of samples; for series use "
        "--method series: a single CSV file is otherwise read as a table)",
    )
    support_arguments(command)
    unlabelled_arguments(command)
    command.add_argument("--data", type=Path, required=True, help="new samples, of the same kind as the support")
    command.add_argument(
        "--out", type=Path, required=True, help="folder to write report.html, scores.csv, pictures and the detector to"
    )
    command.add_argument(
        "--top", type=int, default=EXPLAINED, metavar="N", help=f"explain at most N samples (default: {EXPLAINED})"
    )
    model_arguments(command)
    region_argument(command)
    decision_arguments(command)
    adaptive_argument(command)
    fdr_argument(command)
    json_argument(command)


def run(options: argparse.Namespace) -> int:
    from metaad_zoo.evaluation.labelled import in_words
    from metaad_zoo.experiment.detect import EVENTS, REPORT, WRITTEN, conclusion, detect
    from metaad_zoo.explain import Explained
    from metaad_zoo.modality.streams import SampleStream

    require_folder(options.out)
    written = [options.out / name for name in WRITTEN]
    refuse_replacing(written, [options.support, options.unlabelled, options.data])
    to_decide = options.unlabelled is None or options.calibrate == "contamination"
    detector, name, reading = fitted_detector(options, None if to_decide else options.contamination)
    options.contamination = options.contamination if to_decide else None
    novelty = note_novelty(detector)
    timed = any(schema.time for schema in detector.schemas.values())
    if timed and len(detector.usual_shapes) == 1 and not detector.reads_windows:
        note("there is a column of times, but each row is judged by itself: for a series say --method series")
    choice = decision_choice(options, detector, only_anomalous=True, top=options.top)
    adaptive = choice.decided and follows(options, detector)
    columns = column_options(options, detector.input_shapes)
    how = {**detector.image_options, "damaged": "empty", "carry": True}
    stream = SampleStream(options.data, detector.input_shapes, columns, detector.schemas, below=True, **how)
    refuse_replacing(written, stream.files)
    detector.save(options.out / "detector")
    with bars() as progress:
        bar = progress.add_task("scoring", total=1.0)

        def tick(figures: Explained) -> None:
            progress.update(bar, completed=figures.done, description=f"{figures.samples} scored")

        detection = detect(detector, stream, options.out, choice, tick, adaptive, note)
    note_account(stream.account)
    if detector.reads_windows and detection.series is None and (options.out / EVENTS).exists():
        note(f"no events are written; {options.out / EVENTS} is of an earlier run")
    if detection.none_selected:
        note(detection.none_selected)
    note_many_flagged(detection.anomalous, detection.samples)
    if detection.figures:
        note(f"on {detection.labelled} labelled samples, with 95 % intervals: {in_words(detection.figures)}")
    figures = asdict(detection) | {"checkpoint": name, "novelty": novelty, "out": options.out}
    figures |= {"unlabelled": detector.unlabelled, "contamination": detector.contamination}
    figures |= {"account": reading.account.as_json() + stream.account.as_json()}
    tell(options.json, figures, f"{conclusion(detection)}\nReport: {options.out / REPORT}")
    return DAMAGED if stream.account.damaged or reading.account.damaged else OK
