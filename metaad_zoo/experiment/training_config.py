"""Resolved configs of trainings, compared setting by setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

SEEDS = ("seed_everything", "data.init_args.train_seed")
"""Settings in which trainings of one setting may differ."""
SECTIONS = ("model", "data", "trainer", "alpha", "seed_everything")
"""Sections of a config that decide what a training gives."""
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


def flat_settings(config: Mapping[str, Any], sections: Sequence[str] = SECTIONS) -> dict[str, Any]:
    """The settings of a resolved config that decide what a training gives, by dotted keys; those of null are left out.

    Args:
        config: resolved config.
        sections: sections to include.

    Example:
        >>> flat_settings({"data": {"seed": 0, "root": None}, "trainer": {"max_epochs": 2}, "name": "a"})
        {'data.seed': 0, 'trainer.max_epochs': 2}
    """
    chosen = {name: config.get(name) for name in sections}
    if "trainer" in chosen:
        trainer = chosen["trainer"] or {}
        chosen["trainer"] = {key: value for key, value in trainer.items() if key not in _NO_EFFECT}
    return _flat(chosen, "")


def difference(
    before: Mapping[str, Any], now: Mapping[str, Any], sections: Sequence[str] = SECTIONS
) -> tuple[str, Any, Any] | None:
    """The first setting in which two resolved configs differ, with both values; None where they are equal.

    Args:
        before: config of an earlier training; an option that it does not have, because it was introduced later, counts
            as its default.
        now: config of this version.
        sections: sections to compare.
    """
    current = flat_settings(now, sections)
    if flat_settings(before, sections) == current:
        return None
    earlier = flat_settings(with_defaults(before), sections)
    for key in sorted(earlier.keys() | current.keys()):
        if earlier.get(key) != current.get(key):
            return key.replace(".init_args", ""), earlier.get(key), current.get(key)
    return None


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the defaults of the options that it does not have; unchanged where this version can't read it."""
    parser = _parser()
    try:
        parsed = parser.parse_object({name: config[name] for name in ("model", "data", "trainer") if name in config})
    except (ArgumentError, ValueError, TypeError):
        return dict(config)
    return {**config, **yaml.safe_load(parser.dump(parsed))}


@cache
def _parser() -> ArgumentParser:
    """Parser of the sections that have options; the model's shapes come from the data."""
    from lightning.pytorch import Trainer

    from metaad_zoo.data import EpisodeDataModule
    from metaad_zoo.learners import Learner

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Learner, "model", required=False, fail_untyped=False, skip={"input_shapes"})
    parser.add_subclass_arguments(EpisodeDataModule, "data", required=False)
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False)
    return parser


def _flat(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, dict):
        parts = {key: _flat(part, f"{name}.{key}".lstrip(".")) for key, part in value.items()}
        return {key: x for part in parts.values() for key, x in part.items()}
    return {} if value is None else {name: value}
