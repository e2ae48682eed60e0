"""Synthetic anomalies: what every kind promises, what each one says of itself, and where they are used."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from metaad_zoo.data.synthetic import create_synthetic, list_synthetic, register_synthetic
from metaad_zoo.data.synthetic.sizes import column_sizes
from metaad_zoo.episodes import ANOMALOUS, Domain, DomainTaskPool, EpisodeSampler, EpisodeSpec

MODALITY = {name: m for m in ("image", "sequence", "tabular") for name in list_synthetic(modality=m)}
SHAPES = {"image": (3, 20, 16), "sequence": (40, 3), "tabular": (7,)}


def normal(modality, n, case="usual", seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, *SHAPES[modality])).astype(np.float32)
    if case == "constant":
        x = np.full_like(x, 0.5 if modality == "image" else 7)
    if case in ("zero", "one"):
        x = np.full_like(x, case == "one")
    if modality != "image":
        x *= {"large units": 1e30, "small units": 1e-30}.get(case, 1)
        if case == "missing":
            x[:, ..., 1] = np.nan  # an absent channel or column
            x[rng.random(x.shape) < 0.3] = np.nan
            if modality == "sequence":
                x[0, 25:] = np.nan  # padded steps
            x[-1] = np.nan
            x[:, ..., 0].reshape(n, -1)[:, 0] = rng.random(n)  # the last sample has this value alone
    return torch.as_tensor(x)


CASES = ["usual", "missing", "constant", "zero", "one", "large units", "small units"]


@pytest.mark.parametrize("donors", ["others", "one", "itself"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", MODALITY)
def test_the_contract_of_every_kind(name, case, donors):
    modality = MODALITY[name]
    corrupt = create_synthetic([name])
    for seed in range(2):
        x = normal(modality, 6, case, seed)
        lenders = {"others": normal(modality, 8, case, seed + 100), "one": normal(modality, 1, case, seed + 100)}
        samples, donor_samples = {modality: x.clone()}, {modality: lenders.get(donors, x[:1]).clone()}
        made = corrupt(samples, donor_samples, np.random.default_rng(seed))[modality]
        assert made.shape == x.shape
        assert made.dtype == x.dtype
        assert torch.equal(made.isfinite(), x.isfinite())
        assert torch.equal(samples[modality].nan_to_num(), x.nan_to_num()), "the input is changed in place"
        assert torch.equal(donor_samples[modality].nan_to_num(), lenders.get(donors, x[:1]).nan_to_num())
        assert (made.nan_to_num() != x.nan_to_num()).flatten(1).any(1).all(), "a sample is as it was"
        again = corrupt(samples, donor_samples, np.random.default_rng(seed))[modality]
        assert torch.equal(made.nan_to_num(), again.nan_to_num())
        other = corrupt(samples, donor_samples, np.random.default_rng(seed + 1))[modality]
        assert case != "usual" or not torch.equal(made, other)
        if modality == "image":
            assert made.min() >= 0
            assert made.max() <= 1


@pytest.mark.parametrize(("steps", "channels"), [(1, 1), (2, 3), (5, 1)])
@pytest.mark.parametrize("name", list_synthetic(modality="sequence"))
def test_short_sequences(name, steps, channels):
    x = torch.rand(20, steps, channels)
    made = create_synthetic([name])({"sequence": x}, {"sequence": x[:3]}, np.random.default_rng(0))["sequence"]
    assert (made != x).flatten(1).any(1).all()


@pytest.mark.parametrize("size", [(1, 2, 2), (1, 8, 8), (3, 28, 20), (3, 64, 64)])
@pytest.mark.parametrize("name", list_synthetic(modality="image"))
def test_a_defect_covers_a_visible_share(name, size):
    x = torch.full((60, *size), 0.4)
    made = create_synthetic([name])({"image": x}, {"image": x}, np.random.default_rng(0))["image"]
    changed = (made != x).any(1).flatten(1)
    share = changed.double().mean(1)
    assert ((made - x).abs().mean(1).flatten(1).sum(1) / changed.sum(1)).min() > 0.02
    if size[-1] > 8:
        assert share.min() > 0.005
        assert share.max() < 0.2
        assert 0.02 < share.mean() < 0.12


def one(name, x, donors=None, seed=0):
    """A kind alone, on samples and donors as numpy arrays of float64."""
    made = create_synthetic([name])(
        {MODALITY[name]: torch.as_tensor(x)},
        {MODALITY[name]: torch.as_tensor(x if donors is None else donors)},
        np.random.default_rng(seed),
    )
    return made[MODALITY[name]].numpy()


def test_cut_paste_pastes_an_upright_rectangle():
    x = np.random.default_rng(0).uniform(size=(20, 1, 32, 32))
    for changed in (one("cut_paste", x) != x)[:, 0]:
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert changed.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_a_scar_is_long_thin_and_turned():
    x = np.full((60, 1, 64, 64), 0.5)
    angles = []
    for changed in (one("scar", x) != x)[:, 0]:
        values, vectors = np.linalg.eigh(np.cov(np.argwhere(changed).T))
        assert values[1] > 12 * values[0]
        angles.append(np.degrees(np.arctan2(*vectors[:, 1])) % 180)
    assert np.std(angles) > 20


def test_patch_swap_blends_a_donor_in():
    made = one("patch_swap", np.zeros((20, 1, 64, 64)), np.ones((3, 1, 64, 64)))
    for image in made[:, 0]:
        middle = np.argwhere(image == 1)
        assert len(middle), "the middle of the patch is the donor's"
        assert 0 < image[image > 0].min() < 0.5, "its border is not"


def series(n=30, steps=200, seed=0):
    t = np.arange(steps)[None, :, None]
    rng = np.random.default_rng(seed)
    return 50 + 10 * np.sin(2 * np.pi * (t / 40 + rng.random((n, 1, 1)))) + rng.normal(0, 0.5, (n, steps, 1))


def window(difference):
    """First and last changed step."""
    changed = np.flatnonzero(difference)
    return changed[0], changed[-1] + 1


def test_spikes_are_few_and_large():
    x = series()
    difference = (one("spike", x) - x)[..., 0] / x.std()
    assert ((difference != 0).sum(1) <= 3).all()
    sizes = np.abs(difference[difference != 0])
    assert 2 <= sizes.min() < sizes.max() <= 6


def test_drift_grows_steadily():
    x = series()
    difference = np.abs(one("drift", x) - x)[..., 0] / x.std()
    assert (np.diff(difference, axis=1) >= -1e-12).all()
    assert (np.diff(difference.mean(0)) >= 0).all()
    assert ((difference[:, -1] >= 2) & (difference[:, -1] <= 6)).all()
    assert (difference[:, 0] < 0.2).all()


def test_a_level_shift_is_one_step_up_or_down_and_back():
    x = series()
    for difference in (one("level_shift", x) - x)[..., 0] / x.std():
        start, stop = window(difference)
        assert np.allclose(difference[start:stop], difference[start])
        assert 2 <= abs(difference[start]) <= 6
        assert 0.08 < (stop - start) / len(difference) < 0.42


def test_a_drop_out_is_stuck():
    x = series()
    minima = 0
    for made, origin in zip(one("drop_out", x)[..., 0], x[..., 0], strict=True):
        start, stop = window(made - origin)
        assert len(np.unique(made[start:stop])) == 1
        minima += made[start] == origin.min()
    assert 0 < minima < len(x)


def test_a_time_warp_keeps_the_values_and_the_rest():
    x = np.broadcast_to(np.arange(200.0)[None, :, None], (30, 200, 1)).copy()
    for made, origin in zip(one("time_warp", x, x / 100)[..., 0], x[..., 0], strict=True):
        start, stop = window(made - origin)
        assert (np.diff(made) >= 0).all(), "time never runs back"
        speeds = np.diff(made[start:stop])
        assert speeds.max() > 1.3
        assert speeds.min() < 0.8


def test_frequency_changes_by_the_factor():
    x = np.broadcast_to(np.sin(2 * np.pi * np.arange(240) / 24)[None, :, None], (40, 240, 1)).copy()
    peaks = np.abs(np.fft.rfft(one("frequency", x)[..., 0])).argmax(1)
    assert ((peaks >= 3) & (peaks <= 7) | (peaks >= 14) & (peaks <= 31)).all(), "it was 10 times a window"
    assert peaks.min() < 10 < peaks.max()


def test_noise_is_a_burst():
    x = series()
    difference = (one("noise", x) - x)[..., 0] / x.std()
    spreads = []
    for row in difference:
        start, stop = window(row)
        assert (stop - start) / len(row) < 0.42
        spreads.append(row[start:stop].std())
    assert 1.4 < min(spreads) < max(spreads) < 8


@pytest.mark.parametrize("name", list_synthetic(modality="sequence"))
def test_some_channels_change_in_any_unit(name):
    x = np.concatenate([series(seed=s) * unit for s, unit in enumerate((1, 1e6, 1e-6, 3))], 2)
    changed = (one(name, x) != x).any(1)
    assert changed.any(1).all()
    assert set(changed.sum(1)) == {1, 2, 3, 4}
    assert changed.mean(0).min() > 0.3, "each channel has its turn"


def test_feature_swap_takes_one_donors_values():
    rng = np.random.default_rng(0)
    x, donors = rng.normal(size=(40, 20)), rng.normal(size=(5, 20))
    made = one("feature_swap", x, donors)
    for row, origin in zip(made, x, strict=True):
        changed = row != origin
        assert 2 <= changed.sum() <= 10
        assert (row[changed] == donors[:, changed]).all(1).sum() == 1


def test_copula_keeps_marginals_and_breaks_dependence():
    base = np.random.default_rng(0).normal(size=(400, 1))
    x = np.concatenate([base, 3 * base + 1], 1)
    made = one("copula", x[:200], x[200:])
    for column in range(2):
        values = set(x[200:, column])
        assert np.mean([v in values for v in made[:, column]]) > 0.95
        assert set(made[:, column]) <= set(x[:, column])
        assert abs(made[:, column].mean() - x[:, column].mean()) < 0.3 * x[:, column].std()
    assert abs(np.corrcoef(made.T)[0, 1]) < 0.2


def test_copula_of_one_donor_is_a_mixture():
    x, donor = np.zeros((200, 8)), np.ones((1, 8))
    assert 0.4 < one("copula", x, donor).mean() < 0.6


def test_outliers_leave_the_donors_range():
    rng = np.random.default_rng(0)
    x, donors = rng.normal(size=(40, 20)) * 1e4, rng.normal(size=(30, 20)) * 1e4
    difference = np.abs(one("outlier", x, donors) - x) / donors.std(0)
    count = (difference > 0).sum(1)
    assert set(count) == {1, 2, 3}
    moved = difference[difference > 0]
    assert 3 <= moved.min() < moved.max() <= 8 + 1e-9


def test_a_cluster_moves_together():
    rng = np.random.default_rng(0)
    x, donors = rng.normal(size=(9, 20)), rng.normal(size=(30, 20))
    x[:, 4] = donors[:, 4] = 3
    difference = one("cluster", x, donors) - x
    assert np.allclose(difference, difference[0])
    assert (difference[:, 4] == 0).all(), "a column that never varies stays"
    steps = np.delete(difference[0], 4) / np.delete(donors.std(0), 4)
    assert 2 <= np.sqrt(np.mean(steps**2)) <= 4


def test_sizes_come_from_donors_then_samples_then_values():
    nan = np.nan
    samples = np.array([[0.0, 1.0, 9.0, nan, 0.0], [0.0, 3.0, 9.0, nan, 0.0]])
    donors = np.array([[2.0, 5.0, 9.0, nan, 0.0], [8.0, 5.0, 9.0, nan, nan]])
    assert column_sizes(samples, donors).tolist() == [3, 1, 9, 1, 1]


def test_names():
    assert list_synthetic("*_paste") == ["cut_paste"]
    assert len(MODALITY) == len(list_synthetic()) == 14
    with pytest.raises(ValueError, match="unknown synthetic anomaly 'spikes'; did you mean 'spike'"):
        create_synthetic(["spikes"])
    for names in ([], ["spike", "spike"]):
        with pytest.raises(ValueError, match="expected distinct synthetic anomalies"):
            create_synthetic(names)
    with pytest.raises(ValueError, match=r"saw 'spike': write \[spike\]"):
        create_synthetic("spike")
    with pytest.raises(ValueError, match="'spike' is registered already"):
        register_synthetic("spike", modality="image")(lambda samples, donors, rng: samples)


def test_a_mixture_changes_one_modality_that_the_sample_has():
    names = ["cut_paste", "scar", "drift", "outlier"]
    x = {m: normal(m, 60) for m in SHAPES}
    x["sequence"][:20] = torch.nan
    corrupt = pickle.loads(pickle.dumps(create_synthetic(names)))  # as for a loader's worker
    made = corrupt(x, {m: normal(m, 3, seed=1) for m in SHAPES}, np.random.default_rng(0))
    changed = torch.stack([(made[m].nan_to_num() != x[m].nan_to_num()).flatten(1).any(1) for m in SHAPES], 1)
    assert (changed.sum(1) == 1).all()
    assert changed.sum(0).min() > 5
    assert made["sequence"][:20].isnan().all()
    alone = create_synthetic(["drift", "cut_paste"])(
        {"image": x["image"]}, {"image": x["image"]}, np.random.default_rng(0)
    )
    assert (alone["image"] != x["image"]).flatten(1).any(1).all()


def test_samples_that_no_kind_fits_are_named():
    sequence = normal("sequence", 4)
    sequence[1] = torch.nan
    x, rng = {"sequence": sequence}, np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"corrupt \['sequence'\], but 1 of 4 samples have no such values"):
        create_synthetic(["spike"])(x, x, rng)
    with pytest.raises(ValueError, match=r"corrupt \['tabular'\], but 4 of 4 .* modalities are \['sequence'\]"):
        create_synthetic(["outlier"])(x, x, rng)
    with pytest.raises(ValueError, match="'spike' needs a normal sample with sequence, saw none"):
        create_synthetic(["spike"])({"sequence": sequence[2:]}, {"sequence": sequence[1:2]}, rng)


class Rows:
    """A reader of fixed random rows."""

    def __init__(self, n=60):
        self.x = torch.as_tensor(np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32))

    def read(self, ids, rng):
        return {"tabular": self.x[torch.as_tensor(ids)]}


def test_a_training_pool_makes_anomalies_and_one_for_evaluation_does_not():
    reader = Rows()
    domain = Domain("rows/a", reader, np.arange(60), np.array([], int))
    pool = DomainTaskPool([domain], corrupt=create_synthetic(["outlier", "copula"]))
    episode = EpisodeSampler(pool, EpisodeSpec(), "train", 0).episode(0, 0)
    anomalous = episode.query_labels == ANOMALOUS
    changed = (episode.query["tabular"] != reader.x[episode.query_ids]).any(1)
    assert torch.equal(changed, anomalous)
    assert torch.equal(episode.support["tabular"], reader.x[episode.support_ids])
    # Without it, which is the default and what DataModules build for val and test, nothing is made up.
    with pytest.raises(ValueError, match="rows/a has 0 anomalous samples"):
        EpisodeSampler(DomainTaskPool([domain]), EpisodeSpec(), "test", 0)
    real = DomainTaskPool([Domain("rows/b", reader, np.arange(40), np.arange(40, 60))])
    for i in range(20):
        episode = EpisodeSampler(real, EpisodeSpec(), "test", 0).episode(0, i)
        assert torch.equal(episode.query["tabular"], reader.x[episode.query_ids])
