"""Real tables and generated ones in one pool of training tasks."""

from __future__ import annotations

import numpy as np

from metaad_zoo.data.generated_tables import GeneratedTables
from metaad_zoo.episodes import DomainTaskPool, Episode, EpisodeSpec, TaskPool


class MixedTables(TaskPool):
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
        self.real, self.generated, self.share = real, generated, share

    def __len__(self) -> int:
        return len(self.real)

    def task_name(self, task: int) -> str:
        return self.real.task_name(task)

    @property
    def members(self) -> frozenset[str]:
        return self.real.members | self.generated.members

    @property
    def recorded(self) -> frozenset[str]:
        return self.real.recorded

    def check(self, spec: EpisodeSpec) -> None:
        self.real.check(spec)

    def sizes(self) -> list[tuple[str, int, int]]:
        return self.real.sizes()

    def draw(self, task: int, spec: EpisodeSpec, rng: np.random.Generator) -> Episode:
        if rng.random() < self.share:
            return self.generated.draw(int(rng.integers(len(self.generated))), spec, rng)
        return self.real.draw(task, spec, rng)
