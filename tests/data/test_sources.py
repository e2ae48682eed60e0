from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from metaad_zoo.data import list_datasets
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.read.images import read_folder, read_image, read_images, read_npz, read_path


def write(path, value=0, size=(6, 5), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def test_digits_are_scikit_learns():
    source = read_dataset("digits", "image")
    ours = source.images[:, 0].double() * 16 / 255
    assert source.image_shape == (1, 8, 8)
    np.testing.assert_allclose(ours.numpy(), load_digits().images, atol=0.04)
    assert np.array_equal(source.labels, load_digits().target)


def test_a_folder_a_class(tmp_path):
    for name, value in [("cat", 10), ("dog/small", 20), ("dog/large", 30)]:
        for i in range(2):
            write(tmp_path / name / f"{i}.png", value + i)
    source = read_folder(tmp_path)
    assert list(source.class_names) == ["cat", "dog/large", "dog/small"]
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert source.images[:, 0, 0, 0].tolist() == [10, 11, 30, 31, 20, 21]
    assert source.image_shape == (1, 5, 6)


def test_a_folder_of_images_is_one_class(tmp_path):
    for i in range(3):
        write(tmp_path / "good" / f"{i}.png", i)
    (tmp_path / "good" / "notes.txt").write_text("not an image")
    source = read_folder(tmp_path / "good")
    assert list(source.class_names) == ["good"]
    assert len(source.images) == 3


def mvtec(root, category, defects=("crack", "stain")):
    for i in range(3):
        write(root / category / "train" / "good" / f"{i}.png", 1)
        write(root / category / "test" / "good" / f"{i}.png", 2)
        for defect in defects:
            write(root / category / "test" / defect / f"{i}.png", 9)
            write(root / category / "ground_truth" / defect / f"{i}_mask.png", 255)


@pytest.mark.parametrize("root", [".", "bottle"])
def test_the_mvtec_layout_of_one_or_many_categories(tmp_path, root):
    mvtec(tmp_path, "bottle")
    mvtec(tmp_path, "cable", defects=("bent",))
    source = read_folder(tmp_path / root)
    assert list(source.class_names) == (["bottle", "cable"] if root == "." else ["bottle"])
    assert len(source.images) == (12 + 9 if root == "." else 12), "masks are no samples"
    assert source.anomalous.tolist() == [v == 9 for v in source.images[:, 0, 0, 0].tolist()]


def test_npz_with_classes_or_domains(tmp_path):
    x = np.arange(4 * 5 * 5, dtype=np.uint8).reshape(4, 5, 5)
    np.savez(tmp_path / "a.npz", x=x, y=np.array([0, 1, 1, 0]), names=["a", "b"])
    source = read_npz(tmp_path / "a.npz")
    assert torch.equal(source.images[:, 0], torch.as_tensor(x))
    assert list(source.class_names) == ["a", "b"]
    colour = np.repeat(x[..., None], 3, -1)
    np.savez(tmp_path / "b.npz", X=colour, y=np.array([0, 1, 0, 1]), t=np.array([0, 0, 2, 2]), names=["p", "q", "r"])
    source = read_npz(tmp_path / "b.npz")
    assert source.image_shape == (3, 5, 5)
    assert list(source.class_names) == ["p", "r"], "q has no sample"
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.anomalous.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": np.zeros((2, 4, 4), np.uint8)}, "must hold the arrays 'x' .images. and 'y'"),
        ({"x": np.zeros((2, 4, 4), np.int64), "y": [0, 1]}, "expected images as uint8 .* saw int64"),
        ({"x": np.full((2, 4, 4), 7.0), "y": [0, 1]}, "from 7.0 to 7.0: expected floats from 0"),
        ({"x": np.zeros((2, 4), np.uint8), "y": [0, 1]}, r"expected images of shape .*saw \(2, 4\)"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": [0]}, "expected 'y' as 2 integers"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": [0, 5], "names": ["a"]}, "labels run from 0 to 5"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": [0, -1]}, "numbered from 0, saw -1"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": [0, 7], "t": [0, 0]}, "'y' must be 0 .* or 1"),
        ({"x": np.array([{}, {}], dtype=object), "y": [0, 1]}, "can't be read as a numpy archive"),
    ],
)
def test_an_npz_that_does_not_fit_is_named(tmp_path, arrays, complaint):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_npz(tmp_path / "bad.npz")
    assert "bad" in str(caught.value)


