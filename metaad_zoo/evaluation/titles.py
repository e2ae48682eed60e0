"""Titles of metrics in tables, cards and reports."""

from __future__ import annotations

# Partial AUROC is in the result files alone: one more column would not fit the terminal.
TITLES = {
    "auroc": "AUROC",
    "ap": "AP",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "fpr": "false alarms",
}
"""Titles of the columns of a results table, by metric."""
