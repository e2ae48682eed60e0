"""Hyper-parameters and test figures for every Lightning logger of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

NO_SETTINGS = ("trainer.logger", "trainer.callbacks", "config", "ckpt_path", "runs", "next")
"""Keys of a config that are no hyper-parameters; a logger's own arguments may hold a password."""


def given_loggers(configured: Logger | Iterable[Logger]) -> list[Logger]:
    """The loggers that ``trainer.logger`` names, as a list."""
    return [configured] if isinstance(configured, Logger) else list(configured)


def log_hyperparameters(loggers: Iterable[Logger], config: Mapping[str, Any]) -> None:
    """Send the settings of a run to each logger, named as on the command line (``model.inner_loop.lr``).

    Args:
        loggers: loggers of the trainer.
        config: resolved config of the run.
    """
    settings = dict(_settings(config))
    for logger in loggers:
        logger.log_hyperparams(settings)


def log_test_figures(loggers: Iterable[Logger], methods: Mapping[str, Any], step: int) -> None:
    """Send the mean test figures to each logger: ``test/auroc`` of the learner, ``test/<method>/auroc`` of the others.

    Names of methods keep letters, digits and ``.-/``, which is what all loggers accept; anything else becomes ``_``.

    Args:
        loggers: loggers of the trainer.
        methods: ``methods`` of ``results.json``, the learner first.
        step: outer steps that the learner was trained for.
    """
    figures: dict[str, float] = {}
    for position, (name, method) in enumerate(methods.items()):
        prefix = "test" if position == 0 else f"test/{re.sub(r'[^-/.a-zA-Z0-9]+', '_', name)}"
        figures |= {f"{prefix}/{metric}": value for metric, value in method["mean"].items() if _is_number(value)}
    for logger in loggers:
        # Lightning writes hp_metric=-1 with the hyper-parameters, for TensorBoard's table of runs.
        table = {"hp_metric": figures["test/auroc"]} if isinstance(logger, TensorBoardLogger) else {}
        logger.log_metrics(figures | table, step=step)
        logger.save()
        logger.finalize("success")


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _settings(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of a nested config by dotted key; values that are no scalars become text."""
    if key in NO_SETTINGS or config is None:
        return
    if not isinstance(config, Mapping):
        yield key, config if isinstance(config, bool | int | float | str) else str(config)
        return
    for name, value in config.items():
        inner = key if name in ("init_args", "class_path") else f"{key}.{name}".lstrip(".")
        yield from _settings(value, inner)