def test_a_truncated_npz_is_named(tmp_path):
    np.savez(tmp_path / "cut.npz", x=np.zeros((9, 4, 4), np.uint8), y=np.arange(9))
    content = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.npz can't be read as a numpy archive"):
        read_npz(tmp_path / "cut.npz")


def test_a_corrupt_image_is_named(tmp_path):
    write(tmp_path / "c" / "fine.png")
    noise = np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8)
    for suffix in ("png", "jpg"):
        whole = tmp_path / f"whole.{suffix}"
        Image.fromarray(noise).save(whole)
        for name, content in (("cut", whole.read_bytes()[:900]), ("text", b"not an image"), ("empty", b"")):
            broken = tmp_path / "c" / f"{name}.{suffix}"
            broken.write_bytes(content)
            with pytest.raises(ValueError, match=rf"{name}\.{suffix} can't be read as an image"):
                read_folder(tmp_path / "c", image_size=8)
            broken.unlink()


def test_mixed_sizes_and_channels_are_named_and_mended(tmp_path):
    write(tmp_path / "s" / "a.png", size=(6, 6))
    write(tmp_path / "s" / "b.png", size=(7, 6))
    with pytest.raises(ValueError, match=r"b\.png has another size than .*a\.png.*\(1, 6, 7\).*set image_size"):
        read_folder(tmp_path / "s")
    assert read_folder(tmp_path / "s", image_size=8).image_shape == (1, 8, 8)
    write(tmp_path / "k" / "a.png")
    write(tmp_path / "k" / "b.png", (255, 0, 0), mode="RGB")
    with pytest.raises(
        ValueError, match=r"b\.png has another number of channels than .*a\.png.*set channels=1 or channels=3"
    ):
        read_folder(tmp_path / "k")
    assert read_folder(tmp_path / "k", channels=3).image_shape == (3, 5, 6)
    assert read_folder(tmp_path / "k", channels=1).image_shape == (1, 5, 6)


