"""The modality ``tabular``: rows ``(D,)`` of a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaad_zoo.modality.base import SCORING_CHUNK, Modality, Shapes, register_modality

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import SubFigure
    from torch import Tensor

    from metaad_zoo.data import EpisodeDataModule
    from metaad_zoo.data.read.rows import SampleSource

COLUMNS_SHOWN = 20
RAISES, LOWERS = "C3", "C0"


@register_modality
class TabularModality(Modality):
    """Table rows; NaN where a value is missing."""

    name = "tabular"
    title = "table rows"
    axes = ("columns",)
    shape = (-1,)
    chunk = 16 * SCORING_CHUNK
    scaling = "robust"
    entry = "column"
    has_label_column = True

    def data_module(self) -> type[EpisodeDataModule]:
        from metaad_zoo.data import TabularEpisodes

        return TabularEpisodes

    def own_options(self, shapes: Shapes) -> dict[str, Any]:
        return {}

    def data_options(self, shape: Sequence[int], own: bool = True) -> dict[str, Any]:
        return {}

    def recognises(self, path: Path, columns: Sequence[str] | None) -> bool:
        from metaad_zoo.data.read.manifest import FILE_COLUMNS

        return columns is not None and not set(FILE_COLUMNS) & set(columns)

    def source_class(self) -> type[SampleSource]:
        from metaad_zoo.data.read.rows import RowSource

        return RowSource

    def of_array(self, data: Any, shape: Sequence[int]) -> Tensor:
        from metaad_zoo.data.read.rows import rows_of_array

        return rows_of_array(data, shape)

    def usual(self, support: Tensor) -> Tensor:
        """Each column's median."""
        return support.nanmedian(0, keepdim=True).values

    def patches(self, shape: Sequence[int]) -> Tensor:
        """A column each."""
        import torch

        return torch.arange(shape[0])

    def thumbnails(self, support: np.ndarray, query: np.ndarray) -> None:
        return None

    def explanation_height(self, sample: np.ndarray) -> float:
        return 0.28 * min(sample.shape[-1], COLUMNS_SHOWN) + 0.7

    def draw_explanation(
        self, figure: SubFigure, sample: np.ndarray, attribution: np.ndarray, names: Sequence[str]
    ) -> None:
        """Bars, the columns of the largest attributions first."""
        import numpy as np

        from metaad_zoo.modality.drawing import largest_first

        axes = figure.subplots()
        present = ~np.isnan(attribution)
        columns = largest_first(np.abs(attribution), present, COLUMNS_SHOWN)
        sizes = attribution[columns]
        axes.barh(range(len(columns)), sizes, color=[RAISES if size > 0 else LOWERS for size in sizes])
        axes.set_yticks(range(len(columns)), [f"{names[i]} = {sample[i]:.4g}" for i in columns], fontsize=8)
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        hidden = int(present.sum()) - len(columns)
        axes.set_xlabel("attribution" + (f" ({hidden} more columns are not shown)" if hidden else ""))
