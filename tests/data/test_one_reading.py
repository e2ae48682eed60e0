"""Training reads a user's file as fit and score do: the same columns, values and account."""

from __future__ import annotations

import numpy as np
import pandas
from hypothesis import given, settings
from hypothesis import strategies as st

from metaad_zoo.data import SequenceEpisodes, TabularEpisodes
from metaad_zoo.modality.samples import read_samples

COLUMNS = {
    "number": lambda rng, n: rng.normal(size=n),
    "offset": lambda rng, n: rng.normal(size=n) + 1e9,
    "gaps": lambda rng, n: np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
    "counter": lambda rng, n: np.arange(n) + 7,
    "constant": lambda rng, n: np.full(n, 2.5),
    "category": lambda rng, n: rng.choice(["red", "green", "blue"], n),
    "text": lambda rng, n: [f"row {i}" for i in range(n)],
    "truth": lambda rng, n: rng.random(n) < 0.5,
}
KINDS = st.lists(st.sampled_from(sorted(COLUMNS)), max_size=6)
FORMS = st.sampled_from(["csv", "parquet", "semicolons"])


def written(folder, kinds, form, n, rng, **more):
    frame = pandas.DataFrame({"x": rng.normal(size=n)} | {f"{k} {i}": COLUMNS[k](rng, n) for i, k in enumerate(kinds)})
    frame = frame.assign(**more)
    path = folder / f"t.{'parquet' if form == 'parquet' else 'csv'}"
    if form == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, **({"sep": ";", "decimal": ","} if form == "semicolons" else {}))
    return path


@settings(deadline=None, max_examples=25)
@given(KINDS, FORMS, st.integers(35, 60), st.integers(0, 999))
def test_a_table(tmp_path_factory, kinds, form, n, seed):
    rng = np.random.default_rng(seed)
    path = written(tmp_path_factory.mktemp("t"), kinds, form, n, rng, label=0)
    (table,) = TabularEpisodes("own", str(path)).tables
    reading = read_samples(path, {"tabular": (-1,)})
    assert table.columns == reading.schemas["tabular"].features
    assert table.skipped == list(reading.account)
    values = reading.samples["tabular"].numpy()
    np.testing.assert_allclose(table.values, values, rtol=1e-6)
    np.testing.assert_allclose(table.values - table.values[0], values - values[0], rtol=0, atol=1e-6)
    assert table.labels.tolist() == reading.labels.tolist()


@settings(deadline=None, max_examples=25)
@given(KINDS, FORMS, st.integers(40, 60), st.integers(0, 999), st.booleans())
def test_a_series(tmp_path_factory, kinds, form, n, seed, gap):
    rng = np.random.default_rng(seed)
    times = pandas.date_range("2024-01-01", periods=n, freq="min").to_series().reset_index(drop=True)
    times[n // 2 :] += pandas.Timedelta(days=3 * gap)
    path = written(tmp_path_factory.mktemp("s"), kinds, form, n, rng, when=times)
    data = SequenceEpisodes("own", str(path), {"test": ["*"]}, window=5, stride=5)
    (series,) = data.source.series
    reading = read_samples(path, {"sequence": (5, -1)})
    assert series.channels == len(reading.schemas["sequence"].features)
    assert series.breaks == ((n // 2,) if gap else ())
    assert data.source.skipped == [line for line in reading.account if "fill no window" not in line]
    windows = reading.samples["sequence"].numpy()
    starts = [int(name.rpartition(":")[2]) for name in reading.names]
    assert all(not start < b < start + 5 for start in starts for b in series.breaks)
    for start, window in zip(starts, windows, strict=True):
        np.testing.assert_allclose(series.values[start : start + 5], window, rtol=1e-6)
