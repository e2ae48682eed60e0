"""`metaad push`: upload a checkpoint to a Hugging Face repository."""

from __future__ import annotations

import argparse

HELP = "upload a checkpoint to a Hugging Face repository"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="name or folder of the checkpoint")
    command.add_argument("repository", help="owner/name of the repository; created if it does not exist")
    command.add_argument("--private", action="store_true", help="create the repository as private")


def run(options: argparse.Namespace) -> None:
    from metaad_zoo.zoo import locate, push_to_hub

    address = push_to_hub(locate(options.name, papers=True), options.repository, options.private)
    print(f"Pushed. It loads by:  metaad info {address}")
