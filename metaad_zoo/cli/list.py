"""`metaad list`: published checkpoints, backbones, learners, data sets and baselines."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from metaad_zoo.cli.arguments import json_argument
from metaad_zoo.cli.terminal import note, wide_console
from metaad_zoo.modality import get_form, list_modalities

HELP = "list published checkpoints, backbones, learners, data sets or baselines"
KINDS = ("backbones", "learners", "datasets", "baselines")


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "pattern", nargs="?", default="*", help="pattern of names, such as '*net*', 'timm/resnet*' or 'pyod/*'"
    )
    kinds = command.add_mutually_exclusive_group()
    kinds.add_argument(
        "--checkpoints", dest="kind", action="store_const", const=None, help="list checkpoints (the default)"
    )
    for kind in KINDS:
        text = f"list {kind.replace('datasets', 'data sets')}"
        text += "; those of PyOD with the pattern 'pyod/*'" if kind == "baselines" else ""
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=text)
    command.add_argument(
        "--modality",
        help=f"list only entries for this modality: {', '.join(list_modalities(several=True))}",
    )
    json_argument(command)


def run(options: argparse.Namespace) -> None:
    if options.kind is None:
        _show_checkpoints(options.pattern, options.modality, options.json)
        return
    if options.modality and options.kind == "learners":
        raise ValueError("--modality is not for learners: each takes any backbone")
    names = _names(options.kind, options.pattern, options.modality)
    if options.json:
        print(json.dumps(names))
    elif names:
        print("\n".join(names))
    else:
        note(f"no {options.kind} match {options.pattern!r}")
    if options.kind == "baselines" and options.pattern == "*":
        note("pyod/CLASS is a detector of PyOD, such as pyod/KNN (metaad list --baselines 'pyod/*')")


def _names(kind: str, pattern: str, name: str | None) -> list[str]:
    if kind == "backbones":
        from metaad_zoo.backbones import list_backbones

        return list_backbones(pattern, modality=name and get_form(name).reader)
    if kind == "learners":
        from metaad_zoo.learners import list_learners

        return list_learners(pattern)
    if kind == "datasets":
        from metaad_zoo.data import list_datasets

        return list_datasets(pattern, modality=name)
    from metaad_zoo.evaluation.baselines import list_baselines

    return list_baselines(pattern, modality=name)


def _show_checkpoints(pattern: str, modality: str | None, as_json: bool) -> None:
    """Print the published checkpoints that a pattern matches, with their figures."""
    from metaad_zoo.zoo import list_checkpoints, read_index
    from metaad_zoo.zoo.overview import auroc_cell, baseline_cell, format_bytes

    index = read_index()
    entries = [index[name] for name in list_checkpoints(pattern, modality=modality)]
    if as_json:
        print(json.dumps([{**asdict(entry), "bytes": entry.size} for entry in entries]))
        return
    if not entries:
        chosen = f" of modality {modality}" if modality else ""
        note(f"no published checkpoints{chosen} match {pattern!r}; there are {len(index)} in all")
        return
    from rich.table import Table

    table = Table()
    table.add_column("name", no_wrap=True)  # to be copied as it is
    for title in ("data", "AUROC, %", "best baseline: its AUROC, ours minus it", "size"):
        table.add_column(title)
    for entry in entries:
        figures = entry.figures
        row = (", ".join(entry.data), auroc_cell(figures), baseline_cell(figures), format_bytes(entry.size))
        table.add_row(entry.name, *row)
    wide_console().print(table)
    print("Read its card before you take one:  metaad info NAME")
