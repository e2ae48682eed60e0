"""Experiments as library calls: evaluate methods on episodes or whole series, recommend one, test a finished run.

Nothing here parses a command line or prints.
"""
