"""Figures of a sample beside its attributions, for every modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from metaad_zoo.modality import get_modality, list_modalities


def explanation_figure(
    sample: Any, attribution: Any, names: Mapping[str, Sequence[str]] | None = None, title: str = ""
) -> Figure:
    """One sample and its attributions: red raised the score, blue lowered it.

    An image is drawn beside a map of its pixels; a sequence as lines, the channels of the largest attributions first,
    shaded by step; a table row as bars, the columns of the largest attributions first; see
    :meth:`metaad_zoo.modality.Modality.draw_explanation`.

    Args:
        sample: an array ``(C, H, W)``, ``(T, C)`` or ``(D,)``, or a dict of these by modality; raw.
        attribution: array in the sample's shape, or a dict of these: one sample of the result of ``detector.explain``.
        names: names of channels or columns by modality (``"sequence"``, ``"tabular"``).
        title: title of the figure.

    Raises:
        ValueError: the shapes of sample and attribution differ, or there are not as many names as columns.

    Example:
        >>> figure = explanation_figure(np.zeros(3), np.array([0.5, -1.0, np.nan]), {"tabular": ["a", "b", "c"]})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['b = 0', 'a = 0']
    """
    samples, maps = _by_modality(sample), _by_modality(attribution)
    sample_shapes, map_shapes = ({name: x.shape for name, x in part.items()} for part in (samples, maps))
    if sample_shapes != map_shapes:
        raise ValueError(f"expected an attribution in the shape of the sample, {sample_shapes}, saw {map_shapes}")
    parts = {name: x for name, x in samples.items() if not np.isnan(x).all()}
    if not parts:
        raise ValueError("this sample has no value that is there: nothing can be drawn")
    heights = [get_modality(name).explanation_height(x) for name, x in parts.items()]
    figure = Figure(figsize=(7.5, sum(heights) + 0.5 * bool(title)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    rooms = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for room, (name, x) in zip(rooms, parts.items(), strict=True):
        modality = get_modality(name)
        entries = modality.names((names or {}).get(name), x.shape[-1]) if modality.entry else []
        modality.draw_explanation(room, x, maps[name], entries)
    return figure


def _by_modality(x: Any) -> dict[str, np.ndarray]:
    parts = x if isinstance(x, Mapping) else {_modality_of_axes(np.ndim(x)): x}
    arrays = {name: np.asarray(part, np.float64) for name, part in parts.items()}
    for name, part in arrays.items():
        axes = get_modality(name).axes
        if len(axes) != part.ndim:
            raise ValueError(f"expected one sample of {name!r}, ({', '.join(axes)}), saw shape {part.shape}")
    return arrays


def _modality_of_axes(number: int) -> str:
    """Name of the modality whose samples have this number of axes."""
    modalities = [m for m in map(get_modality, list_modalities()) if m.reader == m.name]
    for modality in modalities:
        if len(modality.axes) == number:
            return modality.name
    shapes = {m.name: f"({', '.join(m.axes)})" for m in modalities}
    raise ValueError(f"expected one sample, {shapes}, saw {number} axes: give a dict from modality to sample")
