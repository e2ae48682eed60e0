"""Which images of a folder are read: for a support, for scoring and for training.

Folders in the MVTec layout (``train/good``, ``test/good``, ``test/<defect>``, ``ground_truth``; Bergmann et al., "MVTec
AD", CVPR 2019) are one category, or hold a folder for each of several.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.listing import list_files
from metaad_zoo.data.read.pixels import image_endings
from metaad_zoo.data.read.table_sources import COLUMN_SUFFIXES

_MASKS = "ground_truth"


@dataclass
class ImageSelection:
    """Files that are read, and what their folders say of them; the rest of the listing is in the account."""

    root: Path
    files: list[Path]
    labels: np.ndarray
    class_names: list[str]
    anomalous: np.ndarray | None = None


def select_support(path: Path, account: Account) -> ImageSelection:
    """Normal images: a file, the images directly in a folder, or ``train/good`` of a category."""
    if not path.is_dir():
        return _one_file(path)
    listed = list_files(path, image_endings(), account)
    good = path / "train" / "good"
    chosen = good if good in listed and not listed[path] else path
    if chosen == good:
        account.add("guessed", str(path), "a category in the MVTec layout: its train/good is read")
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
        raise ValueError(f"{path} holds the categories {categories[:10]} of the MVTec layout: score one of them")
    if path / "train" / "good" in listed:
        account.add("guessed", str(path), "a category in the MVTec layout: its folder test is read")
        chosen = {f: files for f, files in listed.items() if path / "test" in (f, *f.parents)}
    else:
        chosen = {f: files for f, files in listed.items() if _MASKS not in f.relative_to(path).parts}
        masks = {str(f.relative_to(path)): files for f, files in listed.items() if files and f not in chosen}
        if masks:
            account.add("left out", str(path), "masks", list(masks))
    if not any(chosen.values()):
        raise ValueError(f"{path} holds no images: expected a folder of images, or an image file")
    return _of_folders(path, chosen)


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


def _categories(root: Path, listed: dict[Path, list[Path]]) -> list[Path]:
    """Folders in the MVTec layout: the root itself, or those directly inside."""
    if root / "train" / "good" in listed:
        return [root]
    return [folder for folder in listed if folder.parent == root and folder / "train" / "good" in listed]


def select_classes(root: Path, account: Account) -> ImageSelection:
    """All classes or categories of a folder."""
    listed = list_files(root, image_endings(), account)
    if any(folder.parts[-2:] == ("train", "good") for folder in listed):
        return _mvtec(root, _categories(root, listed), listed, account)
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


def _mvtec(root: Path, categories: list[Path], listed: dict[Path, list[Path]], account: Account) -> ImageSelection:
    inside = {c / part for c in categories for part in ("train", "test", _MASKS)}
    deeper = [f for f in listed if f.parts[-2:] == ("train", "good") and f.parent.parent not in categories]
    stray = [f for f, files in listed.items() if files and not inside & {f, *f.parents}]
    if deeper or stray:
        raise ValueError(
            f"{root} mixes the MVTec layout with other folders ({(deeper or stray)[0]}): give the folder that holds "
            "the categories (each with train/good and test/<defect>) and nothing else"
        )
    chosen = {c / "train" / "good": i for i, c in enumerate(categories)}
    chosen |= {f: i for i, c in enumerate(categories) for f in listed if f.parent == c / "test"}
    for folder in chosen:
        if not listed[folder]:
            raise ValueError(f"{folder} holds no images: add some or remove the folder")
    for folder, files in listed.items():
        if files and folder not in chosen:
            reason = "masks" if _MASKS in folder.parts else "neither in train/good nor in a folder of test"
            account.add("left out", str(root), reason, [str(folder.relative_to(root))])
    ordered = sorted(chosen, key=lambda folder: (chosen[folder], "train" not in folder.parts[-2:], folder))
    sizes = [len(listed[folder]) for folder in ordered]
    labels = np.repeat([chosen[folder] for folder in ordered], sizes)
    anomalous = np.repeat([folder.name != "good" for folder in ordered], sizes)
    names = [c.resolve().name for c in categories]
    return ImageSelection(root, [file for folder in ordered for file in listed[folder]], labels, names, anomalous)
