"""`metaad recommend`: which model or baseline to take for a support set."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from metaad_zoo.cli.arguments import column_options, json_argument, modality_name, require_folder, support_arguments
from metaad_zoo.cli.terminal import note, progress_bars, wide_console
from metaad_zoo.modality import list_modalities

if TYPE_CHECKING:
    from metaad_zoo.evaluation.choosing import Recommendation

HELP = "recommend a method for your samples, with reasons"


def add_arguments(command: argparse.ArgumentParser) -> None:
    support_arguments(command)
    command.add_argument(
        "--models",
        nargs="*",
        help="checkpoints to try besides the baselines, by name or folder (default: all)",
    )
    command.add_argument(
        "--modality",
        type=modality_name,
        help=f"modality of the samples, one of {', '.join(list_modalities(several=True))} (default: inferred from the "
        "files)",
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to save the recommended method to, adapted to the samples"
    )
    json_argument(command)


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.evaluation.report import finite
    from metaad_zoo.experiment.recommend import recommend

    columns = column_options(options)
    if options.out is not None:
        require_folder(options.out)
    with progress_bars() as progress:
        advice = recommend(
            options.support, None, options.models, options.modality, columns, options.out, progress=progress
        )
    for entry in advice.account:
        note(entry["sentence"])
    if options.json:
        print(json.dumps(finite(asdict(advice))))
    else:
        _show(advice)


def _show(advice: Recommendation) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("method", no_wrap=True)  # to be copied as it is
    for title in ("expected", "AUROC in your samples", "standard error", "not tried because"):
        table.add_column(title)
    for c in advice.candidates:
        expected = "" if c.expected is None else f"{100 * c.expected:+.1f}"
        figures = ("", "") if c.reason else (f"{100 * c.auroc:.1f}", f"{100 * c.spread:.1f}")
        table.add_row(c.name, expected, *figures, c.reason or "")
    console = wide_console()
    console.print(table)
    console.print("Expected: points of AUROC above the mean of these methods, on real anomalies.")
    console.print(f"Take [bold]{advice.choice}[/bold]: {advice.why}", soft_wrap=True)
    print(f"Next, try:  {advice.use}")
