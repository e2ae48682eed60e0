"""`metaad export` and `metaad serve`: a detector leaves the workshop."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from metaad_zoo.cli.terminal import note
from metaad_zoo.detector import load_detector
from metaad_zoo.evaluation.decisions import USUAL_ALPHA
from metaad_zoo.export import EXPORTED_WAYS, Format, export_detector


def _export_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", help="what `metaad adapt` wrote")
    command.add_argument("--format", choices=get_args(Format), help="by default what --out ends in")
    command.add_argument("--out", type=Path, required=True, help="file to write, such as detector.onnx")
    judge = command.add_mutually_exclusive_group()
    judge.add_argument("--alpha", type=float, default=USUAL_ALPHA, help="false-alarm rate of the threshold inside")
    judge.add_argument("--scores-only", action="store_true", help="no threshold inside; needs no calibration")
    _calibrate_argument(command)
    command.add_argument("--json", action="store_true", help="for machines")


def _calibrate_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--calibrate",
        choices=EXPORTED_WAYS,
        default="across",
        help="where the threshold comes from: scores of the validation tasks (across, the usual), or of the support "
        "set, each sample left out once (within)",
    )


def _export(options: argparse.Namespace) -> None:
    alpha = None if options.scores_only else options.alpha
    about = export_detector(load_detector(options.folder), options.out, options.format, alpha, options.calibrate)
    if options.json:
        print(json.dumps(asdict(about)))
        return
    shapes = ", ".join(f"{name} (n, {', '.join(map(str, shape))})" for name, shape in about.inputs.items())
    print(f"{options.out}: {shapes} -> {', '.join(about.outputs)}; its scores are those of {options.folder}")
    if "image" in about.inputs:
        note("it reads pictures of that size between 0 and 1: resize bilinearly, antialiased (docs/production.md)")


Verb = tuple[Callable[[argparse.Namespace], None], str, Callable[[argparse.ArgumentParser], None]]


def _serve_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="what `metaad adapt` wrote")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all of this machine's")
    command.add_argument("--port", type=int, default=8000)
    command.add_argument("--alpha", type=float, default=USUAL_ALPHA, help="false-alarm rate of the decisions")
    _calibrate_argument(command)
    command.add_argument("--max-samples", type=int, default=1024, help="of one request")
    command.add_argument("--max-bytes", type=int, default=16_000_000, help="of one request")


def _serve(options: argparse.Namespace) -> None:
    try:
        from metaad_zoo.serve import ServerSettings, serve
    except ImportError as error:
        raise ValueError(f"litserve is missing ({error}): pip install 'metaad_zoo[serve]'") from error
    given = {name: x for name, x in vars(options).items() if name in ServerSettings.__dataclass_fields__}
    serve(ServerSettings(**given))


VERBS: Mapping[str, Verb] = {
    "serve": (_serve, "answer requests for scores over HTTP", _serve_arguments),
    "export": (_export, "write an adapted detector as one ONNX or torch.export graph", _export_arguments),
}
