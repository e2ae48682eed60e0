"""Experts on normal and unlabelled samples, weighted by what a network reads from the task."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.episodes import ANOMALOUS, NORMAL, UNLABELLED, EpisodeBatch
from metaad_zoo.learners.embedding import Reading
from metaad_zoo.learners.expert_ranks import CONTEXT, EXPERTS, State, digest, digest_normal, expert_ranks, normal_scores
from metaad_zoo.learners.registry import register_learner
from metaad_zoo.learners.table_rows import TableRowLearner

FIRST = ("near_support", "smooth_ratio_white", "smooth_mahalanobis_50")
"""Experts that have half of the weight before training."""
UNITS = ("own", "robust")
"""Units of the columns in which each expert is asked: those of the embedding, and quartiles around the median."""
NEAREST = EXPERTS.index("near_support")
IQR = 1.349
"""Distance of the quartiles of a standard normal variable."""
SHARPNESS = 12.0
"""Of the sigmoid that stands for a step in the outer loss."""
ROWS_AT_ONCE, DISTANCES_AT_ONCE = 4096, 2**24
"""Largest number of queries that are compared at once, and of their distances to the normal samples."""
LEAST_UNLABELLED = 20
"""Fewer unlabelled samples beside normal ones are not used: ranks among them say little."""

NOTHING_TO_LEARN = (
    f"some training episodes have fewer than {LEAST_UNLABELLED} unlabelled samples beside normal ones: their loss is 0 "
    "and teaches weighted_experts nothing; set data.episode.support_normal to 1 or more and support_unlabelled to "
    f"{LEAST_UNLABELLED} or more"
)


@register_learner("weighted_experts")
class WeightedExperts(TableRowLearner):
    """Weighted mean of experts that read the normal and the unlabelled support samples.

    An embedding is a table row of any width, which may be NaN; with the backbone ``raw_columns`` it is the sample
    itself. The weights of a backbone are not trained: take one without weights, or a pretrained one. Some of the
    unlabelled samples (label -1) beside normal ones (label 0) may be anomalous.

    1. Each expert (:mod:`metaad_zoo.learners.expert_ranks`) is a distance to the normal samples, to the unlabelled
       ones, or to those of them that look most normal, in two units of the columns. Its scores become ranks among
       the unlabelled samples.
    2. A network reads a description of the task (its size, how well experts agree, the tails of distances, where the
       normal samples lie among the unlabelled ones) and gives each expert its weight. Its last layer is initially
       zero. The contamination is not given; :meth:`expecting` states it, and half of the training tasks do.
    3. The score is the weighted mean of the ranks.

    The outer loss is the share of pairs of a normal and an anomalous query in the wrong order, and ``caution`` times
    the excess of that share over the one of the nearest normal sample, so that unlabelled samples do not do harm.

    With fewer than 20 unlabelled samples it is a mean of three distances to the normal samples alone, from which
    nothing is learned: the outer loss of such a task is 0, and the training warns. Where
    no sample is normal, all unlabelled ones count as normal. Labelled anomalies are not used. More than ``landmarks``
    unlabelled samples are reduced to that number, evenly spaced in their order, which is random in episodes and
    detectors.

    Source: after Zhao et al., "Automatic Unsupervised Outlier Model Selection" (MetaOD), NeurIPS 2021, which chooses
    detectors by a description of the data; means of ranks as in Aggarwal & Sathe, "Theoretical Foundations and
    Algorithms for Outlier Ensembles", SIGKDD Explorations 2015.

    Args:
        landmarks: largest number of unlabelled samples that are compared with each other.
        width: width of the network.
        dropout: dropout in the network.
        caution: weight of the second part of the outer loss.
        kwargs: further arguments of :class:`TableRowLearner`.

    Raises:
        ValueError: an argument is out of range.
    """

    reads_unlabelled: ClassVar[bool] = True
    cost: ClassVar[str] = f"{len(EXPERTS)} experts compare each sample with the unlabelled ones"

    def __init__(
        self, *, landmarks: int = 1000, width: int = 32, dropout: float = 0.2, caution: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if landmarks < LEAST_UNLABELLED or width < 1 or not 0 <= dropout < 1 or caution < 0:
            raise ValueError(
                f"landmarks={landmarks}, width={width}, dropout={dropout}, caution={caution}; expected "
                f"{LEAST_UNLABELLED} or more, 1 or more, a share in [0, 1), and 0 or more"
            )
        self._arguments |= {"landmarks": landmarks, "width": width, "dropout": dropout, "caution": caution}
        self.landmarks, self.caution = landmarks, caution
        self.network.requires_grad_(False)
        self._contamination = math.nan
        n = len(UNITS) * len(EXPERTS)
        prior = torch.zeros(len(UNITS), len(EXPERTS))
        prior[:, [EXPERTS.index(name) for name in FIRST]] = math.log(len(EXPERTS) / len(FIRST) - 1)
        self.prior = nn.Parameter(prior.flatten())
        self.network_of_weights = nn.Sequential(
            nn.Linear(len(UNITS) * CONTEXT + 2, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, n)
        )
        nn.init.zeros_(self.network_of_weights[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.network_of_weights[-1].bias)  # type: ignore[arg-type]
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.offset = nn.Parameter(torch.tensor(-2.0))

    def expecting(self, contamination: float) -> WeightedExperts:
        """A copy that shares the weights and expects this contamination of the unlabelled samples.

        Raises:
            ValueError: the share is out of range, or the network is not trained, so that no share changes a score.
        """
        if not 0 <= contamination < 1:
            raise ValueError(f"contamination is {contamination}; expected a share in [0, 1)")
        if not any(bool(p.any()) for p in self.network_of_weights[-1].parameters()):
            raise ValueError(
                "the network of this weighted_experts is not trained, so that the share of anomalies would change no "
                "score: leave out contamination (--contamination), or take pile_knn"
            )
        learner = copy.copy(self)
        learner._contamination = contamination
        return learner

    def is_calibrated_for(self, support_labels: Tensor) -> bool:
        """Whether there are unlabelled samples to rank among, as in the validation tasks."""
        unlabelled = int((support_labels == UNLABELLED).sum())
        return bool((support_labels == NORMAL).any()) and unlabelled >= LEAST_UNLABELLED

    def task_losses(self, batch: EpisodeBatch) -> Tensor:
        """Query loss of each task ``(tasks,)``."""
        support, query = self.embed_batch(batch)
        contaminations = batch.contamination or [math.nan] * len(batch)
        losses = []
        with torch.autocast(self.device.type, enabled=False):
            for rows, labels, queries, kinds, share in zip(
                support, batch.support_labels, query, batch.query_labels, contaminations, strict=True
            ):
                stated = self.training and bool(torch.rand(()) < 0.5)
                reading = self._read(rows, labels, share if stated else self._contamination)
                if self.training and "weights" not in reading:
                    warnings.warn(NOTHING_TO_LEARN, stacklevel=2)  # shown once by Python's filter
                losses.append(self._loss(reading, queries, kinds))
        return torch.stack(losses)

    def task_loss(self, reading: Reading, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Outer loss of each task ``(tasks,)``; see the class."""
        tasks = [{name: x[i] for name, x in reading.items()} for i in range(len(labels))]
        return torch.stack([self._loss(*task) for task in zip(tasks, embeddings, labels, strict=True)])

    def _loss(self, reading: Reading, queries: Tensor, labels: Tensor) -> Tensor:
        if "weights" not in reading:  # nothing to weigh
            return sum((p.sum() * 0 for p in self.trainable()), start=queries.new_zeros(()))
        with torch.no_grad():
            ranks = _ranks(reading, _filled(reading, queries))
        score, anomalous = ((ranks - 0.5) * reading["weights"]).sum(-1), labels == ANOMALOUS
        wrong, nearest = (_wrong_pairs(x, anomalous) for x in (score, ranks[:, NEAREST]))
        logits = self.log_scale.exp() * score.detach() + self.offset
        entropy = F.binary_cross_entropy_with_logits(logits, anomalous.to(logits.dtype))
        return wrong + self.caution * (wrong - nearest).clamp_min(0) + 0.1 * entropy

    def notes(self, reading: Reading) -> list[str]:
        """What was left out of the support set, and what is used in part."""
        given = int(reading["unlabelled"])
        if given and "weights" not in reading:
            return [f"{given} unlabelled samples are left out: fewer than {LEAST_UNLABELLED} say little"]
        if given > self.landmarks:
            return [f"{self.landmarks} of the {given} unlabelled samples are used, evenly spaced in their order"]
        return []

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """What :meth:`compare` needs of one support set ``(n, d)``; on leading axes it is called once a task."""
        return self._read(embeddings, labels, self._contamination)

    def _read(self, embeddings: Tensor, labels: Tensor, contamination: float) -> Reading:
        rows = embeddings.detach()
        normal = rows[labels == NORMAL]
        unlabelled = _present(rows[labels == UNLABELLED])
        beside_normal = torch.tensor(len(unlabelled) if len(normal) else 0)
        if not len(normal) or len(unlabelled) < LEAST_UNLABELLED:
            normal, unlabelled = (normal, unlabelled[:0]) if len(normal) else (unlabelled, normal)
        elif len(unlabelled) > self.landmarks:
            unlabelled = unlabelled[torch.arange(self.landmarks) * len(unlabelled) // self.landmarks]
        both = torch.cat([normal, unlabelled])
        present = ~both.isnan().all(0)
        columns = {"present": present.nonzero().flatten(), "fill": both[:, present].nanmedian(0).values}
        columns["unlabelled"] = beside_normal
        normal, unlabelled = _filled(columns, normal), _filled(columns, unlabelled)
        columns |= _quartiles(torch.cat([normal, unlabelled]))
        in_units = zip(_in_units(columns, normal), _in_units(columns, unlabelled), strict=True)
        if not len(unlabelled):
            return {**_by_unit(digest_normal(x) for x, _ in in_units), **columns}
        with torch.no_grad():
            digests = [digest(x, y) for x, y in in_units]
        state = _by_unit(part for part, _ in digests)
        description = torch.cat([numbers for _, numbers in digests])
        is_stated = not math.isnan(contamination)
        stated = description.new_tensor([10 * contamination if is_stated else 0.0, float(is_stated)])
        description = torch.cat([description, stated]).to(self.prior.dtype)
        weights = (self.prior + self.network_of_weights(description)).softmax(-1)
        return {**state, **columns, "weights": weights}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """Logits ``(m,)`` of embeddings ``(m, d)``, computed in parts to limit memory."""
        if torch.compiler.is_compiling():  # a traced graph can't split batches of unknown length
            return self._compare(reading, embeddings)
        normal = next(x for name, x in reading.items() if name.endswith("support/normal"))
        rows = max(1, min(ROWS_AT_ONCE, DISTANCES_AT_ONCE // len(normal)))
        return torch.cat([self._compare(reading, part) for part in embeddings.split(rows)])

    def _compare(self, reading: Reading, queries: Tensor) -> Tensor:
        queries = _filled(reading, queries)
        if "weights" not in reading:
            return torch.stack([normal_scores(state, x) for state, x in _parts(reading, queries)]).mean(0)
        ranks = _ranks(reading, queries)
        return self.log_scale.exp() * ((ranks - 0.5) * reading["weights"]).sum(-1) + self.offset


def _filled(reading: Reading, queries: Tensor) -> Tensor:
    """Queries ``(m, d)`` in the columns that the support has, with the support's medians for missing values."""
    columns = queries[:, reading["present"]]
    return torch.where(columns.isnan(), reading["fill"], columns)


def _quartiles(x: Tensor) -> dict[str, Tensor]:
    """Median of each column of ``(n, d)``, and its quartiles' distance or, where that is 0, its standard deviation."""
    low, middle, high = x.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype, device=x.device), 0)
    spread = x.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1)
    return {"middle": middle, "width": torch.where(high - low > 1e-6 * spread, (high - low) / IQR, spread)}


