"""`metaad export`: a detector as one ONNX or torch.export graph."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from metaad_zoo.cli.arguments import adapted_detector, decision_way, json_argument, threshold_arguments
from metaad_zoo.cli.terminal import note

HELP = "export a detector as an ONNX or torch.export graph"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", help="folder of a detector, written by `metaad adapt`")
    command.add_argument("--format", choices=("onnx", "pt2"), help="file format (default: from the suffix of --out)")
    command.add_argument("--out", type=Path, required=True, help="file to write, such as detector.onnx")
    command.add_argument(
        "--scores-only", action="store_true", help="export scores without a threshold; needs no calibration"
    )
    threshold_arguments(command)
    json_argument(command)


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.export import export_detector
    from metaad_zoo.modality import get_modality

    if options.scores_only and options.alpha is not None:
        raise ValueError("--scores-only exports no threshold: leave out --alpha, or --scores-only")
    detector = adapted_detector(options.folder)
    alpha, calibrate, _ = (None, None, None) if options.scores_only else decision_way(options, detector)
    about = export_detector(detector, options.out, options.format, alpha, calibrate)
    if options.json:
        print(json.dumps(asdict(about)))
        return
    shapes = ", ".join(f"{name} (n, {', '.join(map(str, shape))})" for name, shape in about.inputs.items())
    print(f"{options.out}: {shapes} -> {', '.join(about.outputs)}; its scores are those of {options.folder}")
    for name in about.inputs:
        if preparation := get_modality(name).preparation:
            note(preparation)
