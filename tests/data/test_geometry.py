"""Pictures that are not square keep their shape (``aspect="keep"``), from the reader to the commands."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from metaad_zoo.cli.command_line import main
from metaad_zoo.data import ImageEpisodes
from metaad_zoo.data.read import images as images_module
from metaad_zoo.data.read.images import ImageReader
from metaad_zoo.data.read.pixels import decode, kept_size
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.experiment.methods import refuse_other_shapes
from metaad_zoo.learners import PatchMemory
from metaad_zoo.zoo import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from tests.conftest import small_learner

USUAL = 64
WIDE = (400, 200)  # width, height
HEIGHT, WIDTH = kept_size(USUAL, USUAL, 2.0)


def picture(path, size=WIDE, seed=0):
    """Noise with a bright disc of half the height."""
    noise = np.random.default_rng(seed).integers(40, 90, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    quarter, middle = size[1] // 4, (size[0] // 2, size[1] // 2)
    ImageDraw.Draw(image).ellipse(
        [middle[0] - quarter, middle[1] - quarter, middle[0] + quarter, middle[1] + quarter], fill=(255, 255, 255)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture
def wide(tmp_path):
    for i in range(4):
        picture(tmp_path / "good" / f"{i}.png", seed=i)
    return tmp_path / "good"


def reader(source, **options):
    return ImageReader(source, channels=3, height=USUAL, width=USUAL, **{"aspect": "keep"} | options)


def memory(backbone="timm/test_efficientnet"):
    torch.manual_seed(0)
    return PatchMemory(backbone=backbone, input_shapes={"image": (3, USUAL, USUAL)})


def detector(learner=None, calibration=19):
    scores = torch.linspace(0.1, 2, calibration)
    return Detector(Checkpoint((learner or memory()).eval(), [], {"calibration": scores}, aspect="keep"))


@pytest.mark.parametrize(("side", "step"), [(224, 32), (128, 32), (64, 8)])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.75, 0.9, 1.2, 4 / 3, 1.5, 16 / 9, 2.35, 6.0])
def test_the_nearest_of_all_sizes_is_chosen(side, step, ratio):
    def distance(h, w):
        return 2 * abs(math.log(w / h / ratio)) + abs(math.log(h * w / side**2))

    sides = range(step, 40 * step, step)
    assert distance(*kept_size(side, side, ratio)) == pytest.approx(min(distance(h, w) for h in sides for w in sides))


def test_a_size_of_about_the_same_ratio_stays():
    assert kept_size(100, 100, 1.04) == (100, 100)
    assert kept_size(*kept_size(224, 224, 1.5), 1.5) == kept_size(224, 224, 1.5)


class TestReader:
    def test_a_disc_stays_round(self, wide):
        for options, expected in (({}, 1.0), ({"aspect": "squash"}, 0.5)):
            image = reader(wide, **options).all()["image"][0].mean(0)
            rows, columns = (torch.nonzero((image > 0.7).any(axis)).flatten() for axis in (1, 0))
            width, height = (float(x.max() - x.min() + 1) for x in (columns, rows))
            assert width / height == pytest.approx(expected, abs=0.1)

    def test_most_images_decide_and_others_are_named(self, wide):
        picture(wide / "0_first.png", (200, 200))
        reading = reader(wide)
        assert reading.all()["image"].shape == (5, 3, HEIGHT, WIDTH)
        sentences = list(reading.account)
        assert any(
            f"read at {HEIGHT} x {WIDTH} pixels, by the aspect ratio of most images, 2.00" in s for s in sentences
        )
        assert any("'0_first.png' changed: stretched to " in s for s in sentences)
        assert reading.ratio == 2.0

    def test_blocks_are_the_whole_and_each_file_is_opened_once(self, wide, monkeypatch):
        opened = []
        monkeypatch.setattr(
            images_module, "decode", lambda path, channels: (opened.append(path), decode(path, channels))[1]
        )
        blocks = list(reader(wide).blocks(3))
        assert [len(block.names) for block in blocks] == [3, 1]
        assert sorted(opened) == sorted(wide.iterdir())
        assert torch.equal(torch.cat([b.samples["image"] for b in blocks]), reader(wide).all()["image"])

    @pytest.mark.parametrize("kind", ["uint8", "floats", "npz"])
    def test_arrays_are_read_as_files_are(self, wide, tmp_path, kind):
        array = np.stack([np.array(Image.open(path)) for path in sorted(wide.iterdir())])
        source = array
        if kind == "floats":
            source = array.astype(np.float32) / 255
        elif kind == "npz":
            source = tmp_path / "a.npz"
            np.savez(source, x=array)
        images = reader(source)
        assert torch.equal(images.all()["image"], reader(wide).all()["image"])
        assert images.ratio == 2.0

    def test_a_damaged_file_gives_an_empty_sample_of_the_same_size(self, wide):
        (wide / "1.png").write_bytes(b"no image")
        images = reader(wide, damaged="empty").all()["image"]
        assert images.shape[2:] == (HEIGHT, WIDTH)
        assert images.isnan().flatten(1).all(1).tolist() == [False, True, False, False]
        with pytest.raises(ValueError, match=r"1\.png can't be read as an image"):
            reader(wide).all()

    def test_square_images_are_read_as_ever(self, tmp_path):
        for i in range(2):
            picture(tmp_path / f"{i}.png", (100, 100), seed=i)
        assert torch.equal(reader(tmp_path).all()["image"], reader(tmp_path, aspect="squash").all()["image"])


class TestDetector:
    def test_the_support_decides_the_size_and_saving_keeps_it(self, wide, tmp_path):
        new = picture(tmp_path / "new" / "a.png", seed=9)
        fitted = detector().fit(wide)
        assert fitted.input_shapes == {"image": [3, HEIGHT, WIDTH]}
        assert fitted.explain(new).shape == (1, 3, HEIGHT, WIDTH)
        fitted.save(tmp_path / "saved")
        loaded = load_detector(tmp_path / "saved")
        assert loaded.aspect == "keep"
        assert np.array_equal(loaded.score(new), fitted.score(new))
        loaded.fit(picture(tmp_path / "tall" / "a.png", (200, 400)).parent)
        assert loaded.input_shapes == {"image": [3, WIDTH, HEIGHT]}, "a new support decides anew"

    def test_scores_are_those_of_the_learner_on_images_of_that_size(self, wide, tmp_path):
        new = picture(tmp_path / "new" / "a.png", seed=9)
        learner = memory()
        support, query = (ImageReader(x, channels=3, height=HEIGHT, width=WIDTH).all() for x in (wide, new))
        expected = learner.adapt(support, torch.zeros(4)).score(query)
        np.testing.assert_allclose(detector(learner).fit(wide).score(new), expected.double())

    def test_images_of_another_ratio_are_named(self, wide, tmp_path):
        fitted = detector().fit(wide)
        square = picture(tmp_path / "square" / "a.png", (200, 200))
        at_own_ratio = ImageReader(square, channels=3, height=HEIGHT, width=WIDTH, **fitted.image_options)
        at_own_ratio.all()
        assert any("than that of the support, 2.00" in sentence for sentence in at_own_ratio.account)

    def test_tensors_of_any_size(self):
        images = torch.rand(3, 3, 40, 80)
        assert detector().fit(images).input_shapes == {"image": [3, HEIGHT, WIDTH]}
        assert detector().fit(torch.rand(3, 3, USUAL, USUAL)).input_shapes == {"image": [3, USUAL, USUAL]}

    def test_a_model_of_one_size_refuses(self, wide):
        learner = small_learner()
        size = learner.arguments()["input_shapes"]["image"][1]
        model = Detector(Checkpoint(learner.eval(), [], {}, aspect="keep"))
        with pytest.raises(ValueError, match=rf"gradient|maml.* reads \(\d, {size}, {size}\) alone: crop"):
            model.fit(wide)
        assert not model.is_fitted
        assert not memory("timm/test_vit").any_size
        assert memory().any_size

    def test_a_support_of_another_size_than_its_ratio_says_is_refused(self, wide, tmp_path):
        detector().fit(wide).save(tmp_path / "saved")
        checkpoint = load_checkpoint(tmp_path / "saved")
        checkpoint.tensors["support/image"] = torch.rand(4, 3, USUAL, USUAL)
        save_checkpoint(tmp_path / "forged", checkpoint)
        with pytest.raises(CheckpointError, match="a support set that does not fit its model"):
            load_detector(tmp_path / "forged")


def test_adapt_and_score_say_the_size(wide, tmp_path, capsys):
    picture(tmp_path / "new" / "a.png", seed=9)
    save_checkpoint(tmp_path / "model", detector()._checkpoint)
    arguments = ["adapt", str(tmp_path / "model"), "--support", str(wide), "--out", str(tmp_path / "mine"), "--json"]
    assert main(arguments) in (0, None)
    output = capsys.readouterr()
    assert f"read at {HEIGHT} x {WIDTH} pixels" in output.err
    assert f"read at {HEIGHT} x {WIDTH} pixels" in str(json.loads(output.out)["account"])
    scores = tmp_path / "scores.csv"
    assert main(["score", str(tmp_path / "mine"), "--data", str(tmp_path / "new"), "--out", str(scores)]) in (0, None)
    expected = load_detector(tmp_path / "mine").score(tmp_path / "new" / "a.png")
    assert float(scores.read_text().splitlines()[1].split(",")[1]) == pytest.approx(expected.item(), rel=1e-5)


def test_episodes_are_read_at_one_size(wide):
    for folder in ("bad", "worse"):
        for i in range(4):
            picture(wide.parent / folder / f"{i}.png", seed=i)
    module = ImageEpisodes("own", str(wide.parent), splits={"test": ["*"]}, image_size=USUAL, aspect="keep")
    assert module.input_shapes == {"image": (3, HEIGHT, WIDTH)}
    refuse_other_shapes("memory", memory(), module)
    with pytest.raises(ValueError, match="take a model of such data"):
        refuse_other_shapes("other", small_learner(), module)
