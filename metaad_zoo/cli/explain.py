"""`metaad explain`: which parts of each sample its score comes from."""

from __future__ import annotations

import argparse
from pathlib import Path

from metaad_zoo.cli.arguments import adapted_detector, column_options, data_arguments, json_argument, require_folder
from metaad_zoo.cli.terminal import note_account, tell

HELP = "show which parts of each sample its score comes from"


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
    from metaad_zoo.explain import write_explanations
    from metaad_zoo.modality.samples import read_samples

    require_folder(options.out)
    detector = adapted_detector(options.folder)
    chosen = column_options(options, detector.input_shapes)
    reading = read_samples(options.data, detector.input_shapes, chosen, detector.schemas, **detector.image_options)
    note_account(reading.account)
    columns = {name: schema.features for name, schema in reading.schemas.items()}
    write_explanations(detector, reading.names, reading.samples, options.out, options.method, columns)
    figures = {"samples": len(reading.names), "out": options.out, "account": reading.account.as_json()}
    tell(options.json, figures, f"{len(reading.names)} pictures and explanations.npz: {options.out}")
