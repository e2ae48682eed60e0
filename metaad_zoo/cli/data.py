"""`metaad data`: make a data set behind the published checkpoints from its public files."""

from __future__ import annotations

import argparse
from pathlib import Path

from metaad_zoo.cli.terminal import note

HELP = "download public data of published checkpoints, and compare it with the data that they were trained on"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="omniglot28, smd, asd or smap")
    command.add_argument("--out", type=Path, help="folder to write NAME.npz to (default: METAAD_DATA)")
    command.add_argument("--files", type=Path, help="folder with the public files (default: download them)")
    command.add_argument(
        "--allow-different",
        action="store_true",
        help="write the data even if they differ from those of the checkpoints",
    )


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.data.known.making import default_folder, make_archive

    out = options.out or default_folder()
    different = make_archive(options.name, out, options.files, options.allow_different)
    if different:
        note(f"the data differ from those behind the published checkpoints in {', '.join(different)}")
    else:
        print("Identical to the data behind the published checkpoints.")
    print(f"{out / options.name}.npz. Next, try:  METAAD_DATA={out} metaad train --list")
