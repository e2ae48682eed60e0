"""One domain of normal samples: halves that share nothing, anomalies that are made, no test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.modality import SingleDomainEpisodes

SPEC = EpisodeSpec(support_normal=3, query_normal=2, query_anomalous=2)


def rows_file(folder, n=40, name="line.csv", label=None):
    rng = np.random.default_rng(0)
    lines = ["x,y,z" + (",label" if label is not None else "")]
    for i, row in enumerate(rng.normal(size=(n, 3))):
        lines.append(",".join(map(str, row)) + (f",{label[i]}" if label is not None else ""))
    (folder / name).write_text("\n".join(lines))
    return folder / name


def table(path, **options):
    return SingleDomainEpisodes(
        **{"root": str(path), "synthetic": ["outlier"], "sample_shapes": {"tabular": [-1]}, "episode": SPEC, **options}
    )


def test_halves_share_nothing_and_anomalies_are_made(tmp_path):
    data = table(rows_file(tmp_path))
    data.setup("fit")
    rows = data.samples["tabular"]
    used = {}
    for split in ("train", "val"):
        episodes = list(data.episodes(split, 20))
        normal = torch.cat([e.support["tabular"] for e in episodes])
        normal = torch.cat([normal, *(e.query["tabular"][e.query_labels == 0] for e in episodes)])
        used[split] = {tuple(row.tolist()) for row in normal}
        made = torch.cat([e.query["tabular"][e.query_labels == 1] for e in episodes])
        assert not {tuple(r.tolist()) for r in made} & {tuple(r.tolist()) for r in rows}
        assert len(made) == 40
    assert not used["train"] & used["val"]
    assert len(used["train"] | used["val"]) == 40
    assert data.seen == ["line", "line (train)", "line (val)"]
    assert "test" not in data.pools


def test_a_series_later_part_chooses(tmp_path):
    path = rows_file(tmp_path, 400)
    data = table(path, sample_shapes={"sequence": [8, -1]}, synthetic=["spike"], val_share=0.4)
    ids = {split: data.pools[split].domains[0].normal for split in ("train", "val")}
    assert ids["train"].tolist() == list(range(30))
    assert ids["val"].tolist() == list(range(30, 50))
    rows_file(tmp_path, 80, "other.csv")
    assert len(table(tmp_path, sample_shapes={"sequence": [8, -1]}).samples["sequence"]) == 60


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"synthetic": None}, "data.synthetic is missing"),
        ({"val_share": 1.0}, "val_share"),
        ({"root": None}, "data.root"),
        ({"sample_shapes": None}, "sample_shapes"),
        ({"synthetic": ["cut_paste"]}, "modalities are"),
        ({"episode": EpisodeSpec(support_normal=20, query_normal=2, query_anomalous=2)}, "has 20 normal samples"),
    ],
)
def test_what_can_not_work_is_refused(tmp_path, options, complaint):
    def first_episode():
        data = table(rows_file(tmp_path), **options)
        data.setup("fit")
        return next(data.episodes("train", 1))

    with pytest.raises(ValueError, match=complaint):
        first_episode()


def test_labelled_anomalies_are_refused(tmp_path):
    path = rows_file(tmp_path, label=[0] * 39 + [1])
    with pytest.raises(ValueError, match="labels 1 of 40 samples as anomalous"):
        table(path).setup("fit")
