"""`metaad publish`: publish a finished run as a checkpoint with a card."""

from __future__ import annotations

import argparse
from pathlib import Path

from metaad_zoo.cli.arguments import json_argument
from metaad_zoo.cli.terminal import note, tell

HELP = "publish a finished run as a checkpoint with a card"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="RUN", type=Path, nargs="?", help="finished run: runs/<name>/<time>")
    command.add_argument("--name", help="name of the checkpoint: <modality>-<backbone>-<learner>-<data>")
    command.add_argument("--notes", type=Path, help="Markdown file with limits of the model, added to the card")
    command.add_argument(
        "--data-licence", help="licence of your own data, under which models trained on it may be published"
    )
    command.add_argument(
        "--to", type=Path, default=Path("checkpoints"), help="folder of published checkpoints (default: checkpoints)"
    )
    command.add_argument("--replace", action="store_true", help="overwrite an existing checkpoint of this name")
    command.add_argument("--refresh", action="store_true", help="rewrite all cards and the index, and publish nothing")
    command.add_argument(
        "--training-tasks",
        nargs="+",
        metavar="NAME",
        default=[],
        help="with --refresh: add statistics of the training tasks to these checkpoints, so that the models warn about "
        "supports unlike these tasks; needs the training data",
    )
    command.add_argument(
        "--modality-calibration",
        nargs="+",
        metavar="NAME",
        default=[],
        help="with --refresh: add calibration scores of samples that lack some of several modalities to these "
        "checkpoints; needs the validation data",
    )
    json_argument(command)


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.experiment.shown_calibration import add_shown_calibration
    from metaad_zoo.experiment.training_tasks import add_training_tasks
    from metaad_zoo.zoo import publish, refresh
    from metaad_zoo.zoo.published import CARD

    if options.refresh:
        if options.folder is not None or options.name is not None:
            raise ValueError("--refresh takes neither a run nor --name: it rewrites all cards and the index")
        for name in options.training_tasks:
            if not add_training_tasks(options.to / name):
                note(f"{name} was trained without tasks that have statistics: nothing is added")
        for name in options.modality_calibration:
            if not add_shown_calibration(options.to / name):
                note(f"{name} reads one modality: nothing is added")
        changed = refresh(options.to)
        sentence = f"{len(changed)} files changed" + "".join(f"\n{path}" for path in changed)
        tell(options.json, {"changed": [str(path) for path in changed]}, sentence)
        return
    if options.training_tasks or options.modality_calibration:
        option = "--training-tasks" if options.training_tasks else "--modality-calibration"
        raise ValueError(f"{option} needs --refresh")
    if options.folder is None or options.name is None:
        raise ValueError("expected metaad publish RUN --name NAME, or metaad publish --refresh")
    notes = options.notes.read_text(encoding="utf-8") if options.notes else None
    folder = publish(options.folder, options.name, options.to, notes, options.data_licence, options.replace, note)
    figures = {"folder": folder, "files": sorted(f.name for f in folder.iterdir())}
    tell(options.json, figures, f"Published {folder}. Read what its card says:  {folder / CARD}")