def _in_units(columns: Reading, x: Tensor) -> tuple[Tensor, Tensor]:
    """Samples in each of :data:`UNITS`."""
    return x, (x - columns["middle"]) / columns["width"]


def _by_unit(states: Iterable[State]) -> dict[str, Tensor]:
    """The states of each of :data:`UNITS` in one mapping."""
    return {f"{unit}/{name}": x for unit, state in zip(UNITS, states, strict=True) for name, x in state.items()}


def _parts(reading: Reading, queries: Tensor) -> list[tuple[State, Tensor]]:
    """For each of :data:`UNITS`, what the experts keep, and the filled queries."""
    in_units = zip(UNITS, _in_units(reading, queries), strict=True)
    return [
        ({name.removeprefix(f"{unit}/"): y for name, y in reading.items() if name.startswith(f"{unit}/")}, x)
        for unit, x in in_units
    ]


def _ranks(reading: Reading, queries: Tensor) -> Tensor:
    """Ranks ``(m, len(UNITS) * len(EXPERTS))`` of filled queries."""
    return torch.cat([expert_ranks(state, x) for state, x in _parts(reading, queries)], 1)


def _wrong_pairs(score: Tensor, anomalous: Tensor) -> Tensor:
    """Smooth share of the pairs of a normal and an anomalous sample in which the normal one has the higher score."""
    difference = score[anomalous].unsqueeze(1) - score[~anomalous]
    return torch.sigmoid(-SHARPNESS * difference).mean() if difference.numel() else score.sum() * 0


def _present(rows: Tensor) -> Tensor:
    """Rows with a value."""
    return rows[~rows.isnan().all(-1)]
