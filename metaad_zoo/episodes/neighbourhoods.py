"""Fine-grained training tasks from few classes, by nearest neighbours."""

from __future__ import annotations

import numpy as np

from metaad_zoo.episodes.draw import assemble, require_enough
from metaad_zoo.episodes.episode import Episode
from metaad_zoo.episodes.pool import ChangedPool, ClassTaskPool
from metaad_zoo.episodes.spec import EpisodeSpec


class NeighbourhoodTaskPool(ChangedPool):
    """Class-as-normal tasks, a share of which is finer: "normal" is a sample and its nearest neighbours.

    A network trained on four classes overfits to these four. A class has as many neighbourhoods as samples, and their
    separation needs finer features, which transfer to unseen classes. The anomalies of a finer task are the
    neighbourhood of a second sample, with probability 0.5 from the same class, else from the task's anomalous samples.
    After Hsu et al., "Unsupervised Learning via Meta-Learning", ICLR 2019, who cluster samples into training tasks.

    Args:
        pool: class-as-normal tasks.
        features: ``(n, d)``, a row for each sample of the pool's source; distances are Euclidean.
        share: probability of a finer episode, in [0, 1].

    Raises:
        ValueError: the share is out of range, or the number of features is not that of the source's samples.
    """

    pool: ClassTaskPool

    def __init__(self, pool: ClassTaskPool, features: np.ndarray, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}; expected a chance in [0, 1]")
        if features.ndim != 2 or len(features) != len(pool.source.labels):
            raise ValueError(f"expected features (n, d) of {len(pool.source.labels)} samples, saw {features.shape}")
        super().__init__(pool)
        self.features, self.share = features, share

    def check(self, spec: EpisodeSpec) -> None:
        self.pool.check(spec)
        for extreme in spec.extremes:
            for task in range(len(self.pool)):
                self._check(task, extreme)

    def _check(self, task: int, spec: EpisodeSpec) -> None:
        """Whether the normal class is large enough for a finer episode of this spec of one episode."""
        available, together = len(self.pool.ids_of(task)[0]), spec.normal_needed + spec.anomalous_needed
        if available < together:
            raise ValueError(
                f"the normal class of {self.task_name(task)} has {available} samples but a finer task may draw "
                f"normals and anomalies, together {together}, from it: lower the episode's counts or set finer_tasks=0"
            )

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        if rng.random() >= self.share:
            return self.pool.draw(task, spec, rng)
        same_class, anomalous_class = self.pool.ids_of(task)

        def check(one: EpisodeSpec) -> None:
            self._check(task, one)
            require_enough(f"task {self.task_name(task)}", one, same_class, anomalous_class)

        spec = spec.drawn(rng, check)
        normal_anchor, normals = self._neighbourhood(same_class, spec.normal_needed, rng)
        candidates = np.setdiff1d(same_class, normals) if rng.random() < 0.5 else anomalous_class
        anomalous_anchor, anomalies = self._neighbourhood(candidates, spec.anomalous_needed, rng)
        name = f"{self.task_name(task)}/near-{normal_anchor}-vs-near-{anomalous_anchor}"
        return assemble(self.pool.source, name, spec, normals, anomalies, rng)

    def _neighbourhood(self, ids: np.ndarray, size: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """A random sample of ``ids``, and the ``size`` samples nearest to it, itself included, shuffled."""
        anchor = int(rng.choice(ids))
        features = self.features[ids].astype(np.float32)
        distances = np.square(features - self.features[anchor].astype(np.float32)).sum(1)
        return anchor, rng.permutation(ids[np.argsort(distances, kind="stable")[:size]])
