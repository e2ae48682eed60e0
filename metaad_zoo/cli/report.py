"""`metaad report`: results as one HTML page."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from metaad_zoo.cli.arguments import json_argument
from metaad_zoo.cli.terminal import tell

HELP = "write results as an HTML page with tables and plots"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="folder written by `metaad evaluate`, or a finished run")
    json_argument(command)


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.evaluation.html_report import write_report

    report = write_report(options.folder)
    lines = [f"Not on the page: {sentence}" for sentence in report.missing]
    lines.append(f"{report.page}, and {len(report.figures)} pictures in {options.folder / 'figures'}")
    tell(options.json, asdict(report), "\n".join(lines))
