"""Unlabelled samples beside normal ones, with a contamination drawn per episode, in the episodes of every modality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.io import wavfile

from metaad_zoo.data import EpisodeDataModule, ImageEpisodes, MultimodalEpisodes, SequenceEpisodes, TabularEpisodes
from metaad_zoo.data.generated_tables import TablePrior
from metaad_zoo.data.read.audio import RATE
from metaad_zoo.episodes import NORMAL, UNLABELLED, Episode, EpisodeBatch, EpisodeSpec
from metaad_zoo.experiment.methods import data_of_config
from metaad_zoo.modality import SingleDomainEpisodes
from metaad_zoo.modality.class_episodes import ClassEpisodes
from tests.conftest import SPLITS

N, HIGH = 20, 0.4
SPEC = EpisodeSpec(3, 0, N, contamination=(0.0, HIGH), query_normal=4, query_anomalous=4)
FAR = 100
"""Offset of the anomalies in the files of these tests."""


def write_table(folder: Path, normal: int = 60, anomalous: int = 40, name: str = "pump") -> Path:
    rows = np.random.default_rng(0).normal(size=(normal + anomalous, 3))
    rows[normal:] += FAR
    labels = np.repeat([0, 1], [normal, anomalous])
    file = folder / f"{name}.csv"
    np.savetxt(file, np.column_stack([rows, labels]), delimiter=",", header="a,b,c,label", comments="")
    return file


def real_table(folder: Path, spec: EpisodeSpec, **options: object) -> TabularEpisodes:
    return TabularEpisodes("own", str(write_table(folder)), {"train": ["*"]}, episode=spec, **options)


def machine(folder: Path, spec: EpisodeSpec) -> SequenceEpisodes:
    """A series whose earlier part is the history: its windows alone are normal support."""
    series = np.random.default_rng(0).normal(size=(1600, 2))
    labels = (np.arange(len(series)) % 160 >= 80) & (np.arange(len(series)) > 640)
    series[labels] += FAR
    np.savetxt(
        folder / "m.csv", np.column_stack([series, labels]), delimiter=",", header="x,y,label", comments="", fmt="%.6g"
    )
    return SequenceEpisodes("own", str(folder), {"train": ["*"]}, window=8, stride=8, support_share=0.4, episode=spec)


def recordings(folder: Path, spec: EpisodeSpec) -> ClassEpisodes:
    rng = np.random.default_rng(0)
    for name in ("hum", "hiss"):
        (folder / name).mkdir(exist_ok=True)
        for i in range(40):
            wavfile.write(folder / name / f"{i}.wav", RATE, rng.normal(size=800).astype(np.float32))
    return ClassEpisodes("audio", str(folder), splits={"train": ["*"]}, sample_shape=[1, 8, 8], episode=spec)


def one_domain(folder: Path, spec: EpisodeSpec) -> SingleDomainEpisodes:
    rows = np.random.default_rng(0).normal(size=(150, 3))
    np.savetxt(folder / "line.csv", rows, delimiter=",", header="a,b,c", comments="")
    return SingleDomainEpisodes(
        root=str(folder / "line.csv"), synthetic=["outlier"], sample_shapes={"tabular": [-1]}, episode=spec
    )


def far(data: EpisodeDataModule, episode: Episode) -> torch.Tensor:
    (values,) = episode.support.values()
    return (values.flatten(1) > FAR / 2).any(1)


def of_another_class(data: EpisodeDataModule, episode: Episode) -> torch.Tensor:
    classes = data.pools["train"].source.labels[episode.support_ids]
    return torch.as_tensor(classes != classes[0])


def made_last(data: EpisodeDataModule, episode: Episode) -> torch.Tensor:
    """Generated samples are numbered normal ones first, those of the query last."""
    return episode.support_ids > episode.query_ids[episode.query_labels == NORMAL].max()


def disagreeing(data: EpisodeDataModule, episode: Episode) -> torch.Tensor:
    source = data.pools["train"].source
    positions = source.positions(episode.support_ids.numpy())
    first, second = (part.labels[at] for part, at in zip(source.parts.values(), positions, strict=True))
    return torch.as_tensor(first != second)


def not_in_the_file(data: EpisodeDataModule, episode: Episode) -> torch.Tensor:
    return ~(episode.support["tabular"][:, None] == data.samples["tabular"]).all(-1).any(1)


def mixed(data: EpisodeDataModule, episode: Episode) -> torch.Tensor:
    return (made_last if episode.task.startswith("generated") else far)(data, episode)


Make = Callable[[Path, EpisodeSpec], EpisodeDataModule]
PRIOR = TablePrior(tables=20)
MODULES: dict[str, tuple[Make, Callable[[EpisodeDataModule, Episode], torch.Tensor]]] = {
    "real table": (real_table, far),
    "generated tables": (lambda _, spec: TabularEpisodes(prior=PRIOR, episode=spec), made_last),
    "wide tables": (
        lambda _, spec: TabularEpisodes(prior=TablePrior(tables=20, family="wide"), episode=spec),
        made_last,
    ),
    "mixed tables": (lambda folder, spec: real_table(folder, spec, prior=PRIOR, generated_share=0.5), mixed),
    "synthetic anomalies": (one_domain, not_in_the_file),
    "images": (lambda _, spec: ImageEpisodes(splits=SPLITS, image_size=8, episode=spec), of_another_class),
    "series with history": (machine, far),
    "generated series": (lambda _, spec: SequenceEpisodes("generated", window=16, episode=spec), made_last),
    "recordings": (recordings, of_another_class),
    "modalities that disagree": (
        lambda _, spec: MultimodalEpisodes(splits=[6, 2, 2], pairing="labelled", episode=spec),
        disagreeing,
    ),
}


@pytest.fixture(params=MODULES)
def module(request, tmp_path):
    """A function from a spec to a DataModule, and one that says which support samples are anomalous."""
    make, anomalous = MODULES[request.param]
    return lambda spec: make(tmp_path, spec), anomalous


def test_episodes_hold_unlabelled_samples_of_a_drawn_contamination_in_any_order(module):
    make, anomalous = module
    data, n_episodes = make(SPEC), 150
    data.setup("fit")
    counts, positions = [], []
    for episode in data.episodes("train", n_episodes):
        assert episode.support_labels.tolist() == [NORMAL] * 3 + [UNLABELLED] * N
        drawn = torch.cat([episode.support_ids, episode.query_ids])
        assert len(drawn.unique()) == len(drawn), "support and query share a sample"
        mask = anomalous(data, episode)
        assert not mask[:3].any()
        counts.append(int(mask[3:].sum()))
        positions += mask[3:].nonzero().flatten().tolist()
    # Uniform in [0, 0.4]: mean 0.2, variance 0.4 ** 2 / 12; by position, the anomalies are uniform too.
    assert (min(counts), max(counts)) == (0, round(HIGH * N))
    share = np.array(counts) / N
    assert abs(share.mean() - HIGH / 2) < 4 * HIGH / np.sqrt(12 * n_episodes)
    deviation = np.sqrt((N**2 - 1) / 12 / len(positions))
    assert abs(np.mean(positions) - (N - 1) / 2) < 4 * deviation


def test_an_episode_depends_on_its_address_alone(module):
    make, _ = module
    data = make(SPEC)
    sampler = data.sampler("train")
    alone = sampler.episode(2, 5)
    for i in range(4):
        sampler.episode(2, i)
    for again in (sampler.episode(2, 5), make(SPEC).sampler("train").episode(2, 5)):
        assert again.task == alone.task
        for name, x in alone.support.items():
            np.testing.assert_array_equal(again.support[name], x)
            np.testing.assert_array_equal(again.query[name], alone.query[name])


def test_the_description_holds_both_settings(module):
    make, _ = module
    spec = EpisodeSpec(3, 0, 10, (0.0, 0.25), 4, 4, fewer_unlabelled=True)
    episode = make(spec).description()["train_episode"]
    assert episode["contamination"] == [0.0, 0.25]
    assert episode["realised_contamination"] == [0.0, 0.2]
    assert episode["fewer_unlabelled"] is True


@pytest.mark.parametrize("name", [name for name in MODULES if not {"generated", "wide", "mixed"} & {*name.split()}])
def test_a_task_that_is_too_small_gives_as_many_as_it_has_or_is_an_error(name, tmp_path):
    make, anomalous = MODULES[name]
    plenty = EpisodeSpec(3, 0, 5000, 0.25, 4, 4)
    with pytest.raises(ValueError, match=r"fewer_unlabelled=true|lower the numbers of data.episode"):
        make(tmp_path, plenty).setup("fit")
    data = make(tmp_path, replace(plenty, fewer_unlabelled=True))
    data.setup("fit")
    for episode in data.episodes("train", 3):
        assert len(episode.query_labels) == 8
        n = len(episode.support_labels) - 3
        assert 10 < n < 5000
        assert int(anomalous(data, episode).sum()) == round(0.25 * n)
        drawn = torch.cat([episode.support_ids, episode.query_ids])
        assert len(drawn.unique()) == len(drawn)


@pytest.mark.parametrize(
    ("normal", "anomalous", "contamination", "unlabelled"),
    [(60, 40, 0.0, 53), (60, 4, 0.0, 53), (60, 4, 0.5, 1), (60, 4, 0.9, 0), (27, 40, 0.5, 40), (8, 4, 0.3, 1)],
)
def test_the_largest_number_of_unlabelled_samples_is_taken(tmp_path, normal, anomalous, contamination, unlabelled):
    """7 normal and 4 anomalous rows are left for other uses; 41 at 50 % would take 21 normal ones."""
    root = write_table(tmp_path, normal, anomalous)
    spec = EpisodeSpec(3, 0, 500, contamination, 4, 4, fewer_unlabelled=True)
    episode = next(TabularEpisodes("own", str(root), {"test": ["*"]}, episode=spec).episodes("test", 1))
    assert len(episode.support_labels) - 3 == unlabelled


def test_thousands_of_unlabelled_rows(tmp_path):
    spec = EpisodeSpec(10, 0, 5000, (0.0, 0.3), 10, 10)
    (episode,) = TabularEpisodes(prior=PRIOR, episode=spec).episodes("test", 1)
    assert episode.support["tabular"].shape[0] == 5010
    root = write_table(tmp_path, 5100, 1600)
    (episode,) = TabularEpisodes("own", str(root), {"test": ["*"]}, episode=spec).episodes("test", 1)
    assert (episode.support_labels == UNLABELLED).sum() == 5000
    assert 0 < far(None, episode).sum() <= 1500


def test_supports_of_tables_are_padded_in_a_batch_and_not_outside_it(tmp_path):
    """Tables of different size and width; the padding says nothing, so that a task alone is as it was drawn."""
    write_table(tmp_path, 30, 40, "small")
    write_table(tmp_path, 60, 40, "large")
    spec = EpisodeSpec(3, 1, 500, (0.0, 0.3), 4, 4, fewer_unlabelled=True)
    data = TabularEpisodes("own", str(tmp_path), {"train": ["*"]}, episode=spec)
    episodes = list(data.episodes("train", 6))
    sizes = [len(e.support_labels) for e in episodes]
    assert len(set(sizes)) > 1
    batch = EpisodeBatch.collate(episodes)
    assert batch.support["tabular"].shape == (6, max(sizes), 3)
    for i, size in enumerate(sizes):
        assert batch.support["tabular"][i, size:].isnan().all()
        assert (batch.support_labels[i, size:] == UNLABELLED).all()
    for (support, labels, query, _, _), episode in zip(batch.to("cpu"), episodes, strict=True):
        assert torch.equal(support["tabular"], episode.support["tabular"])
        assert torch.equal(labels, episode.support_labels)
        assert torch.equal(query["tabular"], episode.query["tabular"])
    assert next(iter(data.train_dataloader())).support["tabular"].shape[0] == data.tasks_per_batch


def test_labelled_samples_are_never_padded():
    shots = [EpisodeSpec(n, query_normal=4, query_anomalous=4) for n in (3, 4)]
    episodes = [next(TabularEpisodes(prior=PRIOR, episode=spec).episodes("test", 1)) for spec in shots]
    with pytest.raises(ValueError, match="same modalities, numbers of samples"):
        EpisodeBatch.collate(episodes)


def test_supports_of_images_are_not_padded():
    specs = [EpisodeSpec(3, 0, n, 0.5, 4, 4, fewer_unlabelled=True) for n in (2, 4)]
    episodes = [next(ImageEpisodes(splits=SPLITS, image_size=8, episode=spec).episodes("train", 1)) for spec in specs]
    with pytest.raises(ValueError, match=r"supports of 5 to 7 samples of image in one batch.*fewer_unlabelled=false"):
        EpisodeBatch.collate(episodes)
    assert len(EpisodeBatch.collate(episodes[:1])) == 1


def test_anomalies_of_a_series_are_not_hidden_in_overlapping_windows(tmp_path):
    data = machine(tmp_path, SPEC)
    data.rule = type(data.rule)(8, 4, 0.0, 0.4)
    with pytest.raises(ValueError, match="share time points with the query's: set"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("text", "contamination"),
    [("0.1", 0.1), ("0", 0.0), ("[0.0, 0.3]", (0.0, 0.3)), ("[0, 0.3]", (0.0, 0.3))],
)
def test_configs_give_a_number_or_a_range(text, contamination, tmp_path):
    settings = f"support_normal: 10, support_unlabelled: 500, contamination: {text}, fewer_unlabelled: true"
    config = tmp_path / "config.yaml"
    config.write_text(f"data: {{class_path: metaad_zoo.data.TabularEpisodes, init_args: {{episode: {{{settings}}}}}}}")
    data = data_of_config(config)
    assert data.episode == EpisodeSpec(10, 0, 500, contamination, fewer_unlabelled=True)
    assert data.episode.contamination == contamination
    config.write_text(yaml.safe_dump({"data": {"class_path": "TabularEpisodes", "init_args": {"episode": {}}}}))
    assert data_of_config(config).episode == EpisodeSpec()
