"""What `train.py` does besides where a training goes on from a checkpoint."""

from __future__ import annotations

from typing import Any

from metaad_zoo.backbones import ANY
from metaad_zoo.data import EpisodeDataModule
from metaad_zoo.learners import Learner
from metaad_zoo.zoo import parent_shapes

FACTORY = "metaad_zoo.zoo.FineTuned"


def take_parents_shape(config: Any) -> str | None:
    """Set the data's image size, channels, window or length to what the checkpoint of a fine-tuning reads.

    Nothing else would fit it; where an option has no place in this DataModule, :func:`metaad_zoo.zoo.FineTuned`
    compares the shapes.

    Args:
        config: parsed; it is changed.

    Returns:
        What was set, for the user; None where nothing was.
    """
    model, data = config["model"], config["data"]
    if not str(model["class_path"]).startswith(FACTORY):
        return None
    options = data["init_args"]
    own = options.get("dataset", "own") == "own"
    wanted: dict[str, Any] = {}
    for name, shape in parent_shapes(model["init_args"]["checkpoint"]).items():
        if "sample_shapes" in options:
            wanted["sample_shapes"] = {**wanted.get("sample_shapes", {}), name: list(shape)}
        elif name == "image":
            wanted |= {"image_size": shape[1]} | ({"channels": shape[0]} if own else {})
        elif name == "sequence" and shape[0] != ANY:
            wanted |= {"window": shape[0], "length": shape[0]}
    told = {key: value for key, value in wanted.items() if key in options and options[key] != value}
    for key, value in told.items():
        options[key] = value
    if not told:
        return None
    return f"{', '.join(f'data.{k}={v}' for k, v in told.items())}: as {model['init_args']['checkpoint']} reads them"


def seen_by_parent(learner: Learner) -> list[str]:
    """Classes or domains that a learner has seen before this training."""
    return [] if learner.parent is None else list(learner.parent.trained_on)


def refuse_parents_classes(learner: Learner, data: EpisodeDataModule) -> None:
    """Refuse to test a fine-tuned model on what its checkpoint was trained or chosen on.

    Raises:
        ValueError: names them.
    """
    shared = sorted(set(seen_by_parent(learner)) & data.pools["test"].members) if "test" in data.pools else []
    if shared and learner.parent is not None:
        raise ValueError(
            f"{learner.parent.name} was trained or chosen on {shared[:10]}, which are in the test split: meta-test "
            "classes must never be seen in meta-training; take other classes for data.splits, or another checkpoint"
        )
