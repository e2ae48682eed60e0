"""Base class of learners: outer optimiser, outer loss and adaptation."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from metaad_zoo.backbones import Backbone
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


def without_folders(value: Any) -> Any:
    """Constructor arguments in which a local file of pretrained weights is named without its folder.

    Example:
        >>> without_folders({"backbone_options": {"pretrained": "/home/me/dino.pth", "frozen": True}})
        {'backbone_options': {'pretrained': 'dino.pth', 'frozen': True}}
    """
    if not isinstance(value, dict):
        return value
    names = {k: Path(v).name for k, v in value.items() if k == "pretrained" and isinstance(v, str)}
    return {k: names.get(k, without_folders(v)) for k, v in value.items()}


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
    former_arguments: ClassVar[Mapping[str, Any]] = {}
    """Values that arguments stand for in checkpoints from before they were introduced."""
    may_stay: ClassVar[bool] = False
    """Whether ``train.py`` keeps the weights from before the training if none of it reach their validation AUROC."""
    reads_unlabelled: ClassVar[bool] = False
    """Whether it weighs unlabelled support samples by how normal they look; False: it takes them as normal."""
    cost: ClassVar[str] = "a network computes an embedding of each sample"
    """What takes the time of adapting and scoring, as a clause; cards give it as the reason for a slow model."""
    parent: Parent | None = None
    """Checkpoint from which it starts, during fine-tuning."""

    def __init__(self, optimizer: OptimizerCallable, schedule: Schedule) -> None:
        super().__init__()
        self.set_optimizer(optimizer, schedule)
        self.register_buffer("_place", torch.empty(0), persistent=False)

    @property
    def any_size(self) -> bool:
        """Whether it adapts to images of any height and width; its input shape then only gives a usual size."""
        return False

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        place: Tensor = self._place  # type: ignore[assignment]
        return place.device

    @abstractmethod
    def adapt(self, support: Samples, support_labels: Tensor) -> Adapted:
        """Adapt to a support set without changing the learner; see :class:`metaad_zoo.episodes.Method`."""

    def within(self, region: Tensor) -> Learner:
        """The learner, sharing its weights, for a region of interest alone: what lies outside counts nowhere.

        Args:
            region: ``(H, W)`` bool, at the size of the images.

        Raises:
            ValueError: it scores whole images.
        """
        raise ValueError(
            f"{self.registered_name} scores whole images: a region of interest (--roi) is for learners that compare "
            "patches, such as patch_memory; crop the images instead"
        )

    def expecting(self, contamination: float) -> Learner:
        """The learner, sharing its weights, for a known share of anomalies among the unlabelled support samples.

        Args:
            contamination: the share, in [0, 1).

        Raises:
            ValueError: it has no use for the share.
        """
        raise ValueError(
            f"{self.registered_name} has no use for the share of anomalies among the unlabelled samples: leave out "
            "contamination (--contamination)"
        )

    def is_calibrated_for(self, support_labels: Tensor) -> bool:
        """Whether scores after adaptation to such a support compare with those on the validation tasks.

        Args:
            support_labels: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled.
        """
        return True

    @abstractmethod
    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        """Mean loss ``()`` over the batch's tasks, whose gradient is the meta-gradient."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, as JSON values, that build an equal learner except for its trained weights.

        A local file of pretrained weights is named without its folder.
        """

    def pretrained_backbones(self) -> dict[str, Backbone]:
        """Backbones that started from pretrained weights, by their name in the learner; see ``Backbone.source``."""
        modules = self.named_modules()
        return {name: m for name, m in modules if isinstance(m, Backbone) and m.source is not None}

    def pretrained_sources(self) -> dict[str, dict[str, dict[str, str]]]:
        """``{"pretrained": {backbone: its source}}`` for a protocol; empty if no weights are pretrained."""
        backbones = self.pretrained_backbones().items()
        sources = {name: backbone.source.as_dict() for name, backbone in backbones if backbone.source is not None}
        return {"pretrained": sources} if sources else {}

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
