"""The reader of images: every kind of file is read by one rule, and what is not read as it is stands in the account."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL import __version__ as pillow_version

from metaad_zoo.cli.command_line import main
from metaad_zoo.cli.terminal import DAMAGED, EXIT_CODES
from metaad_zoo.data import ImageEpisodes
from metaad_zoo.data.camera import CarelessCamera, RandomCamera
from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.images import ImageReader, read_folder, read_npz
from metaad_zoo.data.read.listing import list_files
from metaad_zoo.data.read.pixels import channels_first, decode, image_endings, resize, to_channels
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.learners import PrototypicalNetwork
from metaad_zoo.zoo import Checkpoint, CheckpointError

GREY = np.random.default_rng(0).integers(0, 256, (12, 8), np.uint8)
OLD_PILLOW = pytest.mark.skipif(
    int(pillow_version.partition(".")[0]) < 13, reason="Pillow before 13 can't read the YCbCr files that it writes"
)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 8, 3), np.uint8)


def reader(source, channels=1, size=8, **options):
    return ImageReader(source, channels=channels, height=size, width=size, **options)


def save(path, pixels=GREY, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def reasons(account, kind):
    return {reason: names for (k, _, reason), names in account.entries.items() if k == kind}


class TestPixels:
    @pytest.mark.parametrize("kind", ["RGBA", "LA", "GIF", "P", "L", "RGB", "I;16"])
    def test_what_is_transparent_is_white(self, tmp_path, kind):
        """Black ink on a transparent ground, by an alpha channel, a palette or a transparent colour."""
        alpha = np.zeros((6, 6), np.uint8)
        alpha[2:4] = 255
        options = {}
        if kind in ("RGBA", "LA", "GIF"):
            image = Image.fromarray(np.stack([0 * alpha, alpha], -1), mode="LA").convert(kind.replace("GIF", "RGBA"))
        elif kind == "I;16":
            image, options = Image.fromarray(np.where(alpha, 0, 700).astype(np.uint16)), {"transparency": 700}
        else:
            image = Image.fromarray(np.where(alpha, 0, 1).astype(np.uint8))
            if kind == "P":
                image.putpalette([0, 0, 0, 9, 9, 9])
            image = image.convert("RGB") if kind == "RGB" else image
            options = {"transparency": (1, 1, 1) if kind == "RGB" else 1}
        pixels, notes = decode(save(tmp_path / f"a.{'gif' if kind == 'GIF' else 'png'}", image, **options), 1)
        assert pixels.tolist() == [np.where(alpha, 0, 255).tolist()]
        assert "transparent pixels are laid on white" in notes

    def test_an_opaque_alpha_channel_changes_nothing_and_is_not_told(self, tmp_path):
        opaque = np.concatenate([COLOUR, np.full((12, 8, 1), 255, np.uint8)], -1)
        pixels, notes = decode(save(tmp_path / "a.png", opaque))
        assert torch.equal(pixels, torch.as_tensor(COLOUR).movedim(2, 0))
        assert notes == []

    @pytest.mark.parametrize("orientation", range(2, 9))
    @pytest.mark.parametrize(
        ("ending", "convert"),
        [
            ("png", lambda x: x),
            ("png", lambda x: x.astype(np.uint16) * 257),
            ("tif", lambda x: (x / 255).astype(np.float32)),
            ("tif", lambda x: x.astype(np.uint16) * 257),
        ],
        ids=["8 bits", "16 bits png", "floats", "16 bits tif"],
    )
    def test_orientation_turns_every_kind_alike(self, tmp_path, ending, convert, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turn = {2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1], 5: np.transpose}
        turn |= {6: lambda x: np.rot90(x, -1), 7: lambda x: x[::-1, ::-1].T, 8: np.rot90}
        pixels, notes = decode(save(tmp_path / f"a.{ending}", convert(GREY), exif=exif), 1)
        assert pixels[0].tolist() == turn[orientation](GREY).tolist()
        assert "turned by their EXIF orientation" in notes

    @pytest.mark.parametrize("mode", ["CMYK", pytest.param("YCbCr", marks=OLD_PILLOW), "LAB"])
    @pytest.mark.parametrize("channels", [1, 3, None])
    def test_other_colour_spaces_become_rgb_and_are_told(self, tmp_path, mode, channels):
        flat = Image.new("RGB", (5, 4), (200, 40, 90))
        converted = flat.convert(mode) if mode != "LAB" else Image.new("LAB", (5, 4), (120, 190, 140))
        pixels, notes = decode(save(tmp_path / "a.tif", converted), channels)
        assert pixels.shape == (channels or 3, 4, 5)
        assert any(mode in note for note in notes)
        if mode != "LAB":
            grey = 0.299 * 200 + 0.587 * 40 + 0.114 * 90
            expected = [grey] if channels == 1 else [200, 40, 90]
            np.testing.assert_allclose(pixels[:, 0, 0].numpy(), expected, atol=3)

    def test_a_dark_picture_is_not_brightened_beside_a_bright_one(self, tmp_path):
        """The range comes from the type: by its own values, a dark picture of floats or 16 bits looked like 8 bits."""
        dark = np.full((4, 4), 0.25, np.float32)
        for name, image, expected in [
            ("floats.tif", dark, 64),
            ("bright.tif", dark * 4, 255),
            ("deep.png", np.full((4, 4), 200, np.uint16), 1),
            ("deep.tif", np.full((4, 4), 200, np.uint16), 1),
            ("deep.pgm", np.full((4, 4), 200, np.uint16), 1),
        ]:
            assert decode(save(tmp_path / name, image))[0].unique().tolist() == [expected], name
        with pytest.raises(ValueError, match=r"beyond\.tif holds grey values from 0.* to 7.*expected floats from 0"):
            decode(save(tmp_path / "beyond.tif", dark * 28 * np.eye(4, dtype=np.float32)))
        with pytest.raises(ValueError, match=r"nan\.tif holds grey values from nan"):
            decode(save(tmp_path / "nan.tif", dark * np.nan))

    def test_pages_and_frames_are_counted(self, tmp_path):
        pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY), Image.fromarray(GREY // 2)]
        for name in ("a.tif", "a.gif", "a.png", "a.webp"):
            options = {"lossless": True} if name == "a.webp" else {}
            pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **options)
            pixels, notes = decode(tmp_path / name, 1)
            assert notes == ["the first of 3 pages or frames is read"], name
            assert torch.equal(pixels[0], torch.as_tensor(GREY)), name

    def test_sixteen_bits_of_colour_are_told(self, tmp_path):
        def chunk(kind, content):
            body = kind + content
            return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

        rows = b"".join(b"\0" + struct.pack(">3H", 65535, 257 * 7, 0) * 2 for _ in range(2))
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
        content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(content)
        pixels, notes = decode(tmp_path / "a.png")
        assert pixels[:, 0, 0].tolist() == [255, 7, 0]
        assert notes == ["cut from 16 to 8 bits a channel"]

    def test_grey_is_pillows_luminance(self):
        expected = np.asarray(Image.fromarray(COLOUR).convert("L"))
        assert torch.equal(to_channels(torch.as_tensor(COLOUR).movedim(2, 0), 1)[0], torch.as_tensor(expected.copy()))

    def test_padding_keeps_the_aspect_ratio_on_the_border_colour(self):
        image = torch.full((1, 1, 6, 12), 90, dtype=torch.uint8)
        image[..., 2:4, 4:8] = 255
        padded = resize(image, 12, 12, "pad")
        assert torch.equal(padded[..., 3:9, :], image)
        assert padded[..., :3, :].unique().tolist() == padded[..., 9:, :].unique().tolist() == [90]
        squashed = resize(image, 12, 12)
        assert (squashed > 100).sum() > (padded > 100).sum()

    @pytest.mark.parametrize("shape", [(1, 500), (500, 1), (3, 7)])
    def test_padding_of_extreme_shapes(self, shape):
        assert resize(torch.zeros(2, 3, *shape, dtype=torch.uint8), 8, 5, "pad").shape == (2, 3, 8, 5)


class TestListing:
    def test_other_endings_are_read_where_pillow_reads_them(self, tmp_path):
        for ending in ("png", "gif", "jfif", "jp2", "webp", "bmp", "tif", "pgm", "tga", "avif"):
            save(tmp_path / f"{ending}.{ending}", format="JPEG" if ending == "jfif" else None)
        assert ".avif" in image_endings()
        assert len(reader(tmp_path)) == 10

    def test_leftovers_are_told(self, tmp_path):
        save(tmp_path / "a.png")
        save(tmp_path / "below" / "b.png")
        for name in ("Thumbs.db", "notes.txt", ".hidden.png", "report.pdf"):
            (tmp_path / name).write_text("")
        (tmp_path / "folder.png").mkdir()
        source = reader(tmp_path, below=True)
        assert [file.name for file in source.files] == ["a.png"]
        assert reasons(source.account, "left out") == {
            "files of other kinds": ["Thumbs.db", "notes.txt", "report.pdf"],
            "hidden": [".hidden.png"],
            "1 image in folders below; give such a folder to read them": ["below"],
        }

    def test_each_real_folder_and_file_is_read_once(self, tmp_path):
        root, outside = tmp_path / "root", tmp_path / "outside"
        for name in ("a", "b"):
            save(root / name / "0.png")
        save(outside / "sub" / "0.png")
        (root / "a" / "again").symlink_to("..")  # a loop
        (root / "b" / "above").symlink_to("../..")  # holds the root
        (root / "0_link").symlink_to("b")  # before the folder it leads to
        (root / "c").symlink_to(outside)
        (root / "nowhere").symlink_to("gone")
        (root / "self").symlink_to("self")
        (root / "a" / "1.png").symlink_to("0.png")
        source = read_folder(root)
        assert list(source.class_names) == ["a", "b", "c/sub"]
        assert len(source.images) == 3
        assert reasons(source.account, "left out") == {
            "links to folders that are read already": ["0_link", "a/again"],
            "links to folders that hold this one": ["b/above"],
            "links that lead nowhere": ["nowhere", "self"],
            "links to files that are read already": ["a/1.png"],
        }
        assert reasons(source.account, "guessed") == {"links that lead elsewhere are followed": ["c"]}

    def test_links_to_one_place_outside_are_one_folder(self, tmp_path):
        save(tmp_path / "outside" / "0.png")
        for name in ("x", "y"):
            (tmp_path / "root").mkdir(exist_ok=True)
            (tmp_path / "root" / name).symlink_to("../outside")
        account = Account()
        listed = list_files(tmp_path / "root", {".png"}, account)
        assert [len(files) for files in listed.values()] == [0, 1]
        assert "links to folders that are read already" in reasons(account, "left out")

    def test_of_a_category_its_good_images_are_the_support_and_of_a_folder_those_directly_in_it(self, tmp_path):
        save(tmp_path / "set" / "train" / "good" / "0.png")
        save(tmp_path / "set" / "test" / "cut" / "0.png")
        category = reader(tmp_path / "set", damaged="empty")
        assert [str(f.relative_to(tmp_path / "set")) for f in category.files] == ["train/good/0.png"]
        assert reasons(category.account, "left out") == {}
        (guess,) = reasons(category.account, "guessed")
        assert "its train/good is read" in guess
        save(tmp_path / "plain" / "a.png")
        save(tmp_path / "plain" / "more" / "b.png")
        plain = reader(tmp_path / "plain")
        assert [f.name for f in plain.files] == ["a.png"]
        assert list(reasons(plain.account, "left out").values()) == [["more"]]
        assert category.all()["image"].shape == (1, 1, 8, 8)
        assert category.in_bytes().dtype == torch.uint8, "without damage, empty places are not needed"
        assert category.account.damaged == []
        assert reasons(category.account, "damaged") == {}

    def test_masks_and_training_images_are_not_scored(self, tmp_path):
        for folder in ("train/good", "test/good", "test/cut", "ground_truth/cut"):
            save(tmp_path / folder / "0.png")
        assert [str(f.relative_to(tmp_path)) for f in reader(tmp_path).files] == ["train/good/0.png"]
        scored = reader(tmp_path, below=True)
        assert [str(f.relative_to(tmp_path)) for f in scored.files] == ["test/cut/0.png", "test/good/0.png"]
        source = read_folder(tmp_path)
        assert source.anomalous.tolist() == [False, True, False]
        assert reasons(source.account, "left out") == {}


class TestArrays:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
    @pytest.mark.parametrize("aspect", ["squash", "pad"])
    def test_a_picture_is_the_same_by_path_and_as_an_array(self, tmp_path, pixels, channels, aspect):
        expected = reader([save(tmp_path / "a.png", pixels)], channels, aspect=aspect).all()["image"]
        np.savez(tmp_path / "a.npz", x=pixels[None])
        np.savez(tmp_path / "floats.npz", x=pixels[None] / 255)
        forms = [
            pixels[None],
            pixels[None] / 255,
            (pixels[None] / 255).astype(np.float32),
            torch.as_tensor(pixels[None]),
            pixels[None].astype(np.uint16) * 257,
            tmp_path / "a.npz",
            tmp_path / "floats.npz",
        ]
        for form in forms:
            assert torch.equal(reader(form, channels, aspect=aspect).all()["image"], expected)

    def test_floats_of_the_models_size_are_taken_as_they_are(self):
        x = np.random.default_rng(0).random((3, 8, 8))
        assert torch.equal(reader(x).all()["image"][:, 0], torch.as_tensor(x).float())

    def test_floats_out_of_range_are_cut_and_told_or_refused(self):
        x = np.linspace(-0.5, 1.5, 200).reshape(1, 20, 10)
        source = reader(x)
        image = source.all()["image"]
        assert image.min() == 0
        assert image.max() == 1
        assert any("are cut" in sentence for sentence in source.account)
        with pytest.raises(ValueError, match="divide by 255, or give uint8"):
            reader(x * 100).all()

    def test_types_without_a_range_are_refused(self):
        with pytest.raises(ValueError, match=r"expected images as uint8 .* saw int64: convert"):
            reader(np.zeros((2, 9, 9), np.int64)).all()
        assert reader(np.ones((2, 9, 9), bool)).all()["image"].unique().tolist() == [1]

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b"", "can't be read"),
            (b"PK\3\4 cut", "can't be read"),
            ({"y": [0]}, "must hold the array 'x'"),
            ({"x": np.uint8(3)}, r"saw \(\)"),
            ({"x": np.zeros((2, 2), np.uint8)}, r"saw \(2, 2\)"),
            ({"x": np.array([{}])}, "can't be read"),
        ],
    )
    @pytest.mark.parametrize("read", [lambda p: reader(p).all(), read_npz])
    def test_archives_that_cannot_be_used_are_named(self, tmp_path, content, complaint, read):
        path = tmp_path / "bad.npz"
        path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
        with pytest.raises(ValueError, match=rf"bad\.npz.*{complaint}"):
            read(path)


IMAGES = st.builds(
    lambda seed, kind, ending, height, width: (seed, kind, ending, height, width),
    st.integers(0, 1000),
    st.sampled_from(["grey", "colour", "alpha", "16 bits", "oriented"]),
    st.sampled_from(["png", "tif", "jp2"]),
    st.integers(2, 20),
    st.integers(2, 20),
)


def draw(path, seed, kind, ending, height, width):
    rng = np.random.default_rng(seed)
    channels = {"colour": (3,), "alpha": (4,)}.get(kind, ())
    pixels = rng.integers(0, 256, (height, width, *channels), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if kind == "oriented" and ending != "jp2" else {}
    save(path.with_suffix(f".{ending}"), pixels.astype(np.uint16) * 257 if kind == "16 bits" else pixels, **options)


@given(st.lists(IMAGES, min_size=1, max_size=5), st.sampled_from([1, 3]), st.sampled_from(["squash", "pad"]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_training_and_scoring_read_a_folder_alike(tmp_path_factory, images, channels, aspect):
    folder = tmp_path_factory.mktemp("images") / "good"
    for i, image in enumerate(images):
        draw(folder / f"{i}", *image)
    (folder / "notes.txt").write_text("")
    (folder / "again.png").symlink_to(sorted(folder.glob("0.*"))[0])
    trained = read_folder(folder, 8, channels, aspect)
    for below in (False, True):
        whole = reader(folder, channels, aspect=aspect, below=below)
        assert torch.equal(whole.all()["image"], trained.images.float() / 255)
        assert whole.account.as_json() == trained.account.as_json()
        streamed = reader(folder, channels, aspect=aspect, below=below)
        blocks = list(streamed.blocks(2))
        assert torch.equal(torch.cat([block.samples["image"] for block in blocks]), whole.all()["image"])
        assert [name for block in blocks for name in block.names] == list(map(str, whole.files))
        assert streamed.account.as_json() == trained.account.as_json()


@pytest.fixture
def detector_folder(tmp_path):
    torch.manual_seed(0)
    learner = PrototypicalNetwork(backbone="conv4", backbone_options={"width": 4}, input_shapes={"image": (1, 16, 16)})
    checkpoint = Checkpoint(learner, [], {"calibration": torch.arange(99.0) / 100})
    Detector(checkpoint).save(tmp_path / "model")
    for i in range(6):
        picture = np.random.default_rng(i).integers(0, 255, (16, 16), np.uint8)
        save(tmp_path / "good" / f"{i}.png", picture)
        save(tmp_path / "new" / f"{i}.png", 255 - picture)
    assert main(f"adapt {tmp_path}/model --support {tmp_path}/good --out {tmp_path}/detector".split()) == 0
    return tmp_path


def score(folder, data="new", *options):
    return main([*f"score {folder}/detector --data {folder}/{data} --out {folder}/scores.csv".split(), *options])


class TestVerbs:
    def test_one_damaged_file_leaves_its_row_empty_and_the_others_scores(self, detector_folder, capsys):
        assert score(detector_folder) == 0
        whole = (detector_folder / "scores.csv").read_text().splitlines()
        cut = detector_folder / "new" / "3.png"
        cut.write_bytes(cut.read_bytes()[:100])
        capsys.readouterr()
        assert score(detector_folder, "new", "--json") == DAMAGED == 3
        assert f"{DAMAGED} done, but some files could not be read" in EXIT_CODES
        printed = capsys.readouterr()
        figures = json.loads(printed.out)
        (entry,) = figures["account"]
        assert (entry["kind"], entry["subjects"]) == ("damaged", ["3.png"])
        assert "'3.png' damaged" in printed.err
        rows = (detector_folder / "scores.csv").read_text().splitlines()
        assert rows[4] == f"{cut},,,"
        assert [row for i, row in enumerate(rows) if i != 4] == [row for i, row in enumerate(whole) if i != 4]
        assert figures["without_value"] == 1

    def test_all_files_damaged_are_all_named(self, detector_folder):
        for file in (detector_folder / "new").iterdir():
            file.write_bytes(b"no picture")
        assert score(detector_folder) == DAMAGED

    def test_a_support_with_damaged_files_is_refused_and_names_them_all(self, detector_folder):
        for name in ("1.png", "4.png"):
            (detector_folder / "good" / name).write_bytes(b"no picture")
        with pytest.raises(ValueError, match=r"2 files: .*1\.png can't be read.*4\.png can't be read"):
            load_detector(detector_folder / "model").fit(detector_folder / "good")

    def test_pictures_of_another_aspect_ratio_than_the_supports_are_named(self, detector_folder, capsys):
        save(detector_folder / "new" / "wide.png", np.zeros((10, 30), np.uint8))
        capsys.readouterr()
        assert score(detector_folder) == 0
        assert "'wide.png' changed: stretched to " in capsys.readouterr().err
        detector = load_detector(detector_folder / "detector")
        assert detector.image_options["usual_ratio"] == 1.0

    def test_fit_keeps_an_account(self, detector_folder):
        (detector_folder / "good" / "notes.txt").write_text("")
        detector = load_detector(detector_folder / "model").fit(detector_folder / "good")
        assert reasons(detector.account, "left out") == {"files of other kinds": ["notes.txt"]}
        images = np.random.default_rng(0).integers(0, 255, (5, 16, 16), np.uint8)
        assert not detector.fit(images).account


class TestAspect:
    def test_a_checkpoint_keeps_how_images_are_brought_to_its_size(self, tmp_path):
        wide = np.random.default_rng(0).integers(0, 255, (6, 10, 30), np.uint8)
        learner = PrototypicalNetwork(
            backbone="conv4", backbone_options={"width": 4}, input_shapes={"image": (1, 16, 16)}
        )
        scores = {}
        for aspect in ("squash", "pad"):
            Detector(Checkpoint(learner, [], {}, aspect=aspect)).fit(wide[:3]).save(tmp_path / aspect)
            detector = load_detector(tmp_path / aspect)
            assert detector.aspect == aspect
            for i, picture in enumerate(wide):
                save(tmp_path / "w" / f"{i}.png", picture)
            scores[aspect] = detector.score(wide)
            np.testing.assert_allclose(detector.score(tmp_path / "w"), scores[aspect], rtol=1e-6)
        assert not np.allclose(scores["squash"], scores["pad"])
        manifest = json.loads((tmp_path / "pad" / "manifest.json").read_text())
        (tmp_path / "pad" / "manifest.json").write_text(json.dumps(manifest | {"aspect": "stretch"}))
        with pytest.raises(CheckpointError, match="names the aspect 'stretch'"):
            load_detector(tmp_path / "pad")

    def test_training_pads_and_says_so(self, tmp_path):
        for name in "abcdef":
            for i in range(3):
                save(tmp_path / name / f"{i}.png", np.full((4, 12), 40 * i, np.uint8))
        data = ImageEpisodes("own", root=str(tmp_path), image_size=12, aspect="pad")
        assert data.description()["aspect"] == "pad"
        assert data.images.images.flatten(1).float().std(1).max() == 0, "the border has the colour of the picture"
        with pytest.raises(ValueError, match=r"data\.aspect is 'stretch'"):
            ImageEpisodes("own", root=str(tmp_path), aspect="stretch")

    def test_training_tells_what_it_left_out(self, tmp_path):
        for name in "abcdef":
            save(tmp_path / name / "0.png")
        (tmp_path / "notes.txt").write_text("")
        save(tmp_path / "a" / "wide.png", np.zeros((4, 12), np.uint8))
        skipped = ImageEpisodes("own", root=str(tmp_path), image_size=8).skipped
        assert any("'notes.txt' left out" in sentence for sentence in skipped)
        assert any("'a/wide.png' changed: stretched to " in sentence for sentence in skipped)


def test_the_cameras_old_name_works_and_warns():
    with pytest.warns(DeprecationWarning, match="now called RandomCamera"):
        camera = CarelessCamera(rotation=1.0)
    assert isinstance(camera, RandomCamera)
    assert camera.rotation == 1.0


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((4, 5, 6), None, lambda x: x[:, None]),
        ((3, 5, 6), 1, lambda x: x[:, None]),
        ((3, 5, 6), 3, "looks like one colour image"),
        ((4, 5, 1), None, "looks like one colour image"),
        ((4, 5, 3), None, "looks like one colour image"),
        ((2, 1, 5, 3), None, lambda x: x),
        ((2, 3, 5, 1), None, lambda x: x),
        ((2, 5, 6, 1), None, lambda x: x.transpose(0, 3, 1, 2)),
        ((2, 5, 3, 3), None, lambda x: x.transpose(0, 3, 1, 2)),
        ((2, 2, 5, 2), None, "with C 1 or 3, saw"),
        ((2, 1, 0, 4), None, "expected images with pixels"),
        ((0, 1, 4, 4), None, lambda x: x),
        ((4, 5), None, "with C 1 or 3, saw"),
    ],
)
def test_channels_come_first_wherever_they_were(shape, channels, expected):
    x = np.arange(np.prod(shape)).reshape(shape)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"here: .*{expected}"):
            channels_first(x, "here", channels)
    else:
        np.testing.assert_array_equal(channels_first(x, "here", channels), expected(x))
