"""What every learner shares: the outer optimiser, the figures it logs, and the two calls ``adapt`` and ``score``."""

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
"""Builds an optimiser from parameters or parameter groups."""


@contextmanager
def explain_missing_derivative() -> Iterator[None]:
    """Say what to do where a layer has no second derivative.

    Raises:
        ValueError: in place of torch's error.
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
    """The checkpoint that a fine-tuned learner comes from.

    Attributes:
        name: as it was asked for.
        sha256: of its weights.
        trained_on: classes or domains that it has seen.
        trained: what of it the fine-tuning trains.
        learner: as it was, in eval mode.
    """

    name: str
    sha256: str
    trained_on: tuple[str, ...]
    trained: str
    learner: Learner

    def as_dict(self) -> dict[str, Any]:
        """What a protocol says of it."""
        return {"checkpoint": self.name, "sha256": self.sha256, "trained": self.trained}


class Learner(nn.Module):
    """Meta-trained over many tasks, then adapted to one by its support set.

    It knows nothing of Lightning; :func:`metaad_zoo.learners.training.trainable` makes it a LightningModule. A subclass
    says how it adapts and what it minimises, and returns from :meth:`arguments` what its constructor needs to build an
    equal one.

    Args:
        optimizer: builds the outer optimiser from parameter groups.
        schedule: of the outer learning rate: ``"constant"``, or ``"cosine"`` from its start down to 0 at the last step.
    """

    registered_name: ClassVar[str]
    trains: ClassVar[bool] = True
    """False for a learner that is used as it is built: ``train.py`` then goes straight to the test."""
    parent: Parent | None = None
    """Where it comes from, while it is fine-tuned."""

    def __init__(self, optimizer: OptimizerCallable, schedule: Schedule) -> None:
        super().__init__()
        self.set_optimizer(optimizer, schedule)
        self.register_buffer("_place", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        place: Tensor = self._place  # type: ignore[assignment]
        return place.device

    @abstractmethod
    def adapt(self, support: Samples, support_labels: Tensor) -> Adapted:
        """Adapt to a support set; see :class:`metaad_zoo.episodes.Method`. Leaves the learner as it is."""

    @abstractmethod
    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        """The loss ``()`` whose gradient is the meta-gradient: a mean over the batch's tasks."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments that JSON can hold, from which an equal learner (but for its weights) is built."""

    def outer_parameters(self) -> Iterable[dict[str, Any]]:
        """Parameter groups of the outer optimiser."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def set_optimizer(self, optimizer: OptimizerCallable, schedule: Schedule) -> None:
        """Take another optimiser than the one it was built with.

        Args:
            optimizer: as for the class.
            schedule: likewise.

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
        """The trainer's scale of the loss under 16-mixed; 1 outside a training."""
        return 1.0

    @property
    def epoch(self) -> int:
        """Epoch of the training, 0 outside one."""
        return int(getattr(self, "current_epoch", 0))

    def after_outer_step(self) -> None:
        """Called after each step of the outer optimiser."""
