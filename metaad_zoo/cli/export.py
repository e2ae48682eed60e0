"""`metaad export`: a detector as one ONNX or torch.export graph."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from metaad_zoo.cli.arguments import calibrate_argument, json_argument
from metaad_zoo.cli.terminal import note

HELP = "export a detector as an ONNX or torch.export graph"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", help="folder of a detector, written by `metaad adapt`")
    command.add_argument("--format", choices=("onnx", "pt2"), help="file format (default: from the suffix of --out)")
    command.add_argument("--out", type=Path, required=True, help="file to write, such as detector.onnx")
    judge = command.add_mutually_exclusive_group()
    judge.add_argument(
        "--alpha", type=float, default=0.1, help="target false-alarm rate of the threshold in the graph (default: 0.1)"
    )
    judge.add_argument(
        "--scores-only", action="store_true", help="export scores without a threshold; needs no calibration"
    )
    calibrate_argument(command)
    json_argument(command)


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.detector import load_detector
    from metaad_zoo.export import export_detector
    from metaad_zoo.modality import get_modality

    alpha = None if options.scores_only else options.alpha
    about = export_detector(load_detector(options.folder), options.out, options.format, alpha, options.calibrate)
    if options.json:
        print(json.dumps(asdict(about)))
        return
    shapes = ", ".join(f"{name} (n, {', '.join(map(str, shape))})" for name, shape in about.inputs.items())
    print(f"{options.out}: {shapes} -> {', '.join(about.outputs)}; its scores are those of {options.folder}")
    for name in about.inputs:
        if preparation := get_modality(name).preparation:
            note(preparation)
