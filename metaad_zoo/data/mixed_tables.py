"""Real tables and generated ones in one pool of training tasks."""

from __future__ import annotations

import numpy as np

from metaad_zoo.data.generated_tables import GeneratedTables
from metaad_zoo.episodes import ChangedPool, DomainTaskPool, Episode, EpisodeSpec


class MixedTables(ChangedPool):
    """Tasks of real tables, of which a share is replaced by generated tables, episode by episode.

    Args:
        real: tasks of real tables.
        generated: tasks of generated tables.
        share: share of the episodes, above 0 and below 1, that come from a generated table in place of the drawn task.

    Raises:
        ValueError: the share is out of range.
    """

    def __init__(self, real: DomainTaskPool, generated: GeneratedTables, share: float) -> None:
        if not 0 < share < 1:
            raise ValueError(
                f"data.generated_share is {share}; expected 0, or a share below 1 (for generated tables alone: "
                "splits={train: [generated]})"
            )
        super().__init__(real)
        self.generated, self.share = generated, share

    @property
    def members(self) -> frozenset[str]:
        return self.pool.members | self.generated.members

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        if rng.random() < self.share:
            return self.generated.draw(int(rng.integers(len(self.generated))), spec, rng)
        return self.pool.draw(task, spec, rng)
