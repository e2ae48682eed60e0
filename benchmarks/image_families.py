"""Image domains in families, for judging by leaving whole families out: the defect sets of the bank, and paper.

Images of boards are made black and white: those with defects have about 60 grey levels, as JPEG leaves them, and the
good ones about 14, so that the storage alone would tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.data.read.images import as_images
from metaad_zoo.episodes import Samples
from metaad_zoo.learners import PatchMemory

BANK = {
    "cookies_aws": "biscuit",
    "insulator_cplid": "insulator",
    "brick_crack": "brick",
    "coffee_leaf": "leaf",
    "tomato_fgrade": "fruit",
    "brain_mri": "brain",
    "fdm_print": "print",
    "malaria_fiocruz": "blood",
}
"""Family by file; each file is one domain."""
GROUPED = {"pcb_deeppcb": ("board", ("group00041", "group12100")), "ballscrew_bsdata": ("spindle", ("01", "KG"))}
"""Family and groups with enough good images; each group is one domain."""
PAPERS = ["BDP01_TL", "BFT01_TL", "BRG01_RL", "BRG02_RL", "BRG03_TL", "FLR01_TL", "FLR02_TL", "ZPB01_RL"]
SPOILT = 7
"""Grade of a fruit from which it counts as anomalous; lower ones but 0 are left out."""


N_DOMAINS = len(PAPERS) + len(BANK) + sum(len(groups) for _, groups in GROUPED.values())


@dataclass(frozen=True)
class Domain:
    """One kind of product.

    Attributes:
        name: name of the domain.
        family: kinds of products that resemble each other; what is judged must not have seen any of them.
        normal: images ``(n, 3, H, W)`` in [0, 1].
        anomalous: images ``(m, 3, H, W)``.
        masks: masks ``(m, h, w)`` of the defects, all False for an image without one; None if the set has none.
    """

    name: str
    family: str
    normal: Tensor
    anomalous: Tensor
    masks: Tensor | None


def domains(data: Path, size: int, most: tuple[int, int]) -> Iterator[Domain]:
    """All domains.

    Args:
        data: folder that holds piped128.npz and bank/.
        size: height and width of the images in pixels.
        most: largest numbers of normal and anomalous images, chosen at random.
    """

    def domain(name: str, family: str, archive: dict[str, np.ndarray], members: np.ndarray) -> Domain:
        rng = np.random.default_rng(0)
        bad = archive["y"] >= (SPOILT if family == "fruit" else 1)
        kinds = zip((archive["y"] == 0, bad), most, strict=True)
        good, bad = (np.sort(rng.permutation(np.flatnonzero(members & kind))[:n]) for kind, n in kinds)
        normal, anomalous = (as_images(archive["x"][rows], (3, size, size)) for rows in (good, bad))
        return Domain(name, family, normal, anomalous, _masks(archive, bad))

    paper = dict(np.load(data / "piped128.npz"))
    for kind in PAPERS:
        yield domain(kind, "paper", paper, paper["t"] == list(paper["names"]).index(f"PA_{kind}"))
    for file, family in BANK.items():
        archive = dict(np.load(data / "bank" / f"{file}.npz"))
        yield domain(file, family, archive, np.ones(len(archive["y"]), bool))
    for file, (family, groups) in GROUPED.items():
        archive = dict(np.load(data / "bank" / f"{file}.npz"))
        if family == "board":
            archive["x"] = np.where(archive["x"] > 127, 255, 0).astype(np.uint8)
        for group in groups:
            yield domain(f"{file}/{group}", family, archive, archive["group"] == group)


class RememberedPatches(PatchMemory):
    """A patch memory that computes the features of an image once: supports and queries repeat them."""

    computed: dict[bytes, Tensor]

    def patches(self, images: Tensor, support: Samples) -> Tensor:
        """See :class:`PatchMemory`."""
        return once(partial(super().patches, support=support), images, self.computed)


def once(compute: Callable[[Tensor], Tensor], images: Tensor, computed: dict[bytes, Tensor]) -> Tensor:
    """What is computed of each image, taken from ``computed`` where it is there already."""
    keys = [image[:, ::5, ::5].numpy().tobytes() for image in images]  # enough to tell images apart
    for key, image in zip(keys, images, strict=True):
        if key not in computed:
            computed[key] = compute(image[None])
    return torch.cat([computed[key] for key in keys])


def _masks(archive: dict[str, np.ndarray], rows: np.ndarray) -> Tensor | None:
    if "masks" not in archive:
        return None
    height, width = archive["x"].shape[1:3]
    bits = np.unpackbits(archive["masks"][rows], axis=1)[:, : height * width]
    return torch.from_numpy(bits.reshape(-1, height, width).astype(bool))
