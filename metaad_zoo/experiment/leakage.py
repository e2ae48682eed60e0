"""Leakage: refuse evaluations on seen classes or with statistics over the queries, and record them in the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaad_zoo.backbones import EpisodicBatchNorm
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.episodes import EpisodeSpec, Method, Split, SplitRecord
from metaad_zoo.evaluation.protocol import LEAST_TASKS
from metaad_zoo.learners import Learner
from metaad_zoo.zoo import Checkpoint

LEAST_EPISODES = 600
DRAWS = 50
"""Number of episodes of each task where there are too few tasks for an interval over tasks."""
NO_BATCH_NORM = "no batch normalisation"


def number_of_episodes(episodes: int | None, tasks: int, data: Path) -> int:
    """Number of test episodes: ``episodes``, by default 600, or one for each task if there are more tasks.

    With fewer tasks than an interval over tasks needs, the default is 50 for each, and intervals are over draws.

    Args:
        episodes: requested number; None for the default.
        tasks: number of tasks of the test split.
        data: path of the data, for the error.

    Raises:
        ValueError: there are fewer episodes than tasks (or than 600), or than an interval over draws needs.
    """
    if tasks < LEAST_TASKS:
        if episodes is not None and episodes < LEAST_TASKS * tasks:
            raise ValueError(
                f"episodes (--episodes) is {episodes}, and {data} has {tasks} test tasks: give at least "
                f"{LEAST_TASKS * tasks}, so that an interval over draws of the support is possible"
            )
        return DRAWS * tasks if episodes is None else episodes
    least = min(tasks, LEAST_EPISODES)
    if episodes is not None and episodes < least:
        raise ValueError(
            f"episodes (--episodes) is {episodes}, and {data} has {tasks} test tasks: give at least {least}, so that "
            f"{'each task is' if least == tasks else 'enough tasks are'} tested"
        )
    return max(LEAST_EPISODES, tasks) if episodes is None else episodes


def refuse_seen(name: str, checkpoint: Checkpoint, data: EpisodeDataModule) -> None:
    """Refuse to test a model on classes or domains that it was trained or chosen on, by their names or their content.

    Args:
        name: name of the model.
        checkpoint: the model.
        data: data that the model will be tested on.

    Raises:
        ValueError: the data contains such classes or domains; the message names them.
    """
    record = SplitRecord.parse(checkpoint.splits, checkpoint.trained_on, parent=name)
    tested: dict[str, Split] = dict.fromkeys(data.pools["test"].members, "test")
    record.refuse_moves(tested, data.fingerprints)


def batch_norm_of(learner: Learner) -> str:
    """Where a learner's batch normalisation takes its statistics from."""
    policies = {layer.policy for layer in learner.modules() if isinstance(layer, EpisodicBatchNorm)}
    return ", ".join(sorted(policies)) or NO_BATCH_NORM


def refuse_transductive(name: str, learner: Learner, flag: str) -> None:
    """Refuse a model whose batch normalisation takes statistics over the queries.

    Args:
        name: name of the model.
        learner: the model.
        flag: option that allows it, for the error.

    Raises:
        ValueError: the model normalises over the queries.
    """
    if "transductive" in batch_norm_of(learner):
        raise ValueError(
            f"{name} normalises over the queries (batch_norm=transductive): a sample's score depends on which others, "
            "and how many anomalies, are scored with it, so that its figures hold for no other mixture and are no "
            f"match for methods that score samples one by one; train with batch_norm=support, or allow it by {flag}, "
            "which the protocol then says"
        )


def make_up(spec: EpisodeSpec, methods: Mapping[str, Method]) -> dict[str, Any]:
    """Entries of the protocol that decide whether figures are comparable: contamination, query ratio, batch norm.

    Args:
        spec: sizes of the test episodes.
        methods: methods by name; learners have a batch-norm policy.
    """
    return {
        "realised_contamination": spec.realised_contamination,
        "query_ratio": f"{spec.query_normal} normal : {spec.query_anomalous} anomalous",
        "batch_norm": {name: batch_norm_of(m) for name, m in methods.items() if isinstance(m, Learner)},
    }
