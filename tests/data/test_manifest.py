"""A user's manifest of several modalities: what is read, what is refused, and the configs that read it."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image

from metaad_zoo.data import MultimodalEpisodes
from metaad_zoo.data.read.manifest import ManifestReader
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.modality.samples import read_samples
from tests.conftest import REPOSITORY

SMALL = EpisodeSpec(support_normal=2, query_normal=2, query_anomalous=2)
EVERYTHING = EpisodeSpec(6, 3, 8, 0.25, 12, 12)
NAMES = list("abcdef")


def write_manifest(folder, rows, header="image,sequence,weight,colour,label,domain", name="manifest.csv"):
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def hospital(tmp_path):
    """Five domains with labels, in which every third sample lacks a picture and every fourth a sequence."""
    rng = np.random.default_rng(0)
    (tmp_path / "bilder ü").mkdir()
    rows = []
    for domain in ("Köln", "東京", "d" * 300, "a/b", "5"):
        for i in range(12):
            n = len(rows)
            picture, track = f"bilder ü/{n} 写真.png", f"{n}.csv"
            Image.fromarray(rng.integers(0, 255, (6, 6), np.uint8)).save(tmp_path / picture)
            lines = [f"{t}.5,{n}" for t in range(3 + n % 3)]
            (tmp_path / track).write_text("\n".join(["x,y", *lines]))
            weight = "" if n % 10 == 0 else n
            row = ["" if n % 3 == 0 else picture, "" if n % 4 == 1 else track, weight, "red", int(i < 4), domain]
            rows.append(",".join(map(str, row)))
    return tmp_path, rows


class TestManifest:
    def test_rows_become_samples(self, hospital):
        folder, rows = hospital
        source = ManifestReader(write_manifest(folder, rows)).read()
        assert source.name == "manifest"
        assert source.shapes == {"image": (1, 6, 6), "sequence": (5, 2), "tabular": (3,)}
        assert set(source.class_names) == {"Köln", "東京", "d" * 300, "a/b", "5"}
        assert source.anomalous.sum() == 20
        ids = np.array([17, 4, 3, 10])
        samples = source.read(ids, np.random.default_rng(0))
        picture = np.asarray(Image.open(folder / "bilder ü" / "17 写真.png"))
        np.testing.assert_allclose(samples["image"][0, 0] * 255, picture, atol=1e-4)
        assert samples["image"].flatten(1).isnan().all(1).tolist() == [False, False, True, False]
        assert samples["sequence"].flatten(1).isnan().all(1).tolist() == [True, False, False, False]
        assert samples["sequence"][1].nan_to_num(-1).tolist() == [[0.5, 4], [1.5, 4], [2.5, 4], [3.5, 4], [-1, -1]]
        assert samples["tabular"].nan_to_num(-1).tolist() == [[n, 1, 0] for n in (17, 4, 3, -1)]
        assert any("'label' read as the label" in reason for reason in source.skipped)

    def test_labels_make_domains(self, hospital):
        folder, rows = hospital
        data = MultimodalEpisodes("own", str(write_manifest(folder, rows)), episode=SMALL)
        data.setup("fit")
        assert {s: len(p) for s, p in data.pools.items()} == {"train": 3, "val": 1, "test": 1}
        assert data.description()["anomalies"] == "own"
        episode = next(data.episodes("test", 1))
        assert episode.task.removeprefix("manifest/") in data.class_splits["test"]
        assert data.source.anomalous[episode.query_ids].tolist() == episode.query_labels.bool().tolist()
        assert data.summary().row_count > 5

    def test_without_labels_classes_are_normal_in_turn(self, hospital):
        folder, rows = hospital
        rows = [row.rpartition(",")[0].rpartition(",")[0] + f",{n // 10}" for n, row in enumerate(rows)]
        path = write_manifest(folder, rows, "image,sequence,weight,colour,class")
        data = MultimodalEpisodes("own", str(path), episode=SMALL, image_size=8, length=2, channels=3)
        data.setup("fit")
        assert {s: len(names) for s, names in data.class_splits.items()} == {"train": 2, "val": 2, "test": 2}
        assert set(data.source.class_names) == set("012345")
        assert data.input_shapes == {"image": (3, 8, 8), "sequence": (2, 2), "tabular": (3,)}
        assert "-vs-" in next(data.episodes("val", 1)).task
        assert any("cut at 2" in reason for reason in data.skipped)
        mixed = MultimodalEpisodes("own", str(path), episode=EpisodeSpec(1, 0, 0, 0, 1, 1), anomalies="mismatch")
        assert "," in next(mixed.episodes("test", 1)).task

    def test_npz_sequences(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=np.arange(4), rate=8000)
        np.savez(tmp_path / "b.npz", np.array([[1.0], [np.inf]]))
        source = ManifestReader(write_manifest(tmp_path, ["a.npz", "b.npz"], "sequence")).read()
        values = source.read(np.arange(2), np.random.default_rng(0))["sequence"][..., 0]
        assert values.nan_to_num(-1).tolist() == [[0, 1, 2, 3], [1, -1, -1, -1]]
        assert source.class_names == ["manifest"]

    @pytest.mark.parametrize(
        "cell",
        ["{outside}/a.png", "../outside/a.png", "link.png", "folder/a.png", "../own/../outside/a.png", "/dev/zero"],
    )
    def test_files_outside_of_the_folder_are_refused(self, cell, tmp_path):
        own, outside = tmp_path / "own", tmp_path / "outside"
        own.mkdir()
        outside.mkdir()
        Image.new("L", (4, 4)).save(outside / "a.png")
        Image.new("L", (4, 4)).save(own / "a.png")
        (own / "link.png").symlink_to(outside / "a.png")
        (own / "folder").symlink_to(outside)
        path = write_manifest(own, ["a.png,1", f"{cell.format(outside=outside)},2"], "image,w")
        with pytest.raises(
            ValueError, match=r"manifest.csv, row 2, column 'image': .* outside of the manifest's folder"
        ):
            ManifestReader(path).read()

    def test_paths_and_links_within_the_folder_are_read(self, tmp_path):
        Image.new("L", (4, 4)).save(tmp_path / "a.png")
        (tmp_path / "below").mkdir()
        (tmp_path / "below" / "link.png").symlink_to(tmp_path / "a.png")
        rows = ["below/../a.png,1", "below/link.png,2", f"{tmp_path}/a.png,3"]
        (tmp_path / "folder").symlink_to(tmp_path, target_is_directory=True)
        write_manifest(tmp_path, rows, "image,w")
        assert len(ManifestReader(tmp_path / "folder" / "manifest.csv").read().all_samples()["image"]) == 3

    @pytest.mark.parametrize(
        ("header", "rows", "complaint"),
        [
            (
                "image,w",
                ["there.png,1", "gone.png,2"],
                r"manifest.csv, row 2, column 'image': .*gone.png does not",
            ),
            ("sequence,w", [f"{'x' * 400}.csv,1"], "row 1, column 'sequence': .*xxx.csv does not exist"),
            ("sequence,w", ["there.csv,1", "two.csv,1"], r"two.csv: the columns are not those .* not known \['b'\]"),
            ("sequence,w", ["text.csv,1"], "text.csv has no column to learn from"),
            ("sequence,w", ["broken.npz,1"], "broken.npz can't be read as a numpy archive"),
            ("sequence,w", ["cube.npz,1"], "cube.npz: expected one array"),
            ("image,w", ["broken.png,1"], "broken.png can't be read as an image"),
            ("image,w", ["7,1"], "row 1, column 'image': expected the path of a file, saw the number 7"),
            ("w,class", ["1,a", "2,"], "row 2, column 'class': the cell is empty"),
            ("w,class", ["1,1.5", "2,2"], "row 1, column 'class': expected text or a whole number"),
            (
                "w,class",
                ["1,20240101202401010", "2,20240102202401010"],
                "row 1, column 'class': expected text or a whole number below",
            ),
            ("image,w", ["there.png,1", ","], "row 2: the sample has no image, no sequence and no number"),
            ("name,class", ["x,1", "y,2", "z,2"], "expected columns 'image', 'sequence' .* or columns of numbers"),
            ("w,label", ["1,0", "2,5"], "is column 'label' with the values .'0', '5'. a label"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, header, rows, complaint):
        Image.new("L", (4, 4)).save(tmp_path / "there.png")
        for name, text in [("there.csv", "a\n1\n"), ("two.csv", "a,b\n1,2\n"), ("text.csv", "a\nred\n")]:
            (tmp_path / name).write_text(text)
        for name in ("broken.npz", "broken.png"):
            (tmp_path / name).write_bytes(b"no such thing")
        np.savez(tmp_path / "cube.npz", np.zeros((2, 2, 2)))
        with pytest.raises(ValueError, match=complaint):
            ManifestReader(write_manifest(tmp_path, rows, header)).read()

    def test_columns_that_a_model_does_not_read_are_left_out(self, hospital):
        rows = ["bilder ü/2 写真.png,2.csv,7.5", "bilder ü/4 写真.png,4.csv,3.5"]
        path = write_manifest(hospital[0], rows, "image,sequence,weight")
        shapes = {"image": [1, 6, 6], "sequence": [5, 2]}
        reading = read_samples(path, shapes)
        assert set(reading.samples) == set(reading.schemas) | {"image"} == set(shapes)
        assert "manifest.csv: 'weight' left out: this model reads ['image', 'sequence']" in list(reading.account)

    def test_gaps_in_the_times_of_a_sequence_leave_nothing_out(self, tmp_path):
        times = [*range(8), *range(100, 108)]
        for name in "ab":
            (tmp_path / f"{name}.csv").write_text("\n".join(["time,v", *(f"{t},{t % 5}.5" for t in times)]))
        manifest = ManifestReader(write_manifest(tmp_path, ["a.csv", "b.csv"], "sequence"))
        assert manifest.read().shapes == {"sequence": (16, 1)}
        gaps = [sentence for sentence in manifest.account if "gap" in sentence]
        sentence = "the times have gaps, which are read as single steps: each series is one sample"
        assert gaps == [f"manifest.csv, sequences: {sentence}"]

    def test_too_few_domains_for_three_splits(self, tmp_path):
        path = write_manifest(tmp_path, ["1,0,a", "2,1,b"], "w,label,domain")
        with pytest.raises(ValueError, match="2 classes or domains are too few for three splits"):
            MultimodalEpisodes("own", str(path), episode=SMALL).setup("fit")


@pytest.mark.parametrize("config", ["quickstart_multimodal", "bring_your_own/multimodal"])
def test_configs_fit_the_data_module(config, hospital):
    settings = yaml.safe_load((REPOSITORY / "configs" / f"{config}.yaml").read_text())["data"]["init_args"]
    if settings["dataset"] == "own":
        folder, rows = hospital
        settings["root"] = str(write_manifest(folder, rows))
        settings["episode"] = {"support_normal": 3, "query_normal": 3, "query_anomalous": 3}
    data = MultimodalEpisodes(**{**settings, "episode": EpisodeSpec(**settings["episode"])})
    data.setup("fit")
    assert set(data.pools) == {"train", "val", "test"}
