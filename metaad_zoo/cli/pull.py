"""`metaad pull`: fetch a checkpoint into a folder."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

HELP = "download a checkpoint into a folder"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("address", help="address (hf://owner/repository or https://.../), or a published name")
    command.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint to")


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.zoo import load_checkpoint, locate
    from metaad_zoo.zoo.manifest import MANIFEST
    from metaad_zoo.zoo.published import FILES

    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ValueError(f"--out {options.out} exists and is not an empty folder: name a new one")
    folder = locate(options.address, papers=True)
    load_checkpoint(folder)  # raises before anything is written
    options.out.mkdir(parents=True, exist_ok=True)
    for name in (n for n in FILES if (folder / n).is_file() and n != MANIFEST):
        shutil.copyfile(folder / name, options.out / name)
    shutil.copyfile(folder / MANIFEST, options.out / MANIFEST)
    print(f"{options.out}. Next, try:  metaad adapt {options.out} --support PATH --out my_detector")
