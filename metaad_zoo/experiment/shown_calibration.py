"""Calibration scores of samples that lack some of several modalities, from the validation tasks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from torch import Tensor

from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.evaluation.calibration import normal_scores
from metaad_zoo.experiment.methods import data_of_config
from metaad_zoo.learners import Learner
from metaad_zoo.zoo import calibration_by_shots, load_checkpoint, save_checkpoint, shown_calibration_tensors
from metaad_zoo.zoo.detector_tensors import SHOWN
from metaad_zoo.zoo.manifest import CONFIG


def shown_calibration_scores(
    learner: Learner, data: EpisodeDataModule, sizes: Sequence[int]
) -> dict[tuple[str, ...], dict[int, Tensor]]:
    """Ascending scores of normal queries of the validation tasks, reduced to some of their modalities.

    Args:
        learner: trained learner in eval mode.
        data: data with validation tasks.
        sizes: sizes of the support set.

    Returns:
        Scores ``(m,)`` by the sorted names of the modalities, for each proper subset of these, and by the size of the
        support set; {} for data of one modality.
    """
    names = sorted(data.input_shapes)
    parts = [shown for k in range(1, len(names)) for shown in combinations(names, k)]
    return {shown: {n: normal_scores(learner, data.calibration(shots=n), shown) for n in sizes} for shown in parts}


def add_shown_calibration(folder: Path) -> bool:
    """Add these scores to a published checkpoint; its weights and its other calibration scores do not change.

    Args:
        folder: folder of the checkpoint, whose config names data that are at hand.

    Returns:
        Whether the checkpoint reads several modalities.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ValueError: the data are not there.
    """
    checkpoint = load_checkpoint(folder)
    data = data_of_config(folder / CONFIG, {folder.name: checkpoint})
    sizes = list(calibration_by_shots(checkpoint.tensors))
    scores = shown_calibration_scores(checkpoint.learner.eval(), data, sizes)
    if not scores:
        return False
    others = {name: x for name, x in checkpoint.tensors.items() if not name.startswith(SHOWN)}
    checkpoint.tensors = others | shown_calibration_tensors(scores)
    save_checkpoint(folder, checkpoint)
    return True
