"""Methods that weigh unlabelled support samples by how normal they look, and a note for those that do not."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from metaad_zoo.data.read.account import Account
from metaad_zoo.episodes import NORMAL, UNLABELLED
from metaad_zoo.evaluation.baselines import list_baselines, modalities_of, reads_unlabelled
from metaad_zoo.learners import Learner
from metaad_zoo.learners.registry import BASELINE_PREFIX, LEARNERS
from metaad_zoo.modality import form_of
from metaad_zoo.zoo.index import list_checkpoints, read_index


def weighing_methods(modalities: Iterable[str]) -> list[str]:
    """Names of the published checkpoints and baselines that weigh unlabelled samples of these modalities.

    Example:
        >>> "knn" in weighing_methods(["tabular"])
        False
    """
    names = dict.fromkeys(modalities, ())
    learners, index = {n for n in LEARNERS.names() if LEARNERS[n].reads_unlabelled}, read_index()
    published = [n for n in list_checkpoints(modality=form_of(names).name) if index[n].learner in learners]
    baselines = [n for n in list_baselines() if reads_unlabelled(n) and names.keys() <= {*modalities_of(n)}]
    return [*published, *baselines]


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
    method = learner.registered_name.removeprefix(BASELINE_PREFIX)
    weighing = weighing_methods(learner.arguments()["input_shapes"])
    verb = "weighs" if len(weighing) == 1 else "weigh"
    weigh = f"; {', '.join(weighing)} {verb} them by how normal they look" if weighing else ""
    account.add("guessed", "the support set", f"{method} takes the {n:,} unlabelled samples as normal{weigh}")