def test_modes_come_out_as_grey_or_colour(tmp_path):
    for mode, value, channels in [("RGBA", (9, 8, 7, 255), 3), ("P", 3, 3), ("1", 1, 1), ("LA", (5, 255), 1)]:
        assert read_image(write(tmp_path / f"{mode}.png", value, mode=mode)).shape == (channels, 5, 6)
    for name, pixels, expected in [
        ("unit.tif", np.array([[0.0, 1.0], [0.5, 0.25]], np.float32), [[0, 255], [128, 64]]),
    ]:
        Image.fromarray(pixels).save(tmp_path / name)
        assert read_image(tmp_path / name).tolist() == [expected]
    Image.fromarray(np.array([[-1.0, 0.0]], np.float32)).save(tmp_path / "negative.tif")
    with pytest.raises(ValueError, match=r"negative\.tif holds grey values from -1"):
        read_image(tmp_path / "negative.tif")
    Image.fromarray(np.array([[0, 255]], np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match=r"wide\.tif holds integers of 32 bits"):
        read_image(tmp_path / "wide.tif")
    deep = np.array([[0, 65535], [257, 514]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").tolist() == [[[0, 255], [1, 2]]]


def test_empty_missing_and_ambiguous_folders(tmp_path):
    with pytest.raises(ValueError, match="holds no images: expected files ending in"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match="expected at least one image"):
        read_images([])
    with pytest.raises(ValueError, match="nowhere does not exist"):
        read_path(tmp_path / "nowhere")
    write(tmp_path / "beside.png")
    write(tmp_path / "inside" / "a.png")
    with pytest.raises(ValueError, match=r"both directly \(beside\.png, \.\.\.\) and in folders \(inside"):
        read_folder(tmp_path)
    mvtec(tmp_path / "deep" / "group", "bottle")
    mvtec(tmp_path / "stray", "bottle")
    write(tmp_path / "stray" / "extra" / "a.png")
    for name, other in (("deep", "group/bottle"), ("stray", "extra")):
        with pytest.raises(ValueError, match=f"mixes the MVTec layout with other folders .*{other}"):
            read_folder(tmp_path / name)
    mvtec(tmp_path, "bottle")
    (tmp_path / "bottle" / "test" / "hole").mkdir()
    with pytest.raises(ValueError, match=r"test/hole holds no images"):
        read_folder(tmp_path / "bottle")


def test_conversion():
    source = read_dataset("digits", "image")
    colour = source.converted(16, 3)
    assert colour.image_shape == (3, 16, 16)
    back = colour.converted(8, 1)
    assert back.image_shape == (1, 8, 8)
    # There and back through twice the size is a blur, but no other picture.
    correlation = np.corrcoef(back.images.flatten().numpy(), source.images.flatten().numpy())[0, 1]
    assert correlation > 0.9


def test_unknown_names_and_missing_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("METAAD_DATA", raising=False)
    assert "torchvision/Omniglot" in list_datasets()
    with pytest.raises(ValueError, match="unknown image dataset 'digit'; did you mean 'digits'"):
        read_dataset("digit", "image")
    with pytest.raises(ValueError, match=r"set data\.root, or the environment variable METAAD_DATA"):
        read_dataset("omniglot28", "image")
    with pytest.raises(ValueError, match=r"digits read no files.*data\.dataset=own"):
        read_dataset("digits", "image", tmp_path)
    with pytest.raises(ValueError, match=r"omniglot28\.npz does not exist"):
        read_dataset("omniglot28", "image", tmp_path)


def test_torchvision_reads_what_lies_in_the_folder(tmp_path):
    """MNIST's own file format, written here for three pictures a part: torchvision takes them without a download."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pictures, labels = rng.integers(0, 255, (3, 28, 28), np.uint8), np.array([7, 1, 0], np.uint8)
        head = np.array([2051, 3, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pictures.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([2049, 3], ">i4").tobytes() + labels.tobytes())
        last = pictures
    source = read_dataset("torchvision/MNIST", "image", tmp_path)
    assert torch.equal(source.images[3:, 0], torch.as_tensor(last))
    assert [source.class_names[i] for i in source.labels] == ["7 - seven", "1 - one", "0 - zero"] * 2


def test_omniglot_through_torchvision(tmp_path, monkeypatch):
    """torchvision's own layout with one character a part; it checks the archives' md5, which are ours here."""
    md5 = {}
    for i, part in enumerate(("images_background", "images_evaluation")):
        character = tmp_path / "omniglot-py" / part / f"Alphabet{i}" / "character01"
        for drawing in range(2):
            picture = np.full((105, 105), 255, np.uint8)
            picture[40:60, 50] = 0  # ink is black on white
            write(character / f"{drawing}.png")
            Image.fromarray(picture).convert("1").save(character / f"{drawing}.png")
        archive = tmp_path / "omniglot-py" / f"{part}.zip"
        archive.write_bytes(part.encode())
        md5[part] = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(torchvision.datasets.Omniglot, "zips_md5", md5)
    source = read_dataset("torchvision/Omniglot", "image", tmp_path)
    names = ["images_background/Alphabet0/character01", "images_evaluation/Alphabet1/character01"]
    assert list(source.class_names) == names
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.images[0, 0, 50, 50] == 255, "ink is bright"
    assert source.images[0, 0, 0, 0] == 0
    assert source.converted(28, None).image_shape == (1, 28, 28)


def test_torchvision_without_files_or_network_says_so(tmp_path, monkeypatch):
    import torchvision.datasets.utils as downloads

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(downloads, "_urlretrieve", no_network)
    with pytest.raises(ValueError, match=r"torchvision's Omniglot is neither in .* nor could it be downloaded"):
        read_dataset("torchvision/Omniglot", "image", tmp_path)


def test_real_npz_sets(data_folder):
    omniglot = read_dataset("omniglot28", "image", data_folder)
    assert omniglot.images.shape == (17300, 1, 28, 28)
    assert len(omniglot.class_names) == 865
    piped = read_dataset("piped128", "image", data_folder)
    assert piped.anomalous.sum() == 8 * 48


def test_real_mvtec_folder(data_folder):
    source = read_folder(data_folder / "raw" / "paper_defects", image_size=32, channels=1)
    assert source.anomalous.any()
    assert not source.anomalous.all()
