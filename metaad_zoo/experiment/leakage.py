"""Leakage: refuse evaluations on seen classes or over the queries, and say in the protocol what was allowed."""

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
NO_BATCH_NORM = "no batch normalisation"


def number_of_episodes(asked: int | None, tasks: int, data: Path) -> int:
    """How many test episodes are scored: 600, or one of each task where there are more, unless others are asked for.

    Args:
        asked: None for the usual number.
        tasks: of the test split.
        data: where they come from, for the error.

    Raises:
        ValueError: there are fewer tasks than an interval needs, or so few episodes that tasks would be left out of
            figures that are said to be over them.
    """
    if tasks < LEAST_TASKS:
        raise ValueError(
            f"{data} has {tasks} test tasks: an interval over fewer than {LEAST_TASKS} tells nothing of other tasks; "
            "give more classes, files or domains"
        )
    least = min(tasks, LEAST_EPISODES)
    if asked is not None and asked < least:
        raise ValueError(
            f"--episodes is {asked}, and {data} has {tasks} test tasks: give at least {least}, so that "
            f"{'each task is' if least == tasks else 'enough tasks are'} tested"
        )
    return max(LEAST_EPISODES, tasks) if asked is None else asked


def refuse_seen(name: str, checkpoint: Checkpoint, data: EpisodeDataModule) -> None:
    """Refuse to test a model on classes or domains that it was trained or chosen on, by their names or their content.

    Args:
        name: of the model.
        checkpoint: the model.
        data: to be tested on.

    Raises:
        ValueError: names them.
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
        name: of the model.
        learner: the model.
        flag: what allows it all the same, for the error.

    Raises:
        ValueError: as said.
    """
    if "transductive" in batch_norm_of(learner):
        raise ValueError(
            f"{name} normalises over the queries (batch_norm=transductive): a sample's score depends on which others, "
            "and how many anomalies, are scored with it, so that its figures hold for no other mixture and are no "
            f"match for methods that score samples one by one; train with batch_norm=support, or allow it by {flag}, "
            "which the protocol then says"
        )


def make_up(spec: EpisodeSpec, methods: Mapping[str, Method]) -> dict[str, Any]:
    """What of the protocol tells whether figures can be compared: contamination, query ratio, batch-norm policies.

    Args:
        spec: of the test episodes.
        methods: by name; those that are learners have a batch-norm policy.
    """
    return {
        "realised_contamination": spec.realised_contamination,
        "query_ratio": f"{spec.query_normal} normal : {spec.query_anomalous} anomalous",
        "batch_norm": {name: batch_norm_of(m) for name, m in methods.items() if isinstance(m, Learner)},
    }
