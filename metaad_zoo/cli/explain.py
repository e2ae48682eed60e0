"""`metaad explain`: which parts of a sample cause its score."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from metaad_zoo.cli.arguments import (
    adapted_detector,
    column_options,
    data_arguments,
    decision_arguments,
    decision_choice,
    json_argument,
    require_folder,
)
from metaad_zoo.cli.terminal import DAMAGED, OK, bars, note, note_account, tell

if TYPE_CHECKING:
    from metaad_zoo.explain import Explained

HELP = "show which parts of a sample cause its score"


def add_arguments(command: argparse.ArgumentParser) -> None:
    data_arguments(command)
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder to write a picture of each sample, explanations.npz and, for images, boxes.csv to",
    )
    command.add_argument(
        "--method",
        choices=("auto", "integrated_gradients", "nearest", "occlusion", "patches"),
        default="auto",
        help="attribution method (default: auto)",
    )
    command.add_argument("--only-anomalous", action="store_true", help="explain only anomalous samples")
    command.add_argument("--top", type=int, metavar="N", help="explain only the N samples with the highest scores")
    decision_arguments(command)
    json_argument(command)


def run(options: argparse.Namespace) -> int:
    from metaad_zoo.explain import write_explanations
    from metaad_zoo.modality.streams import SampleStream

    require_folder(options.out)
    detector = adapted_detector(options.folder)
    choice = decision_choice(options, detector, options.only_anomalous, options.top)
    chosen = column_options(options, detector.input_shapes)
    reading = {**detector.image_options, "damaged": "empty"}
    stream = SampleStream(options.data, detector.input_shapes, chosen, detector.schemas, below=True, **reading)
    with bars() as progress:
        bar = progress.add_task("reading", total=1.0)

        def tick(figures: Explained) -> None:
            sentence = f"{figures.samples} read, {figures.pictures} explained"
            progress.update(bar, completed=figures.done, description=sentence)

        figures = write_explanations(
            detector, stream, options.out, options.method, choice, stream.schemas, stream.original, tick
        )
    note_account(stream.account)
    if figures.without_value:
        why = "can't be read" if stream.account.damaged else "have no value at all"
        note(f"{figures.without_value} of {figures.samples} samples {why}: they are not explained")
    done = asdict(figures) | {"out": options.out, "account": stream.account.as_json()}
    files = "explanations.npz" if figures.boxes is None else "explanations.npz and boxes.csv"
    tell(options.json, done, f"{figures.pictures} pictures, {files}: {options.out}")
    return DAMAGED if stream.account.damaged else OK
