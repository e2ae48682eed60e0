"""Which images of a folder are read: for a support, for scoring and for training.

Inspection sets are folders of one category, or hold a folder for each of several, in the layout of MVTec AD
(``train/good``, ``test/good``, ``test/<defect>``, ``ground_truth/<defect>``; Bergmann et al., CVPR 2019) or of VisA
(``Data/Images/Normal``, ``Data/Images/Anomaly``, ``Data/Masks/Anomaly``; Zou et al., ECCV 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.listing import list_files
from metaad_zoo.data.read.masks import masks_of, note_missing
from metaad_zoo.data.read.pixels import image_endings
from metaad_zoo.data.read.table_sources import COLUMN_SUFFIXES

Listing = dict[Path, list[Path]]
"""Files by folder."""


@dataclass(frozen=True)
class _Layout:
    """Where an inspection set keeps the images of a category, as paths from the category's folder.

    Attributes:
        name: name of the layout.
        good: folder of the normal images that are a support.
        scored: folder of the folders that are scored; the one of the same name as ``good`` holds normal images.
        masks: folder of the folders of masks, which are called as those of the images.
    """

    name: str
    good: str
    scored: str
    masks: str

    def tests(self, category: Path, listed: Listing) -> list[Path]:
        """Folders of images to be scored."""
        return [folder for folder in listed if folder.parent == category / self.scored]

    def masks_of(self, category: Path, listed: Listing) -> dict[Path, Path]:
        """Mask of each image that has one."""
        return {
            image: mask
            for folder in self.tests(category, listed)
            for image, mask in masks_of(listed[folder], listed.get(category / self.masks / folder.name, [])).items()
        }


_LAYOUTS = (
    _Layout("MVTec", "train/good", "test", "ground_truth"),
    _Layout("VisA", "Data/Images/Normal", "Data/Images", "Data/Masks"),
)


_NORMAL_FOLDERS = {Path(layout.good).name.lower() for layout in _LAYOUTS}
_MASK_FOLDERS = {Path(layout.masks).name for layout in _LAYOUTS}


def _layout_of(category: Path, listed: Listing) -> _Layout | None:
    return next((layout for layout in _LAYOUTS if category / layout.good in listed), None)


@dataclass
class ImageSelection:
    """Files that are read, and what their folders say of them; the rest of the listing is in the account.

    Attributes:
        root: the folder, or that of a single file.
        files: the images.
        labels: ``(n,)`` indices into ``class_names``.
        class_names: folders of the images, or categories.
        anomalous: ``(n,)`` bool where the layout says it, else None.
        masks: file of each image's mask, None for images without one; empty where there are no masks.
    """

    root: Path
    files: list[Path]
    labels: np.ndarray
    class_names: list[str]
    anomalous: np.ndarray | None = None
    masks: list[Path | None] = field(default_factory=list)


def select_support(path: Path, account: Account) -> ImageSelection:
    """Normal images: a file, the images directly in a folder, or those of a category, such as ``train/good``."""
    if not path.is_dir():
        return _one_file(path)
    listed = list_files(path, image_endings(), account)
    chosen, layout = path, _layout_of(path, listed)
    if layout is not None and not listed[path]:
        chosen = path / layout.good
        account.add("guessed", str(path), f"a category in the {layout.name} layout: its {layout.good} is read")
    if not listed[chosen]:
        inside = next((folder for folder, files in listed.items() if files), None)
        what = (
            "holds no images"
            if inside is None
            else f"holds no images directly in it, but in folders such as {inside} (one of these at a time)"
        )
        raise ValueError(f"{path} {what}: expected a folder of images, such as the normal samples, or an image file")
    if chosen == path:
        _note_below(path, listed, account)
    return _of_folders(path, {chosen: listed[chosen]})


def select_for_scoring(path: Path, account: Account) -> ImageSelection:
    """Images to be scored: as for a support, or those of all folders below, without masks and training images."""
    if not path.is_dir():
        return _one_file(path)
    listed = list_files(path, image_endings(), account)
    if listed[path]:
        _note_below(path, listed, account)
        return _of_folders(path, {path: listed[path]})
    categories = [folder.name for folder in _categories(path, listed) if folder != path]
    if categories:
        raise ValueError(f"{path} holds the categories {categories[:10]} of an inspection set: give one of them")
    layout = _layout_of(path, listed)
    if layout is not None:
        reason = f"a category in the {layout.name} layout: its {layout.scored} is read"
        account.add("guessed", str(path), reason)
        chosen = {f: files for f, files in listed.items() if path / layout.scored in (f, *f.parents)}
    else:
        chosen = {f: files for f, files in listed.items() if not _MASK_FOLDERS & {*f.relative_to(path).parts}}
        masks = {str(f.relative_to(path)): files for f, files in listed.items() if files and f not in chosen}
        if masks:
            account.add("left out", str(path), "masks", list(masks))
    if not any(chosen.values()):
        raise ValueError(f"{path} holds no images: expected a folder of images, or an image file")
    return _labelled(_of_folders(path, chosen), account)


def _labelled(selection: ImageSelection, account: Account) -> ImageSelection:
    """The selection with labels, if one of its folders is called as those of normal images are."""
    normal = [Path(name).name.lower() in _NORMAL_FOLDERS for name in selection.class_names]
    if any(normal) and not all(normal):
        selection.anomalous = ~np.array(normal)[selection.labels]
        names = [name for name, is_normal in zip(selection.class_names, normal, strict=True) if is_normal]
        reason = f"{', '.join(names)} as normal and the other folders as anomalous, only for the figures"
        account.add("guessed", str(selection.root), reason)
    return selection


def _one_file(path: Path) -> ImageSelection:
    if path.is_file() and path.suffix.lower() in COLUMN_SUFFIXES:
        raise ValueError(
            f"{path} is a table, but this model reads images: give a folder of images, or take a model of tables or "
            "series (metaad list)"
        )
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: expected a folder of images, such as the normal samples, or an image file"
        )
    return ImageSelection(path.parent, [path], np.zeros(1, np.int64), [path.parent.name])


def _note_below(root: Path, listed: dict[Path, list[Path]], account: Account) -> None:
    below = {str(folder.relative_to(root)): len(files) for folder, files in listed.items() if files and folder != root}
    if below:
        n = sum(below.values())
        reason = f"{n} image{'s' * (n > 1)} in folders below; give such a folder to read them"
        account.add("left out", str(root), reason, list(below))


def _of_folders(root: Path, listed: dict[Path, list[Path]]) -> ImageSelection:
    by_class = {_class_name(root, folder): files for folder, files in listed.items() if files}
    labels = np.repeat(np.arange(len(by_class)), [len(files) for files in by_class.values()])
    return ImageSelection(root, [file for files in by_class.values() for file in files], labels, list(by_class))


def _class_name(root: Path, folder: Path) -> str:
    return str(folder.relative_to(root)) if folder != root else root.resolve().name


def _categories(root: Path, listed: Listing) -> list[Path]:
    """Folders of categories: the root itself, or those directly inside."""
    if _layout_of(root, listed):
        return [root]
    return [folder for folder in listed if folder.parent == root and _layout_of(folder, listed)]


def select_classes(root: Path, account: Account) -> ImageSelection:
    """All classes or categories of a folder."""
    listed = list_files(root, image_endings(), account)
    goods = [Path(layout.good).parts for layout in _LAYOUTS]
    if any(folder.parts[-len(good) :] == good for folder in listed for good in goods):
        return _inspection(root, _categories(root, listed), listed, account)
    classes = {folder: files for folder, files in listed.items() if files}
    if not classes:
        raise ValueError(
            f"{root} holds no images: expected files ending in {', '.join(sorted(image_endings()))} in it or in "
            "folders below it (one folder a class), or the MVTec layout (train/good, test/<defect>)"
        )
    if len(classes) > 1 and root in classes:
        inside = next(str(folder.relative_to(root)) for folder in classes if folder != root)
        raise ValueError(
            f"{root} holds images both directly ({classes[root][0].name}, ...) and in folders ({inside}, ...): put "
            "each class into a folder of its own"
        )
    return _of_folders(root, classes)


def _inspection(root: Path, categories: Sequence[Path], listed: Listing, account: Account) -> ImageSelection:
    """Normal and anomalous images of all categories, the normal ones first, with the masks that there are."""
    layouts = {c: layout for c in categories if (layout := _layout_of(c, listed)) is not None}
    _refuse_others(root, layouts, listed)
    places = [
        (folder, i, folder.name != Path(layout.good).name)
        for i, (category, layout) in enumerate(layouts.items())
        for folder in dict.fromkeys([category / layout.good, *layout.tests(category, listed)])
    ]
    for folder, _, _ in places:
        if not listed[folder]:
            raise ValueError(f"{folder} holds no images: add some or remove the folder")
    sizes = [len(listed[folder]) for folder, _, _ in places]
    files = [file for folder, _, _ in places for file in listed[folder]]
    labels, anomalous = (np.repeat([place[i] for place in places], sizes) for i in (1, 2))
    masks = {image: mask for c, layout in layouts.items() for image, mask in layout.masks_of(c, listed).items()}
    if masks:
        missing = [files[i] for i in np.flatnonzero(anomalous) if files[i] not in masks]
        note_missing(root, [str(file.relative_to(root)) for file in missing], account)
    _note_unread(root, {*files, *masks.values()}, listed, account)
    names = [c.resolve().name for c in categories]
    return ImageSelection(root, files, labels, names, anomalous, [masks.get(file) for file in files] if masks else [])


def _refuse_others(root: Path, layouts: dict[Path, _Layout], listed: Listing) -> None:
    """Refuse images outside the folders of a layout, and categories that lie deeper."""
    inside = {c / part for c, x in layouts.items() for part in (x.good, x.scored, x.masks)}
    deeper = [f for f in listed if f not in layouts and _layout_of(f, listed)]
    stray = [f for f, files in listed.items() if files and not inside & {f, *f.parents}]
    if deeper or stray:
        raise ValueError(
            f"{root} mixes the MVTec layout with other folders ({(deeper or stray)[0]}): give the folder that holds "
            "the categories (each with train/good and test/<defect>) and nothing else"
        )


def _note_unread(root: Path, read: set[Path], listed: Listing, account: Account) -> None:
    for folder, files in listed.items():
        unread = [file for file in files if file not in read]
        if unread:
            masks = bool(_MASK_FOLDERS & {*folder.relative_to(root).parts})
            reason = "masks without an image of this name" if masks else "neither normal images nor in a folder of test"
            account.add("left out", str(root), reason, [str(folder.relative_to(root))])
