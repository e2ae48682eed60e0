"""Statistics of a checkpoint's training tasks, which show how novel a support set is."""

from __future__ import annotations

from pathlib import Path

from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.evaluation.novelty import TrainingTasks
from metaad_zoo.experiment.methods import data_of_config
from metaad_zoo.learners import Learner
from metaad_zoo.zoo import load_checkpoint, save_checkpoint, training_tasks_tensors
from metaad_zoo.zoo.manifest import CONFIG

MOST_EPISODES, BY_CALIBRATION = 500, 5
"""Maximum number of episodes of training tasks, and of validation tasks for each size of the support; this number by
``calibration_episodes``."""


def training_tasks(learner: Learner, data: EpisodeDataModule) -> TrainingTasks | None:
    """Statistics of the training tasks, compared with the validation tasks.

    Returns:
        None for a learner without training, for data without training tasks, and for modalities without statistics.
    """
    if not learner.trains or "train" not in data.pools:
        return None
    episodes = min(MOST_EPISODES, BY_CALIBRATION * data.calibration_episodes)
    validation = {shots: data.calibration(episodes, shots) for shots in data.shots_with_room()}
    return TrainingTasks.of(data.episodes("train", episodes), validation)


def add_training_tasks(folder: Path) -> bool:
    """Add the statistics of the training tasks to a published checkpoint; its weights do not change.

    Args:
        folder: folder of the checkpoint, whose config names data that are at hand.

    Returns:
        Whether there are any statistics.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ValueError: the data are not there.
    """
    checkpoint = load_checkpoint(folder)
    tasks = training_tasks(checkpoint.learner, data_of_config(folder / CONFIG, {folder.name: checkpoint}))
    if tasks is None:
        return False
    model_tensors = {name: x for name, x in checkpoint.tensors.items() if not name.startswith("training_tasks/")}
    checkpoint.tensors = model_tensors | training_tasks_tensors(tasks)
    save_checkpoint(folder, checkpoint)
    return True
