"""`metaad list`, `info`, `publish`, `pull` and `push`: published checkpoints on the command line."""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from metaad_zoo.cli.terminal import json_argument, note, printable, tell
from metaad_zoo.evaluation.baselines import about_baseline, list_baselines, modalities_of
from metaad_zoo.zoo import list_checkpoints, load_checkpoint, locate, publish, push_to_hub, read_index, refresh
from metaad_zoo.zoo.checkpoint import MANIFEST, read_manifest
from metaad_zoo.zoo.overview import auroc_cell, baseline_cell, told
from metaad_zoo.zoo.published import CARD, FILES, METRICS
from metaad_zoo.zoo.reading import TEXT_LIMIT, parse_json, read_bytes

TABLE_WIDTH = 118


def show_checkpoints(pattern: str, modality: str | None, as_json: bool) -> None:
    """Print the published checkpoints that a pattern matches, with their figures."""
    index = read_index()
    found = [index[name] for name in list_checkpoints(pattern, modality=modality)]
    if as_json:
        print(json.dumps([{**asdict(entry), "bytes": entry.size} for entry in found]))
        return
    if not found:
        chosen = f" of modality {modality}" if modality else ""
        print(f"No published checkpoint{chosen} is called {pattern!r}; there are {len(index)} in all.")
        return
    table = Table()
    table.add_column("name", no_wrap=True)  # to be copied as it is
    for title in ("data", "AUROC, %", "best baseline: its AUROC, ours minus it", "size"):
        table.add_column(title)
    for entry in found:
        figures = entry.figures
        row = (", ".join(entry.data), auroc_cell(figures), baseline_cell(figures), told(entry.size))
        table.add_row(entry.name, *row)
    _wide().print(table)
    print("Read its card before you take one:  metaad info NAME")


def _wide() -> Console:
    console = Console()
    return console if console.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)


def info_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="a published name, a folder or an address; or a baseline")
    command.add_argument("--json", action="store_true", help="for machines")


def info(options: argparse.Namespace) -> None:
    if options.name in list_baselines():
        _about_baseline(options.name, options.json)
        return
    folder = locate(options.name, papers=True)
    manifest = read_manifest(folder)
    if options.json:
        path = folder / METRICS
        metrics = parse_json(read_bytes(path, TEXT_LIMIT), str(path)) if path.exists() else None
        print(json.dumps({"folder": str(folder), "manifest": manifest, "metrics": metrics}))
    elif (folder / CARD).exists():
        text = printable(read_bytes(folder / CARD, TEXT_LIMIT).decode("utf-8", "replace"))
        _wide().print(Markdown(text.split("---\n", 2)[-1] if text.startswith("---\n") else text))
    else:
        seen = manifest["trained_on"]
        learner = printable(manifest["learner"])
        print(f"{folder}: {learner}, {manifest['arguments']}; trained on {len(seen)} classes or domains.")
        print("It has no card: that is written when a run is published.")


def _about_baseline(name: str, as_json: bool) -> None:
    """Print what a baseline is and its settings, as its docstring has them."""
    text = inspect.cleandoc(about_baseline(name)).replace(":class:", "").replace("``", "`")
    tell(as_json, {"name": name, "modalities": modalities_of(name), "text": text}, f"{name}, a baseline. {text}")


def publish_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="RUN", type=Path, nargs="?", help="a finished run, runs/<name>/<time>")
    command.add_argument("--name", help="<modality>-<backbone>-<learner>-<data>")
    command.add_argument("--notes", type=Path, help="a Markdown file on limits, for the card")
    command.add_argument("--data-licence", help="of your own data, if it may be used to publish models")
    command.add_argument("--to", type=Path, default=Path("checkpoints"), help="folder of published checkpoints")
    command.add_argument("--replace", action="store_true", help="what has this name already")
    command.add_argument("--refresh", action="store_true", help="only write all cards and the index anew")
    json_argument(command)


def publish_run(options: argparse.Namespace) -> None:
    if options.refresh:
        if options.folder is not None or options.name is not None:
            raise ValueError("--refresh takes neither a run nor --name: it writes all cards and the index anew")
        changed = refresh(options.to)
        sentence = f"{len(changed)} files changed" + "".join(f"\n{path}" for path in changed)
        tell(options.json, {"changed": [str(path) for path in changed]}, sentence)
        return
    if options.folder is None or options.name is None:
        raise ValueError("expected metaad publish RUN --name NAME, or metaad publish --refresh")
    notes = options.notes.read_text(encoding="utf-8") if options.notes else None
    folder = publish(options.folder, options.name, options.to, notes, options.data_licence, options.replace, note)
    figures = {"folder": folder, "files": sorted(f.name for f in folder.iterdir())}
    tell(options.json, figures, f"Published {folder}. Read what its card says:  {folder / CARD}")


def pull_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("address", help="hf://owner/repository, https://.../ or a published name")
    command.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")


def pull(options: argparse.Namespace) -> None:
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ValueError(f"--out {options.out} is there already, and not empty: name a new folder")
    folder = locate(options.address, papers=True)
    load_checkpoint(folder)  # whatever is wrong is told before anything is kept
    options.out.mkdir(parents=True, exist_ok=True)
    for name in (n for n in FILES if (folder / n).is_file() and n != MANIFEST):
        shutil.copyfile(folder / name, options.out / name)
    shutil.copyfile(folder / MANIFEST, options.out / MANIFEST)
    print(f"{options.out}. Next, try:  metaad adapt {options.out} --support PATH --out my_detector")


def push_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="a published name or a folder")
    command.add_argument("repository", help="owner/name on Hugging Face, made if it is not there")
    command.add_argument("--private", action="store_true", help="a new repository is")


def push(options: argparse.Namespace) -> None:
    address = push_to_hub(locate(options.name, papers=True), options.repository, options.private)
    print(f"Pushed. It loads by:  metaad info {address}")


VERBS: dict[str, Any] = {
    "info": (
        info,
        "the card of a checkpoint: data, figures, limits, how to reproduce; or of a baseline",
        info_arguments,
    ),
    "publish": (publish_run, "make a finished run a folder of checkpoints/, with its card", publish_arguments),
    "pull": (pull, "fetch a checkpoint into a folder", pull_arguments),
    "push": (push, "upload a checkpoint to a Hugging Face repository", push_arguments),
}
