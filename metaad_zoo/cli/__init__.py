"""The command lines: `python train.py` for training, `metaad` for using."""

from metaad_zoo.cli.use import main

__all__ = ["main"]
