"""`metaad serve`: scores over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path

from metaad_zoo.cli.arguments import decision_way, threshold_arguments
from metaad_zoo.cli.terminal import note

HELP = "serve scores over HTTP"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="folder of a detector, written by `metaad adapt`")
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 for all interfaces (default: 127.0.0.1, only this machine)",
    )
    command.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    threshold_arguments(command)
    command.add_argument(
        "--max-samples", type=int, default=1024, help="maximum number of samples in a request (default: 1024)"
    )
    command.add_argument(
        "--max-bytes", type=int, default=16_000_000, help="maximum size of a request in bytes (default: 16000000)"
    )
    command.add_argument(
        "--max-pixels",
        type=int,
        default=50_000_000,
        help="maximum number of pixels of all image files in a request (default: 50000000)",
    )
    command.add_argument(
        "--max-seconds",
        type=float,
        default=30.0,
        help="maximum time in seconds for the head of a request, for its body, and until scoring begins (default: 30)",
    )


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.detector import load_detector
    from metaad_zoo.zoo.manifest import support_in_words

    try:
        from metaad_zoo.serve import ServerSettings, serve
    except ImportError as error:
        raise ValueError(f"litserve is missing ({error}): pip install 'metaad_zoo[serve]'") from error
    detector = load_detector(options.folder)
    if detector.is_fitted:  # else the server refuses it
        note(f"{detector.method}, adapted to {support_in_words(detector.support_counts)}")
        options.alpha, options.calibrate, _ = decision_way(options, detector)
    settings = {name: x for name, x in vars(options).items() if name in ServerSettings.__dataclass_fields__}
    serve(ServerSettings(**settings))
