"""Inspection sets known by name: MVTec AD, VisA, BTAD and MPDD, with the masks of their defects."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from metaad_zoo.data.image_arrays import ImageArrays
from metaad_zoo.data.known.archives import Archive, fetch_archive
from metaad_zoo.data.known.images import data_folder
from metaad_zoo.data.known.registry import register_dataset
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.images import ImageReader
from metaad_zoo.data.read.listing import list_files
from metaad_zoo.data.read.masks import masks_of, note_missing, read_masks
from metaad_zoo.data.read.pixels import Aspect, image_endings

GOOD = ("good", "ok")
"""Folder names of images without a defect: MVTec AD's and BTAD's."""
MASKS = "ground_truth"
VISA_SPLIT = Path("split_csv") / "1cls.csv"
VISA_COLUMNS = ("object", "split", "label", "image", "mask")


@dataclass
class InspectionImages:
    """Images of an inspection set as files: categories with good images for training, and test images.

    Args:
        name: readable, stable name of the set.
        files: the images.
        masks: mask of each image's defects, as a file of the image's size; None where there is none.
        labels: ``(n,)`` integers into ``class_names``.
        class_names: the categories.
        anomalous: ``(n,)`` booleans.
        train: ``(n,)`` booleans: images of the set's training part, all of them good.
        account: what is left out.
    """

    name: str
    files: list[Path]
    masks: list[Path | None]
    labels: np.ndarray
    class_names: list[str]
    anomalous: np.ndarray
    train: np.ndarray
    account: Account = field(default_factory=Account)

    def converted(self, image_size: int | None, channels: int | None, aspect: Aspect = "squash") -> ImageArrays:
        """All images in memory; training and test images of a category are one domain.

        Args:
            image_size: height and width in pixels; None keeps the images' own, which must then be one size.
            channels: 1 or 3; None keeps the images' own.
            aspect: see :data:`~metaad_zoo.data.read.pixels.Aspect`.

        Raises:
            ValueError: files can't be read, or have several sizes and ``image_size`` is None.
        """
        reader = ImageReader(self.files, channels=channels, height=image_size, width=image_size, aspect=aspect)
        reader.account = self.account
        images = reader.in_bytes()
        masks = read_masks(self.masks, images.shape[2:], aspect)
        return ImageArrays(self.name, images, self.labels, self.class_names, self.anomalous, self.account, masks)

    def part(self, category: str, train: bool) -> np.ndarray:
        """Positions of the training or the test images of a category.

        Raises:
            ValueError: the category is unknown.
        """
        if category not in self.class_names:
            raise ValueError(f"{self.name} has the categories {self.class_names}, not {category!r}")
        return np.flatnonzero((self.labels == self.class_names.index(category)) & (self.train == train))


@dataclass
class _Listing:
    """Images as they are listed: file, mask, category, whether anomalous, whether for training."""

    rows: list[tuple[Path, Path | None, str, bool, bool]] = field(default_factory=list)
    account: Account = field(default_factory=Account)

    def as_images(self, name: str, root: Path) -> InspectionImages:
        rows = sorted(self.rows, key=lambda row: (row[2], not row[4], row[0]))
        unmasked = [str(file.relative_to(root)) for file, mask, _, anomalous, _ in rows if anomalous and mask is None]
        note_missing(root, unmasked, self.account)
        categories = sorted({row[2] for row in rows})
        for category in categories:
            if not any(row[2] == category and row[4] for row in rows):
                raise ValueError(f"{root}: the category {category} has no good images for training")
        return InspectionImages(
            name,
            [row[0] for row in rows],
            [row[1] for row in rows],
            np.array([categories.index(row[2]) for row in rows], np.int64),
            categories,
            np.array([row[3] for row in rows], bool),
            np.array([row[4] for row in rows], bool),
            self.account,
        )


def read_categories(root: Path, name: str | None = None, only: Collection[str] | None = None) -> InspectionImages:
    """A folder of categories in the layout of MVTec AD or of BTAD.

    A category holds ``train/good``, ``test/good``, ``test/<defect>`` and ``ground_truth/<defect>``, where the mask of
    ``x.png`` is ``x_mask.png`` or ``x.png``, in any image format. BTAD says ``ok`` and ``ko``.

    Args:
        root: the folder.
        name: name of the set; None: the folder's.
        only: names of the categories to read; None: all.

    Raises:
        ValueError: there is no such category.
    """
    listing = _Listing()
    files = list_files(root, image_endings(), listing.account)
    categories = [folder for folder in files if folder.parent == root and _train_folder(folder)]
    if only is not None:
        unwanted = [folder.name for folder in categories if folder.name not in only]
        listing.account.add("left out", str(root), f"no categories of {name}", unwanted)
        categories = [folder for folder in categories if folder.name in only]
    if not categories:
        raise ValueError(f"{root} holds no category in the MVTec layout, a folder with train/good and test/<defect>")
    for category in categories:
        train = _train_folder(category)
        assert train is not None
        listing.rows += [(file, None, category.name, False, True) for file in files[train]]
        for test in [folder for folder in files if folder.parent == category / "test"]:
            good = test.name in GOOD
            masks = {} if good else masks_of(files[test], files.get(category / MASKS / test.name, []))
            listing.rows += [(file, masks.get(file), category.name, not good, False) for file in files[test]]
    return listing.as_images(name or root.resolve().name, root)


def _train_folder(category: Path) -> Path | None:
    """The folder of a category's good training images; None if the folder is no category."""
    return next((folder for n in GOOD if (folder := category / "train" / n).is_dir()), None)


