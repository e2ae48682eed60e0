"""One small detector of every registered learner and baseline for every modality that it reads, and samples for it.

Weights are random, away from the values at which networks start: what is tried on these detectors are their code paths
and their numerics. `awkward_supports.py` and `concurrency.py` use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from metaad_zoo.detector import Detector
from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.evaluation.baselines import list_baselines, modalities_of
from metaad_zoo.learners import (
    ClassicalLearner,
    GradientLearner,
    Learner,
    classical_class,
    learner_class,
    list_learners,
)
from metaad_zoo.learners.registry import BASELINE_PREFIX
from metaad_zoo.modality import get_modality
from metaad_zoo.zoo import Checkpoint

Shapes = Mapping[str, Sequence[int]]

SHAPES: Mapping[str, Shapes] = {
    "image": {"image": (1, 16, 16)},
    "audio": {"audio": (1, 16, 16)},
    "sequence": {"sequence": (16, 3)},
    "tabular": {"tabular": (5,)},
    "multimodal": {"image": (1, 16, 16), "sequence": (16, 3)},
}
"""Shape of one sample by modality, of each form of samples."""
CONV = {"conv4": {"width": 4}}
BACKBONES: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "image": CONV,
    "audio": CONV,
    "sequence": {"gru": {"width": 6}, "window_statistics": {}},
    "tabular": {"mlp": {"widths": (8, 6)}, "columns": {"width": 6}, "raw_columns": {}},
    "multimodal": {"fusion_gated": {"width": 6, "encoders": {"image": {"name": "conv4", "width": 4}}}},
}
"""Backbones and their options that a learner is tried with, by form of samples."""


def names(form: str) -> list[str]:
    """Names for :func:`detector` of a form of samples: ``maml/conv4`` of a learner, ``baseline/knn`` of a baseline."""
    return [name for name in _names(form) if _learner(name, form) is not None]


def detector(name: str, form: str) -> Detector:
    """The detector of one of the :func:`names`, not fitted.

    Raises:
        ValueError: there is none of this name for this form.
    """
    learner = _learner(name, form)
    if learner is None:
        raise ValueError(f"{name} does not read {form} samples: expected one of {names(form)}")
    calibration = {} if isinstance(learner, ClassicalLearner) else {"calibration": torch.linspace(-1, 1, 99)}
    return Detector(Checkpoint(learner.eval(), [], calibration))


def _names(form: str) -> Iterator[str]:
    for learner in list_learners():
        yield from (f"{learner}/{backbone}" for backbone in BACKBONES[form])
    yield from (BASELINE_PREFIX + name for name in list_baselines() if set(SHAPES[form]) <= set(modalities_of(name)))


def _learner(name: str, form: str) -> Learner | None:
    """A learner with random weights; None if it does not read the embeddings of the backbone."""
    shapes = {modality: list(shape) for modality, shape in SHAPES[form].items()}
    if name.startswith(BASELINE_PREFIX):
        return classical_class(name.removeprefix(BASELINE_PREFIX))(input_shapes=shapes)
    learner, _, backbone = name.partition("/")
    torch.manual_seed(0)
    try:
        built = learner_class(learner)(
            backbone=backbone, backbone_options=BACKBONES[form][backbone], input_shapes=shapes
        )
    except ValueError:
        return None
    with torch.no_grad():
        for p in built.parameters():
            p += 0.05 * torch.randn_like(p)
    if isinstance(built, GradientLearner) and built.inner_loop.config.batch_norm == "per_step":
        for _ in range(20):  # averages of the statistics of each step
            built.outer_loss(_batch(form))
    return built


def _batch(form: str) -> EpisodeBatch:
    """Two episodes of the form."""
    support, query = (
        {m: torch.as_tensor(x).unflatten(0, (2, -1)) for m, x in samples(form, 12, i).items()} for i in (3, 4)
    )
    labels = torch.zeros(2, 6, dtype=torch.long)
    return EpisodeBatch(support, labels, query, labels, ["first", "second"])


def samples(form: str, n: int, seed: int = 0, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Random samples by modality ``(n, ...)`` float32: noise around a domain's own mean; images in [0, 1].

    Args:
        form: one of :data:`SHAPES`.
        n: number of samples.
        seed: random seed of the samples; the mean is that of the form.
        shift: how far from the domain the samples are, in standard deviations.
    """
    rng = np.random.default_rng(seed)
    x = {}
    for name, shape in SHAPES[form].items():
        mean = np.random.default_rng(1).normal(size=shape)
        values = mean + 0.5 * rng.normal(size=(n, *shape)) + 0.5 * shift
        if get_modality(name).value_range is not None:
            values = 1 / (1 + np.exp(-values))
        x[name] = values.astype(np.float32)
    return x
