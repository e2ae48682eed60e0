"""`metaad explain`: what in the samples made their scores."""

from __future__ import annotations

import argparse
from pathlib import Path

from metaad_zoo.cli.arguments import adapted_detector, data_arguments, json_argument
from metaad_zoo.cli.terminal import note_left_out, tell

HELP = "show what in the samples made their scores"


def add_arguments(command: argparse.ArgumentParser) -> None:
    data_arguments(command)
    command.add_argument(
        "--out", type=Path, required=True, help="folder to write a picture of each sample and explanations.npz to"
    )
    command.add_argument(
        "--method",
        choices=("auto", "integrated_gradients", "nearest", "occlusion", "patches"),
        default="auto",
        help="attribution method (default: auto)",
    )
    json_argument(command)


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.data.streams import SampleStream, gathered
    from metaad_zoo.explain import write_explanations

    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file: name a folder")
    detector = adapted_detector(options.folder)
    reading = detector.image_options
    stream = SampleStream(options.data, detector.input_shapes, options.label, detector.columns, **reading)
    names, samples = gathered(stream)
    note_left_out(stream)
    columns = {next(iter(samples)): list(stream.columns)} if stream.columns else {}
    write_explanations(detector, names, samples, options.out, options.method, columns)
    figures = {"samples": len(names), "out": options.out}
    tell(options.json, figures, f"{len(names)} pictures and explanations.npz: {options.out}")
