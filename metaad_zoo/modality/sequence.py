"""The modality ``sequence``: series ``(T, C)`` of steps and channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaad_zoo.modality.base import Modality, Shapes, register_modality

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from torch import Tensor

    from metaad_zoo.data import EpisodeDataModule
    from metaad_zoo.data.read.rows import SampleSource
    from metaad_zoo.modality.drawing import Thumbnails

SEGMENTS = 16
CHANNELS_SHOWN = 6


@register_modality
class SequenceModality(Modality):
    """Windows of series, or short sequences of their own; NaN where a value, or a step at the end, is missing."""

    name = "sequence"
    title = "sequences"
    axes = ("steps", "channels")
    shape = (32, -1)
    scaling = "standard"
    entry = "channel"
    windows = True

    def data_module(self) -> type[EpisodeDataModule]:
        from metaad_zoo.data import SequenceEpisodes

        return SequenceEpisodes

    def own_options(self, shapes: Shapes) -> dict[str, Any]:
        steps = shapes[self.name][0]
        return {"window": steps, "stride": steps}

    def data_options(self, shape: Sequence[int], own: bool = True) -> dict[str, Any]:
        return {} if shape[0] == -1 else {"window": shape[0], "length": shape[0]}

    def recognises(self, path: Path, columns: Sequence[str] | None) -> bool:
        from metaad_zoo.data.read.account import Account
        from metaad_zoo.data.read.listing import list_files
        from metaad_zoo.data.read.table_sources import TABLE_SUFFIXES

        return path.is_dir() and any(list_files(path, TABLE_SUFFIXES, Account()).values())

    def source_class(self) -> type[SampleSource]:
        from metaad_zoo.data.read.rows import WindowSource

        return WindowSource

    def of_array(self, data: Any, shape: Sequence[int]) -> Tensor:
        from metaad_zoo.data.read.rows import windows_of_array

        return windows_of_array(data, shape)

    def usual(self, support: Tensor) -> Tensor:
        """Each channel's mean over time."""
        return support.nanmean((0, 1), keepdim=True)

    def patches(self, shape: Sequence[int]) -> Tensor:
        """A sixteenth of one channel's steps each."""
        import torch

        steps = torch.arange(shape[0]) * min(SEGMENTS, shape[0]) // shape[0]
        return steps[:, None] * shape[1] + torch.arange(shape[1])

    def thumbnails(self, support: np.ndarray, query: np.ndarray) -> Thumbnails:
        """Lines, all at one scale, of the channels that vary most."""
        import numpy as np

        from metaad_zoo.modality.drawing import Thumbnails

        both = np.concatenate([support, query])
        spread = np.ma.masked_invalid(both).std((0, 1)).filled(0.0)
        channels = sorted(np.argsort(-spread, kind="stable")[:CHANNELS_SHOWN].tolist())
        note = f", {len(channels)} of its {both.shape[-1]} channels" if len(channels) < both.shape[-1] else ""
        values = both[..., channels]
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.5, 0.5)
        margin = 0.05 * (high - low) or (1.0 if len(values) else 0.5)

        def draw(axes: Axes, sample: np.ndarray) -> None:
            axes.plot(sample, linewidth=0.8)
            axes.set_ylim(low - margin, high + margin)

        return Thumbnails(support[..., channels], query[..., channels], draw, note)

    def explanation_height(self, sample: np.ndarray) -> float:
        return 1.2 * min(sample.shape[-1], CHANNELS_SHOWN) + 0.7

    def draw_explanation(
        self, figure: SubFigure, sample: np.ndarray, attribution: np.ndarray, names: Sequence[str]
    ) -> None:
        """Lines, the channels of the largest attributions first, shaded by step."""
        import numpy as np

        from metaad_zoo.modality.drawing import colour_limit, largest_first

        channels = largest_first(np.nansum(np.abs(attribution), 0), ~np.isnan(sample).all(0), CHANNELS_SHOWN)
        axes = figure.subplots(len(channels), 1, sharex=True, squeeze=False)[:, 0]
        limit = colour_limit(attribution)
        colours: dict[str, Any] = {"cmap": "bwr", "vmin": -limit, "vmax": limit, "alpha": 0.75, "zorder": 0}
        edges = np.arange(len(sample) + 1) - 0.5
        for panel, channel in zip(axes, channels, strict=True):
            panel.plot(sample[:, channel], color="black", linewidth=0.9, marker="." if len(sample) < 3 else None)
            low, high = panel.get_ylim()
            heat = np.ma.masked_invalid(attribution[None, :, channel])
            shade = panel.pcolormesh(edges, [low, high], heat, **colours)
            panel.set(ylim=(low, high), xlim=(edges[0], edges[-1]))
            panel.set_ylabel(names[channel], fontsize=8)
        axes[-1].set_xlabel("step")
        figure.colorbar(shade, ax=list(axes), label="attribution", extend="both")
