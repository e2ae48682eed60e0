"""Pretrain, then adapt: the control that episodic training has to beat."""

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
    """An embedding of the meta-training classes, and a comparison by cosine that knows nothing of episodes.

    Source: Chen et al., "Meta-Baseline: Exploring Simple Meta-Learning for Few-Shot Learning", ICCV 2021, its first
    stage: classes are told apart in plain training, and a new task's samples compared with its support's mean by
    cosine. Here the classes are told apart by the supervised contrastive loss (Khosla et al., "Supervised Contrastive
    Learning", NeurIPS 2020), which asks for no list of classes: the normal samples of a batch, of support and query
    alike, are drawn to those of their own class and away from all that is known to be of another, which are the normal
    samples of other classes and the anomalies of tasks of its own class. What a task's class is tells its name; domains
    (machines, tables) are classes of their own.

    Args:
        head: ``"prototype"``: distance to the mean of the support; ``"nearest"``: to its nearest sample. Both by
            ``1 - cosine``, and without anything learned; labelled anomalies are left out.
        temperature: of the contrastive loss; 0.1 in the paper.
        kwargs: as for :class:`EmbeddingLearner`, but for ``tasks_at_once``: tasks are told apart, and so needed
            together.
    """

    def __init__(self, *, head: Head = "prototype", temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if head not in get_args(Head):
            raise unknown_name("head", head, get_args(Head))
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; expected more than 0, such as 0.1")
        if self._arguments["tasks_at_once"] is not None:
            raise ValueError("tasks_at_once is for tasks apart, but pretrained tells them apart: lower tasks_per_batch")
        self._arguments |= {"head": head, "temperature": temperature}
        self.head: Head = head
        self.temperature = temperature

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """The support's directions, and which of them are not labelled anomalous."""
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
        """The contrastive loss over all samples of the batch."""
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
    """A number for each task's normal class; tasks that differ in their anomalies alone have the same.

    Example:
        >>> classes_of(["digits/3-vs-1", "digits/0", "digits/3-vs-8", "smd/machine-1-1"])
        [0, 1, 0, 2]
    """
    names = [task.partition("-vs-")[0] for task in tasks]
    known = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return [known[name] for name in names]


def contrastive_loss(x: Tensor, classes: Tensor, anomalous: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020, equation 2), the mean over normal samples that have a like.

    Args:
        x: embeddings ``(n, d)``.
        classes: ``(n,)``: of a normal sample its class; of an anomaly the class that it is not of.
        anomalous: ``(n,)``.
        temperature: divides cosines.
    """
    directions = F.normalize(x, dim=-1)
    cosines = directions @ directions.T / temperature
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    same = classes.unsqueeze(1) == classes
    alike = same & ~anomalous & ~itself
    # Whether an anomaly of another class's task is of this sample's class, nobody knows: it does not count.
    known = (alike | (same & anomalous) | (~same & ~anomalous)) & ~itself
    log_share = cosines - cosines.masked_fill(~known, -torch.inf).logsumexp(1, keepdim=True)
    likes = alike.sum(1)
    anchors = ~anomalous & (likes > 0)
    means = log_share.masked_fill(~alike, 0).sum(1) / likes.clamp_min(1)
    return -means[anchors].mean()
