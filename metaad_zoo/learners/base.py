"""Base class of learners: outer optimiser, outer loss and adaptation."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from metaad_zoo.episodes import Adapted, EpisodeBatch, Samples

Schedule = Literal["constant", "cosine"]
OptimizerCallable = Callable[[Iterable], torch.optim.Optimizer]
"""Function that builds an optimiser from parameters or parameter groups."""


@contextmanager
def explain_missing_derivative() -> Iterator[None]:
    """Context that replaces torch's error for a missing second derivative by advice.

    Raises:
        ValueError: a layer has no second derivative.
    """
    try:
        yield
    except RuntimeError as error:
        if "derivative for" not in str(error):
            raise
        raise ValueError(
            f"a layer of this backbone has no second derivative ({str(error).splitlines()[0]}): set "
            "inner_loop.order=1, or take another backbone"
        ) from error


@dataclass(frozen=True)
class Parent:
    """The checkpoint from which a fine-tuned learner starts.

    Attributes:
        name: name or path of the checkpoint, as given by the user.
        sha256: hash of its weights.
        trained_on: classes or domains of its training.
        trained: which weights the fine-tuning trains.
        learner: copy of the learner before fine-tuning, in evaluation mode.
    """

    name: str
    sha256: str
    trained_on: tuple[str, ...]
    trained: str
    learner: Learner

    def as_dict(self) -> dict[str, Any]:
        """Description for a protocol."""
        return {"checkpoint": self.name, "sha256": self.sha256, "trained": self.trained}


def without_download(arguments: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments that do not fetch pretrained weights, because a rebuilt learner loads its own."""
    options = dict(arguments["backbone_options"])
    if "pretrained" in options:
        options["pretrained"] = False
    return {**arguments, "backbone_options": options}


class Learner(nn.Module):
    """Base of learners, which are meta-trained over many tasks, then adapted to a task by its support set.

    It does not depend on Lightning; :func:`metaad_zoo.learners.training.trainable` makes it a LightningModule. A
    subclass defines the adaptation, the outer loss and the constructor arguments that rebuild it.

    Args:
        optimizer: function that builds the outer optimiser from parameter groups.
        schedule: schedule of the outer learning rate: ``"constant"``, or ``"cosine"`` to 0 at the last step.
    """

    registered_name: ClassVar[str]
    trains: ClassVar[bool] = True
    """False for a learner without training: ``train.py`` then only tests it."""
    parent: Parent | None = None
    """Checkpoint from which it starts, during fine-tuning."""

    def __init__(self, optimizer: OptimizerCallable, schedule: Schedule) -> None:
        super().__init__()
        self.set_optimizer(optimizer, schedule)
        self.register_buffer("_place", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        place: Tensor = self._place  # type: ignore[assignment]
        return place.device

    @abstractmethod
    def adapt(self, support: Samples, support_labels: Tensor) -> Adapted:
        """Adapt to a support set without changing the learner; see :class:`metaad_zoo.episodes.Method`."""

    @abstractmethod
    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        """Mean loss ``()`` over the batch's tasks, whose gradient is the meta-gradient."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON values, that build an equal learner except for its weights."""

    def outer_parameters(self) -> Iterable[dict[str, Any]]:
        """Parameter groups of the outer optimiser."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def set_optimizer(self, optimizer: OptimizerCallable, schedule: Schedule) -> None:
        """Replace the outer optimiser.

        Args:
            optimizer: see the class.
            schedule: see the class.

        Raises:
            ValueError: the schedule is unknown.
        """
        if schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule is {schedule!r}; expected 'constant' or 'cosine'")
        self._optimizer, self._schedule = optimizer, schedule

    def train_by(self, optimizer: OptimizerCallable, schedule: Schedule) -> None:
        """Deprecated name of :meth:`set_optimizer`."""
        warnings.warn("Learner.train_by is deprecated: call set_optimizer", DeprecationWarning, stacklevel=2)
        self.set_optimizer(optimizer, schedule)

    def loss_scale(self) -> float:
        """Scale of the loss by the trainer under 16-mixed; 1 outside training."""
        return 1.0

    @property
    def epoch(self) -> int:
        """Epoch of the training; 0 outside training."""
        return int(getattr(self, "current_epoch", 0))

    def after_outer_step(self) -> None:
        """Called after each step of the outer optimiser."""