def read_visa_split(root: Path) -> InspectionImages:
    """VisA as its archive unpacks, by the one-class split ``split_csv/1cls.csv``.

    Raises:
        ValueError: the split is damaged or names files that are missing.
    """
    listing = _Listing()
    split = root / VISA_SPLIT
    with split.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        missing = sorted(set(VISA_COLUMNS) - set(rows.fieldnames or ()))
        if missing:
            raise ValueError(f"{split} lacks the columns {missing}: is it VisA's split?")
        for row in rows:
            mask = root / row["mask"] if row["mask"] else None
            anomalous, train = row["label"] != "normal", row["split"] == "train"
            listing.rows.append((root / row["image"], mask, row["object"], anomalous, train))
    absent = [file for row in listing.rows for file in row[:2] if file is not None and not file.is_file()]
    if absent:
        raise ValueError(f"{split} names {len(absent)} files that are missing, such as {absent[0]}: unpack VisA again")
    return listing.as_images("visa", root)


@dataclass(frozen=True)
class _KnownSet:
    """A published inspection set.

    Args:
        archive: where it is published. The hashes are those that several independent projects state that they measured.
        categories: names of its categories.
    """

    archive: Archive
    categories: tuple[str, ...]


_MVTEC = "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood zipper"
_VISA = "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum"
_MPDD = "bracket_black bracket_brown bracket_white connector metal_plate tubes"
KNOWN_SETS = {
    "mvtec_ad": _KnownSet(
        Archive(
            "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/420938113-1629960298/"
            "mvtec_anomaly_detection.tar.xz",
            "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        ),
        tuple(_MVTEC.split()),
    ),
    "visa": _KnownSet(
        Archive(
            "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
            "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
        ),
        tuple(_VISA.split()),
    ),
    "btad": _KnownSet(
        Archive(
            "https://avires.dimi.uniud.it/papers/btad/btad.zip",
            "461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
            "BTech_Dataset_transformed",
        ),
        ("01", "02", "03"),
    ),
    "mpdd": _KnownSet(Archive("https://github.com/stepanje/MPDD"), tuple(_MPDD.split())),
}


def read_inspection(name: str, root: str | Path | None = None) -> InspectionImages:
    """A known inspection set: from ``root`` or its folder ``<name>``; downloaded to the latter if it is in neither.

    VisA is read as its archive unpacks, by its one-class split, or as its authors' script arranges it (MVTec layout).

    Source:
        mvtec_ad: Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection",
        CVPR 2019. visa: Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and
        Segmentation", ECCV 2022. btad: Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection
        and Localization", ISIE 2021. mpdd: Jezek et al., "Deep learning-based defect detection of metal parts:
        evaluating current methods in complex conditions", ICUMT 2021.

    Args:
        name: ``"mvtec_ad"``, ``"visa"``, ``"btad"`` or ``"mpdd"``.
        root: folder of the categories, or the folder above; None for ``METAAD_DATA``.

    Raises:
        ValueError: files are missing or damaged, or the set is not there and can't be downloaded.
    """
    published, folder = KNOWN_SETS[name], data_folder(root)
    for place in (folder, folder / name):
        if name == "visa" and (place / VISA_SPLIT).is_file():
            return read_visa_split(place)
        if any(_train_folder(place / category) for category in published.categories):
            return read_categories(place, name, published.categories)
    if not (folder / name).exists():
        fetch_archive(published.archive, folder / name)
        return read_inspection(name, folder / name)
    raise ValueError(
        f"{folder / name} holds none of the categories of {name} ({', '.join(published.categories)}): put them "
        f"there, or remove it; they come from {published.archive.url}"
    )


for _name in KNOWN_SETS:
    register_dataset(_name, modality="image")(partial(read_inspection, _name))
