"""Methods that weigh unlabelled support samples by how normal they look, and a note for those that do not."""

from __future__ import annotations

from torch import Tensor

from metaad_zoo.data.read.account import Account
from metaad_zoo.episodes import NORMAL, UNLABELLED
from metaad_zoo.evaluation.baselines import list_baselines, reads_unlabelled
from metaad_zoo.learners.base import Learner
from metaad_zoo.learners.registry import BASELINE_PREFIX, LEARNERS


def weighing_methods() -> list[str]:
    """Names of the learners and baselines whose ``reads_unlabelled`` is True."""
    learners = [name for name in LEARNERS.names() if LEARNERS[name].reads_unlabelled]
    return [*learners, *(name for name in list_baselines() if reads_unlabelled(name))]


def note_taken_as_normal(account: Account, learner: Learner, labels: Tensor) -> None:
    """Note that a learner takes the unlabelled samples beside normal ones as normal; nothing if it weighs them.

    Args:
        account: account of the support set.
        learner: learner that is adapted to it.
        labels: its labels ``(n,)``.
    """
    n = int((labels == UNLABELLED).sum())
    if learner.reads_unlabelled or not n or not bool((labels == NORMAL).any()):
        return
    method, names = learner.registered_name.removeprefix(BASELINE_PREFIX), weighing_methods()
    weigh = f"; {', '.join(names)} weigh{'s' * (len(names) == 1)} them by how normal they look" if names else ""
    account.add("guessed", "the support set", f"{method} takes the {n:,} unlabelled samples as normal{weigh}")
