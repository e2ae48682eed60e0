"""The modality ``image``: images ``(C, H, W)`` between 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from metaad_zoo.modality.base import SCORING_CHUNK, Modality, Shapes, Standardise, register_modality

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from torch import Tensor

    from metaad_zoo.data import EpisodeDataModule
    from metaad_zoo.data.read.rows import SampleSource
    from metaad_zoo.episodes import SupportScaling
    from metaad_zoo.modality.drawing import Thumbnails

PATCHES_A_SIDE = 8
DARK, SCALES = 0.1, (1, 2, 4)
"""Grey level below which a pixel counts as dark; pixels a side whose means are compared with those beside them."""
BLUE, RED = "#3b8bff", "#ff3b30"
"""Lowers, raises; over grey pixels."""


class PictureModality(Modality):
    """Samples that are looked at: images ``(C, H, W)`` without gaps, with values in [0, 1]."""

    axes = ("channels", "height", "width")
    chunk = SCORING_CHUNK
    missing = False
    value_range = (0.0, 1.0)

    def feature_scaling(self, support: Tensor) -> SupportScaling:
        """All pixels of the support together."""
        from metaad_zoo.episodes import SupportScaling

        return SupportScaling.fit(support.flatten(1).unsqueeze(-1), "standard")

    def statistics(self, samples: Tensor) -> Tensor:
        """Brightness, contrast, shares of dark and of bright pixels, roughness at three scales, and colourfulness."""
        import torch
        from torch.nn.functional import avg_pool2d

        grey = samples.double().mean(1, keepdim=True)
        spread, brightness = torch.std_mean(grey, dim=(1, 2, 3), correction=0)
        shares = [mask.double().mean((1, 2, 3)) for mask in (grey < DARK, grey > 1 - DARK)]
        coarse = [avg_pool2d(grey, scale) for scale in SCALES if 2 * scale <= min(grey.shape[2:])]
        roughness = [(x.diff(dim=2).abs().mean((1, 2, 3)) + x.diff(dim=3).abs().mean((1, 2, 3))) / 2 for x in coarse]
        roughness += [torch.zeros_like(brightness)] * (len(SCALES) - len(coarse))  # images of a few pixels
        colourfulness = samples.double().std(1, correction=0).mean((1, 2))
        return torch.stack([brightness, spread, *shares, *roughness, colourfulness], 1)

    def usual(self, support: Tensor) -> Tensor:
        """The mean image."""
        return support.nanmean(0, keepdim=True)

    def patches(self, shape: Sequence[int]) -> Tensor:
        """Squares, an eighth of a side each, of all channels together."""
        import torch

        rows, columns = (torch.arange(size) * min(PATCHES_A_SIDE, size) // size for size in shape[1:])
        return (rows[:, None] * (int(columns.max()) + 1) + columns).expand(*shape).contiguous()

    def thumbnails(self, support: np.ndarray, query: np.ndarray) -> Thumbnails:
        from metaad_zoo.modality.drawing import Thumbnails

        def draw(axes: Axes, sample: np.ndarray) -> None:
            pixels = _between_0_and_1(sample)
            axes.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray")

        return Thumbnails(support, query, draw)

    def explanation_height(self, sample: np.ndarray) -> float:
        return 3.9

    def draw_explanation(
        self, figure: SubFigure, sample: np.ndarray, attribution: np.ndarray, names: Sequence[str]
    ) -> None:
        """The image beside a map of its pixels."""
        import numpy as np
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LinearSegmentedColormap, ListedColormap

        from metaad_zoo.modality.drawing import colour_limit

        axes = figure.subplots(1, 2)
        pixels = _between_0_and_1(sample)
        grey = pixels.mean(-1)
        axes[0].imshow(pixels if pixels.shape[-1] == 3 else grey, cmap="gray", vmin=0, vmax=1)
        heat = np.nansum(attribution, 0)
        axes[1].imshow(0.3 + 0.5 * grey, cmap="gray", vmin=0, vmax=1)
        limit = colour_limit(heat)
        # Weak attributions let the image through, and are red or blue too: a pale one would look like a bright pixel.
        drawn = axes[1].imshow(
            heat,
            cmap=ListedColormap([BLUE, RED]),
            vmin=-limit,
            vmax=limit,
            alpha=np.minimum(np.abs(heat) / limit, 1.0),
            interpolation="nearest",
        )
        over_grey = LinearSegmentedColormap.from_list("over_grey", [BLUE, "#4d4d4d", RED])
        figure.colorbar(ScalarMappable(drawn.norm, over_grey), ax=axes[1], label="attribution", extend="both")
        for panel in axes:
            panel.set(xticks=[], yticks=[])


@register_modality
class ImageModality(PictureModality):
    """Images of 1 or 3 channels."""

    name = "image"
    reads_arrays = True
    title = "images"
    shape = (3, 64, 64)
    neighbours: ClassVar[Mapping[str, Standardise]] = {
        "1-NN on pixels": "none",
        "1-NN on standardised pixels": "sample",
    }
    preparation = "it reads images of that size between 0 and 1: resize bilinearly, antialiased (docs/production.md)"

    def data_module(self) -> type[EpisodeDataModule]:
        from metaad_zoo.data import ImageEpisodes

        return ImageEpisodes

    def own_options(self, shapes: Shapes) -> dict[str, Any]:
        return self.data_options(shapes[self.name])

    def data_options(self, shape: Sequence[int], own: bool = True) -> dict[str, Any]:
        return {"image_size": shape[-1], **({"channels": shape[0]} if own else {})}

    def recognises(self, path: Path, columns: Sequence[str] | None) -> bool:
        from metaad_zoo.data.read.images import holds_images

        return holds_images(path) if path.is_dir() else columns is None

    def source_class(self) -> type[SampleSource]:
        from metaad_zoo.data.read.images import ImageSource

        return ImageSource

    def of_array(self, data: Any, shape: Sequence[int]) -> Tensor:
        from metaad_zoo.data.read.images import as_images

        return as_images(data, shape)

    def fit(self, samples: Tensor, shape: Sequence[int]) -> Tensor:
        from metaad_zoo.data.read.images import fit_images

        return fit_images(samples, shape)


def _between_0_and_1(image: np.ndarray) -> np.ndarray:
    """Pixels ``(H, W, C)``, stretched from their darkest to their brightest."""
    import numpy as np

    pixels = np.moveaxis(image, 0, -1)
    low, high = np.nanmin(pixels), np.nanmax(pixels)
    stretched: np.ndarray = (pixels - low) / max(high - low, 1e-12)
    return stretched
