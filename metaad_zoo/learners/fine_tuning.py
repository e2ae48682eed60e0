"""Fine-tuning of a trained learner: which weights are trained, and the record of its parent."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from torch.optim import Optimizer

from metaad_zoo.learners.base import Learner, OptimizerCallable, Parent, Schedule
from metaad_zoo.learners.low_rank import LowRankOptimizer
from metaad_zoo.registry import unknown_name

Trained = Literal["full", "head", "low_rank"]


@dataclass(frozen=True)
class FineTuning:
    """Settings of fine-tuning.

    Args:
        train: ``"full"``: all weights; ``"head"``: weights outside the backbone, and learned inner rates;
            ``"low_rank"``: low-rank updates of each weight matrix (:class:`LowRankOptimizer`), and full updates of
            vectors outside the backbone. The backbone's biases and norms are then constant.
        rank: rank of the updates, for ``"low_rank"``.
        optimizer: function that builds the outer optimiser.
        schedule: schedule of the outer learning rate.

    Raises:
        ValueError: ``train`` is unknown, or the rank is below 1.
    """

    train: Trained
    rank: int
    optimizer: OptimizerCallable
    schedule: Schedule

    def __post_init__(self) -> None:
        if self.train not in get_args(Trained):
            raise unknown_name("model.train", self.train, get_args(Trained))
        if self.rank < 1:
            raise ValueError(f"model.rank is {self.rank}; expected 1 or more")

    def apply(self, learner: Learner, name: str, sha256: str, trained_on: list[str]) -> Learner:
        """Prepare a learner for fine-tuning, in place.

        Args:
            learner: trained learner.
            name: name of its checkpoint.
            sha256: hash of its weights.
            trained_on: classes or domains of its training.

        Raises:
            ValueError: there are no weights to train.
        """
        if not learner.trains:
            raise ValueError(f"{learner.registered_name} trains nothing: `metaad adapt` is all it takes")
        if self.train == "head" and not _outside_backbone(learner):
            raise ValueError(
                f"this {learner.registered_name} has no weights outside its backbone: set model.train to full or "
                "low_rank"
            )
        how = f"low_rank, rank {self.rank}" if self.train == "low_rank" else self.train
        learner.parent = Parent(name, sha256, tuple(trained_on), how, deepcopy(learner).eval())
        learner.train().set_optimizer(partial(self._build, learner), self.schedule)
        return learner

    def _build(self, learner: Learner, groups: Any) -> Optimizer:
        """Build the outer optimiser of the trained weights."""
        if self.train == "full":
            return self.optimizer(groups)
        outside = _outside_backbone(learner)
        if self.train == "head":
            chosen = [{**g, "params": [p for p in g["params"] if id(p) in outside]} for g in groups]
            return self.optimizer([g for g in chosen if g["params"]])
        return LowRankOptimizer(groups, self.optimizer, self.rank, {i for i, whole in outside.items() if whole})


def _outside_backbone(learner: Learner) -> dict[int, bool]:
    """Ids of trainable parameters outside the backbone; True unless the parameter is a weight matrix."""
    named = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    outside = {n: p for n, p in named if not n.startswith("network.backbone.")}
    return {id(p): p.ndim < 2 or n.startswith(("inner_loop.", "query_loop.")) for n, p in outside.items()}
