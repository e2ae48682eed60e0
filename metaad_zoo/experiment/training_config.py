"""Resolved configs of trainings, compared setting by setting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

SEEDS = ("seed_everything", "data.init_args.train_seed")
"""Settings in which trainings of one setting may differ."""
_SECTIONS = ("model", "data", "trainer", "alpha", "seed_everything")
_NO_EFFECT = (
    "default_root_dir",
    "enable_model_summary",
    "enable_progress_bar",
    "log_every_n_steps",
    "logger",
    "profiler",
)
"""Settings of the trainer that change no weights."""


def read_config(run: Path) -> dict[str, Any] | None:
    """The resolved config of a run; None where its folder has none."""
    path = run / "config.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a resolved config that decide what a training gives, by dotted keys; those of null are left out.

    Example:
        >>> flat_settings({"data": {"seed": 0, "root": None}, "trainer": {"max_epochs": 2}, "name": "a"})
        {'data.seed': 0, 'trainer.max_epochs': 2}
    """
    trainer = {key: value for key, value in config.get("trainer", {}).items() if key not in _NO_EFFECT}
    sections = {name: config.get(name) for name in _SECTIONS} | {"trainer": trainer}
    return _flat(sections, "")


def first_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first key in which two flat mappings differ, with both values; None where they are equal."""
    for key in sorted(first.keys() | second.keys()):
        if first.get(key) != second.get(key):
            return key.replace(".init_args", ""), first.get(key), second.get(key)
    return None


def _flat(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        parts = {key: _flat(part, f"{name}.{key}".lstrip(".")) for key, part in value.items()}
        return {key: x for part in parts.values() for key, x in part.items()}
    return {} if value is None else {name: value}
