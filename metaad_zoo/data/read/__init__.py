"""Readers: one for each form of file. Each returns values and an account of what it took, left out and guessed."""

from metaad_zoo.data.read.account import Account

__all__ = ["Account"]
