"""The command lines: `python train.py` for training, `metaad` for using."""

from metaad_zoo.cli.command_line import main

__all__ = ["main"]
