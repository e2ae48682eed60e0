"""`metaad update`: further normal samples for a detector that is adapted already."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from metaad_zoo.cli.arguments import (
    adapted_detector,
    column_options,
    json_argument,
    require_folder,
    support_arguments,
)
from metaad_zoo.cli.novelty import note_novelty
from metaad_zoo.cli.terminal import note_account, tell

HELP = "add normal samples to the support set of a detector, which keeps the earlier ones"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", help="folder of a detector, written by `metaad adapt`")
    support_arguments(command)
    command.add_argument("--out", type=Path, help="folder to write the detector to (default: overwrite FOLDER)")
    json_argument(command)


def run(options: argparse.Namespace) -> None:
    out = Path(options.folder) if options.out is None else options.out
    require_folder(out)
    detector = adapted_detector(options.folder)
    if options.out is None and not out.is_dir():
        raise ValueError(f"{options.folder} is no folder on this machine: name one to write to (--out)")
    chosen = column_options(options, detector.input_shapes)
    columns = {name: getattr(chosen, name) for name in ("columns", "label", "time", "ignore", "decimal")}
    detector.update(options.support, **columns)
    detector.save(out)
    note_account(detector.account)
    novelty, change = note_novelty(detector), detector.change
    assert change is not None
    figures = {**asdict(change), "support": detector.support_counts, "columns": detector.columns, "out": out}
    figures |= {"novelty": novelty, "account": detector.account.as_json()}
    sentence = f"{change.added} of {change.added + change.repeated} samples joined the support set of {out}"
    tell(options.json, figures, f"{sentence}. Next, try:  metaad score {out} --data PATH --out scores.csv")
