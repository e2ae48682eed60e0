"""Contrastive pretraining without episodes, a baseline for meta-learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from metaad_zoo.episodes import ANOMALOUS, EpisodeBatch
from metaad_zoo.learners.embedding import EmbeddingLearner, Reading
from metaad_zoo.learners.registry import register_learner
from metaad_zoo.registry import unknown_name

Head = Literal["prototype", "nearest"]


@register_learner("pretrained")
class ContrastivePretraining(EmbeddingLearner):
    """Supervised contrastive pretraining on the meta-training classes, and scores by cosine to the support.

    Source: the first stage of Chen et al., "Meta-Baseline: Exploring Simple Meta-Learning for Few-Shot Learning", ICCV
    2021: plain training on all classes, and comparison of a new task's samples with its support's mean by cosine. Here
    the training loss is the supervised contrastive loss (Khosla et al., "Supervised Contrastive Learning", NeurIPS
    2020), which needs no list of classes. It attracts normal samples of the same class in a batch, of support and
    query, and repels samples of different classes: normal samples of other classes, and anomalies of tasks of the same
    class. The class follows from the task's name; each domain (machine, table) is a class.

    Args:
        head: ``"prototype"``: distance to the mean of the support; ``"nearest"``: to its nearest sample. Both are
            ``1 - cosine`` without learned parameters; labelled anomalies are excluded.
        temperature: temperature of the contrastive loss; 0.1 in the paper.
        kwargs: further arguments of :class:`EmbeddingLearner`, except ``tasks_at_once``: the loss compares all tasks of
            a batch.
    """

    def __init__(self, *, head: Head = "prototype", temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if head not in get_args(Head):
            raise unknown_name("head", head, get_args(Head))
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; expected more than 0, such as 0.1")
        if self._arguments["tasks_at_once"] is not None:
            raise ValueError(
                "pretrained compares the tasks of a batch, so tasks_at_once is refused: lower tasks_per_batch"
            )
        self._arguments |= {"head": head, "temperature": temperature}
        self.head: Head = head
        self.temperature = temperature

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """Normalised embeddings of the ``support``, and the mask ``usual`` of those not labelled anomalous."""
        return {"support": F.normalize(embeddings, dim=-1), "usual": labels != ANOMALOUS}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """``1 - cosine``, from 0 to 2."""
        x, usual = F.normalize(embeddings, dim=-1), reading["usual"].unsqueeze(-1)
        if self.head == "prototype":
            mean = (reading["support"] * usual).sum(-2)
            return 1 - (x * F.normalize(mean, dim=-1).unsqueeze(-2)).sum(-1)
        cosines = x @ reading["support"].transpose(-1, -2)
        return 1 - cosines.masked_fill(~usual.transpose(-1, -2), -torch.inf).amax(-1)

    def outer_loss(self, batch: EpisodeBatch) -> Tensor:
        """Contrastive loss ``()`` over all samples of the batch."""
        embeddings = torch.cat(self.embed_batch(batch), 1).flatten(0, 1)
        labels = torch.cat([batch.support_labels, batch.query_labels], 1)
        classes = torch.tensor(classes_of(batch.tasks), device=labels.device)
        with torch.autocast(self.device.type, enabled=False):
            return contrastive_loss(
                embeddings,
                classes.unsqueeze(1).expand_as(labels).flatten(),
                (labels == ANOMALOUS).flatten(),
                self.temperature,
            )


def classes_of(tasks: Sequence[str]) -> list[int]:
    """Index of each task's normal class; tasks that differ only in their anomalies have the same class.

    Example:
        >>> classes_of(["digits/3-vs-1", "digits/0", "digits/3-vs-8", "smd/machine-1-1"])
        [0, 1, 0, 2]
    """
    names = [task.partition("-vs-")[0] for task in tasks]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return [index[name] for name in names]


def contrastive_loss(x: Tensor, classes: Tensor, anomalous: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020, equation 2), as a mean over normal samples with a positive.

    Args:
        x: embeddings ``(n, d)``.
        classes: ``(n,)``: the class of a normal sample; for an anomaly, the class to which it does not belong.
        anomalous: ``(n,)`` booleans.
        temperature: divisor of the cosines.
    """
    directions = F.normalize(x, dim=-1)
    cosines = directions @ directions.T / temperature
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    same = classes.unsqueeze(1) == classes
    positive = same & ~anomalous & ~itself
    # The class of an anomaly in a task of another class is unknown, so this pair does not count.
    compared = (positive | (same & anomalous) | (~same & ~anomalous)) & ~itself
    log_share = cosines - cosines.masked_fill(~compared, -torch.inf).logsumexp(1, keepdim=True)
    count = positive.sum(1)
    anchors = ~anomalous & (count > 0)
    means = log_share.masked_fill(~positive, 0).sum(1) / count.clamp_min(1)
    return -means[anchors].mean()
