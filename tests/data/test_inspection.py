"""Known inspection sets in the layouts in which users have them, and their archives from a server of our own."""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metaad_zoo.data import ImageEpisodes, list_datasets
from metaad_zoo.data.known import inspection
from metaad_zoo.data.known.archives import Archive, fetch_archive
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.known.download import DownloadError
from metaad_zoo.data.known.inspection import KNOWN_SETS, read_categories
from metaad_zoo.data.read.masks import read_masks
from metaad_zoo.data.read.pixels import decode_mask
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.zoo.terms import TERMS, terms_of


def picture(path, value, size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def mask(path, value=255, size=(12, 8)):
    """The left third is marked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[:, : size[0] // 3] = value
    Image.fromarray(pixels).save(path)


def mvtec(root, category="bottle", suffix="_mask.png"):
    for i in range(3):
        picture(root / category / "train" / "good" / f"{i:03}.png", 10 + i)
        picture(root / category / "test" / "good" / f"{i:03}.png", 20 + i)
        picture(root / category / "test" / "crack" / f"{i:03}.png", 30 + i)
        mask(root / category / "ground_truth" / "crack" / f"{i:03}{suffix}")
    return root


def btad(root):
    for i in range(3):
        picture(root / "01" / "train" / "ok" / f"{i:04}.bmp", 10 + i)
        picture(root / "01" / "test" / "ok" / f"{i:04}.bmp", 20 + i)
        picture(root / "01" / "test" / "ko" / f"{i:04}.bmp", 30 + i)
        mask(root / "01" / "ground_truth" / "ko" / f"{i:04}.png")
    return root


def visa(root, category="candle"):
    rows = []
    for i in range(6):
        picture(root / category / "Data" / "Images" / "Normal" / f"{i:04}.JPG", 10 + 2 * i)
        image = f"{category}/Data/Images/Normal/{i:04}.JPG"
        rows.append([category, "train" if i < 3 else "test", "normal", image, ""])
    for i in range(3):
        picture(root / category / "Data" / "Images" / "Anomaly" / f"{i:03}.JPG", 30 + 2 * i)
        mask(root / category / "Data" / "Masks" / "Anomaly" / f"{i:03}.png", value=1 + i)  # numbers of kinds of defect
        image, truth = f"{category}/Data/Images/Anomaly/{i:03}.JPG", f"{category}/Data/Masks/Anomaly/{i:03}.png"
        rows.append([category, "test", "anomaly", image, truth])
    (root / "split_csv").mkdir()
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *rows])
    return root


LAYOUTS = {
    "mvtec_ad": mvtec,
    "visa": visa,
    "btad": btad,
    "mpdd": partial(mvtec, category="tubes"),
}


@pytest.mark.parametrize("below", [False, True], ids=["categories", "folder above"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_gives_images_labels_and_masks(tmp_path, name, below):
    root = LAYOUTS[name](tmp_path / name)
    images = read_dataset(name, "image", root.parent if below else root)
    (category,) = images.class_names
    train, test = images.part(category, True), images.part(category, False)
    assert [len(train), len(test)] == [3, 6]
    assert not images.anomalous[train].any()
    assert images.anomalous[test].sum() == 3
    truth = read_masks([images.masks[i] for i in test], (4, 6))  # half as many pixels: the left third is two columns
    expected = torch.zeros(6, 4, 6, dtype=torch.bool)
    expected[images.anomalous[test].nonzero()[0], :, :2] = True
    assert torch.equal(truth, expected)
    arrays = images.converted(8, 1)
    assert arrays.image_shape == (1, 8, 8)
    assert arrays.masks[:, 4, 1].tolist() == images.anomalous.tolist()
    grey = arrays.images[:, 0, 0, 0].numpy()
    assert (abs(grey[images.anomalous] - [30, 32, 34]) <= 3).all()
    assert (grey[~images.anomalous] < 28).all()


def test_visa_as_its_authors_arrange_it(tmp_path):
    images = read_dataset("visa", "image", mvtec(tmp_path, "pcb1", ".png"))
    assert images.converted(8, 1).masks.flatten(1).any(1).sum() == 3


def test_episodes_out_of_a_known_set(tmp_path):
    for category in ("bottle", "screw"):
        mvtec(tmp_path, category)
    module = ImageEpisodes(
        "mvtec_ad",
        root=str(tmp_path),
        splits={"test": ["screw"]},
        image_size=8,
        episode=EpisodeSpec(support_normal=2, query_normal=2, query_anomalous=2),
    )
    (episode,) = module.episodes("test", 1)
    assert episode.task == "mvtec_ad/screw"
    assert episode.query["image"].shape == (4, 3, 8, 8)


def test_what_is_no_category_of_the_set_is_left_out(tmp_path):
    mvtec(tmp_path, "bottle")
    mvtec(tmp_path, "my_part")
    images = read_dataset("mvtec_ad", "image", tmp_path)
    assert images.class_names == ["bottle"]
    assert any("'my_part' left out: no categories of mvtec_ad" in line for line in images.account)
    assert read_categories(tmp_path).class_names == ["bottle", "my_part"]


def test_a_defect_without_a_mask_is_named(tmp_path):
    mvtec(tmp_path)
    (tmp_path / "bottle" / "ground_truth" / "crack" / "001_mask.png").unlink()
    images = read_categories(tmp_path)
    assert any("crack/001.png" in line and "no mask" in line for line in images.account)
    assert images.converted(8, 1).masks.flatten(1).any(1).sum() == 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_masks_of_every_kind(tmp_path, mode):
    pixels = np.zeros((4, 5), np.uint8)
    pixels[1, 2] = 1
    if mode == "P":
        image = Image.fromarray(pixels, mode="P")
        image.putpalette([9, 9, 9, 0, 0, 0])  # the first entry is the background, whatever its colour
    elif mode == "I;16":
        image = Image.fromarray(pixels.astype(np.uint16))
    else:
        image = Image.fromarray(pixels * np.uint8(255)).convert(mode)
    image.save(tmp_path / "a.png")
    assert torch.equal(decode_mask(tmp_path / "a.png"), torch.as_tensor(pixels > 0))


class TestErrors:
    def test_visa_with_a_missing_file_or_column(self, tmp_path):
        visa(tmp_path)
        gone = tmp_path / "candle" / "Data" / "Masks" / "Anomaly" / "001.png"
        gone.unlink()
        with pytest.raises(ValueError, match=r"names 1 files that are missing, such as .*001\.png: unpack VisA again"):
            read_dataset("visa", "image", tmp_path)
        (tmp_path / "split_csv" / "1cls.csv").write_text("object,split\n")
        with pytest.raises(ValueError, match=r"lacks the columns \['image', 'label', 'mask'\]"):
            read_dataset("visa", "image", tmp_path)

    def test_no_training_images(self, tmp_path):
        mvtec(tmp_path)
        for file in (tmp_path / "bottle" / "train" / "good").iterdir():
            file.unlink()
        with pytest.raises(ValueError, match="the category bottle has no good images for training"):
            read_categories(tmp_path)

    def test_no_category(self, tmp_path):
        with pytest.raises(ValueError, match="holds no category in the MVTec layout"):
            read_categories(tmp_path)
        (tmp_path / "btad").mkdir()
        with pytest.raises(ValueError, match=r"none of the categories of btad \(01, 02, 03\).*avires\.dimi"):
            read_dataset("btad", "image", tmp_path)

    def test_a_set_without_a_known_hash_says_where_it_is(self, tmp_path):
        with pytest.raises(ValueError, match=r"mpdd does not exist.*by hand from https://github\.com/stepanje/MPDD"):
            read_dataset("mpdd", "image", tmp_path)

    def test_unknown_category(self, tmp_path):
        with pytest.raises(ValueError, match=r"has the categories \['bottle'\], not 'screw'"):
            read_categories(mvtec(tmp_path)).part("screw", True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, and the address under which its files are served."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def archive_of(served, name, root, inside=None):
    """Pack a folder, as a tar or zip archive on the server."""
    folder, url = served
    file = folder / name
    members = [(path, (inside or "") / path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    if name.endswith(".zip"):
        with zipfile.ZipFile(file, "w") as target:
            for path, to in members:
                target.write(path, to)
    else:
        with tarfile.open(file, "w:xz" if name.endswith("xz") else "w") as target:
            for path, to in members:
                target.add(path, to)
    return Archive(f"{url}/{name}", hashlib.sha256(file.read_bytes()).hexdigest(), inside and str(inside))


safe_tar = pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python can't unpack tar safely")


@pytest.mark.parametrize(
    ("name", "file", "inside"),
    [
        pytest.param("mvtec_ad", "a.tar.xz", None, marks=safe_tar),
        pytest.param("visa", "a.tar", None, marks=safe_tar),
        ("btad", "a.zip", "BTech_Dataset_transformed"),
    ],
)
def test_a_set_that_is_not_there_is_downloaded(served, tmp_path, monkeypatch, name, file, inside):
    archive = archive_of(served, file, LAYOUTS[name](tmp_path / "source"), inside and Path(inside))
    monkeypatch.setitem(KNOWN_SETS, name, inspection._KnownSet(archive, KNOWN_SETS[name].categories))
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("METAAD_DATA", str(data))
    first = read_dataset(name, "image")
    assert [p.name for p in data.iterdir()] == [name], "neither the archive nor a part of its content stays"
    (served[0] / file).unlink()
    assert read_dataset(name, "image").files == first.files


def test_a_changed_archive_leaves_nothing(served, tmp_path):
    archive = archive_of(served, "a.zip", mvtec(tmp_path / "source"))
    with pytest.raises(DownloadError, match=f"expected {'0' * 64}"):
        fetch_archive(Archive(archive.url, "0" * 64), tmp_path / "data" / "set")
    assert not list((tmp_path / "data").iterdir())


def test_a_python_that_cannot_unpack_tar_safely_is_told_so(served, tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive = archive_of(served, "a.tar", mvtec(tmp_path / "source"))
    with pytest.raises(DownloadError, match=r"can't unpack tar archives safely; take Python 3\.10\.12"):
        fetch_archive(archive, tmp_path / "data" / "set")


@safe_tar
def test_archives_that_leave_their_folder_or_are_none(served, tmp_path):
    folder, url = served
    with tarfile.open(folder / "a.tar", "w") as target:
        member = tarfile.TarInfo("../outside.txt")
        member.size = 2
        target.addfile(member, io.BytesIO(b"no"))
    (folder / "b.tar").write_bytes(b"no archive")
    for name in ("a.tar", "b.tar"):
        sha256 = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        with pytest.raises(DownloadError, match=r"\.tar can't be unpacked"):
            fetch_archive(Archive(f"{url}/{name}", sha256), tmp_path / "data" / "set")
    assert not (tmp_path / "data" / "outside.txt").exists()
    assert not (tmp_path / "data" / "set").exists()


def test_terms_refuse_publishing_where_they_must():
    assert set(KNOWN_SETS) <= set(list_datasets(modality="image"))
    assert terms_of("visa").licence == "CC BY 4.0"
    with pytest.raises(ValueError, match=r"mvtec_ad is for non-commercial use only \(CC BY-NC-SA 4\.0"):
        terms_of("mvtec_ad", "mine")
    assert TERMS["mvtec_ad"].share_alike
    for name in ("btad", "mpdd"):
        with pytest.raises(ValueError, match=f"{name} comes without a licence"):
            terms_of(name)
