"""Any baseline as a learner that trains nothing, so that it is adapted, saved, calibrated and served like a model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from metaad_zoo.episodes import Adapted, EpisodeBatch, Samples
from metaad_zoo.evaluation.baselines import BASELINES, create_baseline, modalities_of, reads_unlabelled
from metaad_zoo.learners.base import Learner
from metaad_zoo.learners.registry import BASELINE_PREFIX, LEARNERS


class ClassicalLearner(Learner):
    """A baseline behind the interface of a learner; a subclass for each baseline is made by :func:`classical_class`.

    Args:
        input_shapes: shape of one sample by modality; -1 for an axis of any length.
        options: the baseline's own arguments.

    Raises:
        ValueError: the baseline does not read these modalities, or an option is unknown or refused.
    """

    trains = False
    baseline: ClassVar[str]

    def __init__(self, *, input_shapes: dict[str, Sequence[int]], **options: Any) -> None:
        super().__init__(lambda p: torch.optim.Adam(p), "constant")
        unread = sorted(set(input_shapes) - set(modalities_of(self.baseline)))
        if unread:
            raise ValueError(f"{self.baseline} reads {', '.join(modalities_of(self.baseline))}, not {unread[0]}")
        self._method = create_baseline(self.baseline, **options)
        shapes = {name: list(shape) for name, shape in input_shapes.items()}
        self._arguments = {"input_shapes": shapes, **_defaults(self.baseline), **options}

    def adapt(self, support: Samples, support_labels: Tensor) -> Adapted:
        """Fit the baseline to a support set; see the baseline for its errors."""
        return self._method.adapt(support, support_labels)

    def expecting(self, contamination: float) -> Learner:
        """A copy whose baseline expects the share; see :meth:`metaad_zoo.learners.Learner.expecting`."""
        if not hasattr(self._method, "expecting"):
            return super().expecting(contamination)
        learner = copy.copy(self)
        learner._method = self._method.expecting(contamination)
        return learner

    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        """Refused, because there is nothing to train.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"the baseline {self.baseline} trains nothing: `metaad adapt {self.baseline}` is all it takes")

    def arguments(self) -> dict[str, Any]:
        return {**self._arguments}


def _defaults(baseline: str) -> dict[str, Any]:
    """The default values of a baseline's arguments: a saved detector keeps them when the defaults change."""
    parameters = inspect.signature(BASELINES[baseline]).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


@cache
def classical_class(baseline: str) -> type[ClassicalLearner]:
    """The learner class of a baseline.

    Args:
        baseline: one of :func:`metaad_zoo.evaluation.baselines.list_baselines`, or ``pyod/<Class>``.

    Raises:
        ValueError: the baseline is unknown (the nearest names are given).

    Example:
        >>> learner = classical_class("knn")(input_shapes={"tabular": [-1]}, k=2)
        >>> learner.registered_name, learner.arguments()
        ('baseline/knn', {'input_shapes': {'tabular': [-1]}, 'k': 2, 'standardise': 'support'})
    """
    fields: Mapping[str, Any] = {
        "__doc__": BASELINES[baseline].__doc__,
        "__module__": BASELINES[baseline].__module__,  # a checkpoint names the plug-in that defines it
        "baseline": baseline,
        "reads_unlabelled": reads_unlabelled(baseline),
        "registered_name": BASELINE_PREFIX + baseline,
    }
    return type(f"Classical[{baseline}]", (ClassicalLearner,), dict(fields))


LEARNERS.add_family(BASELINE_PREFIX, classical_class, None, BASELINES.names)  # type: ignore[arg-type]
