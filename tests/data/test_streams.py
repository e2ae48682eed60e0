from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from metaad_zoo.data.chunks import Chunk, rebatched
from metaad_zoo.data.point_stream import PointStream
from metaad_zoo.data.read import table_sources
from metaad_zoo.data.read.roles import Schema
from metaad_zoo.data.windows import score_series
from metaad_zoo.modality.samples import as_samples, read_samples
from metaad_zoo.modality.streams import SampleStream


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(table_sources, "CSV_BYTES", 10_000)
    monkeypatch.setattr(table_sources, "ROWS", 700)


def write_table(path, rows, header="a,b,c"):
    np.savetxt(path, np.random.default_rng(0).normal(size=(rows, 3)), "%.5f", ",", header=header, comments="")
    return path


def write_images(folder, n):
    folder.mkdir()
    for i in range(n):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (9, 8), np.uint8)).save(folder / f"{i:04}.png")
    return folder


def write_archive(path, *shape):
    x = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    np.savez_compressed(path, x=x if len(shape) > 2 else x.astype(np.float64))
    return path


@pytest.mark.parametrize(
    ("write", "shapes", "sizes"),
    [
        (lambda p: write_table(p / "t.csv", 9000), {"tabular": (-1,)}, [4096, 4096, 808]),
        (lambda p: write_table(p / "t.csv", 9000), {"sequence": (7, 3)}, [1024, 261]),
        (lambda p: write_table(p / "t.csv", 9000), {"sequence": (-1, 3)}, [1]),
        (lambda p: write_images(p / "i", 300), {"image": (1, 8, 8)}, [256, 44]),
        (lambda p: write_archive(p / "t.npz", 9000, 3), {"tabular": (-1,)}, [4096, 4096, 808]),
        (lambda p: write_archive(p / "t.npz", 9000, 3), {"sequence": (7, 3)}, [1024, 261]),
        (lambda p: write_archive(p / "t.npz", 9000), {"sequence": (7, 1)}, [1024, 261]),
        (lambda p: write_archive(p / "i.npz", 300, 9, 8, 3), {"image": (1, 8, 8)}, [256, 44]),
    ],
    ids=["table", "windows", "whole series", "images", "npz table", "npz windows", "npz one channel", "npz images"],
)
def test_chunks_are_the_whole(write, shapes, sizes, tmp_path):
    path = write(tmp_path)
    chunks = list(SampleStream(path, shapes))
    assert [len(c.names) for c in chunks] == sizes
    assert chunks[-1].done == 1
    whole = as_samples(path, shapes)
    for modality, x in whole.items():
        torch.testing.assert_close(torch.cat([c.samples[modality] for c in chunks]), x, rtol=0, atol=0)
    reading = read_samples(path, shapes)
    assert len(set(reading.names)) == len(reading.names) == len(next(iter(reading.samples.values())))


def test_a_manifest_is_read_in_chunks_and_its_rows_keep_their_numbers(tmp_path):
    write_images(tmp_path / "i", 3)
    rows = [f"i/{k % 3:04}.png,{k % 7}" for k in range(300)]
    (tmp_path / "m.csv").write_text("\n".join(["image,x", *rows]))
    shapes = {"image": (1, 8, 8), "tabular": (1,)}
    chunks = list(SampleStream(tmp_path / "m.csv", shapes))
    assert [len(c.names) for c in chunks] == [256, 44]
    assert chunks[1].names[0] == "257"
    whole = as_samples(tmp_path / "m.csv", shapes)
    for modality, x in whole.items():
        torch.testing.assert_close(torch.cat([c.samples[modality] for c in chunks]), x, rtol=0, atol=0)
    (tmp_path / "m.csv").write_text("\n".join(["image,x", *rows, "i/none.png,3"]))
    with pytest.raises(ValueError, match=r"row 301, column 'image'.*none.png does not exist"):
        list(SampleStream(tmp_path / "m.csv", shapes))


def test_a_manifest_is_never_in_memory_as_a_whole(tmp_path):
    rows = [
        f",s.csv,{k % 7}.00000" if k > 1500 else f",,{k % 7}.00000"
        for k in range(3000)  # no path in the first block
    ]
    (tmp_path / "s.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "m.csv").write_text("\n".join(["image,sequence,x", *rows, ",s.csv,not a number"]))
    shapes = {"sequence": (2, 2), "tabular": (1,)}
    chunks, stream = [], SampleStream(tmp_path / "m.csv", shapes, schemas={"tabular": Schema(("x",))})
    with pytest.raises(ValueError, match=r"m\.csv, column 'x', row 3001: expected numbers, saw 'not a number'"):
        chunks.extend(stream)
    names, samples = [name for chunk in chunks for name in chunk.names], [chunk.samples for chunk in chunks]
    assert 1000 < len(names) < 3000
    assert names == [str(i + 1) for i in range(len(names))]
    x = torch.cat([s["tabular"] for s in samples]).flatten()
    assert x.tolist() == [k % 7 for k in range(len(names))]
    assert torch.cat([s["sequence"] for s in samples]).isnan().all((1, 2)).int().sum() == 1501


def test_an_archive_is_never_in_memory_as_a_whole(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.zeros((100_000, 8)))  # 6 MB
    tracemalloc.start()
    n = sum(len(chunk.names) for chunk in SampleStream(tmp_path / "t.npz", {"tabular": (8,)}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 100_000
    assert peak < 3e6


@pytest.mark.parametrize(
    ("arrays", "shapes", "complaint"),
    [
        ({"z": np.zeros((3, 2))}, {"tabular": (2,)}, "expected an array 'X' or 'x' of numbers, saw neither"),
        ({"x": np.array(["a", "b"])}, {"tabular": (2,)}, "of numbers, saw .*<U1"),
        ({"x": np.zeros((3, 2, 2))}, {"tabular": (2,)}, r"expected table rows of shape \(n, D\)"),
        ({"x": np.zeros((3, 2, 2))}, {"sequence": (2, 2)}, r"expected a series of shape"),
        ({"x": np.zeros((0, 2))}, {"tabular": (2,)}, r"expected table rows"),
    ],
)
def test_what_an_archive_may_not_hold(arrays, shapes, complaint, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=complaint):
        list(SampleStream(tmp_path / "a.npz", shapes))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"a\.npz can't be read as a numpy archive"):
        list(SampleStream(tmp_path / "a.npz", shapes))


def test_several_tables_and_series_of_different_lengths(tmp_path):
    write_table(tmp_path / "one.csv", 10)
    write_table(tmp_path / "two.csv", 6, "c,b,a")
    (chunk,) = SampleStream(tmp_path, {"tabular": (3,)})
    one, two = (as_samples(tmp_path / f, {"tabular": (3,)})["tabular"] for f in ("one.csv", "two.csv"))
    assert chunk.names[-1] == f"{tmp_path / 'two.csv'}:6"
    torch.testing.assert_close(chunk.samples["tabular"], torch.cat([one, two.flip(1)]))
    # Each is one sample for a model of series of any length: not joined, and padded where they must be.
    assert [len(c.names) for c in SampleStream(tmp_path, {"sequence": (-1, 3)})] == [1, 1]
    padded = as_samples(tmp_path, {"sequence": (-1, 3)})["sequence"]
    assert padded.shape == (2, 10, 3)
    assert padded[1, 6:].isnan().all()
    assert not padded[1, :6].isnan().any()


def test_a_series_of_other_channels_is_named(tmp_path):
    write_table(tmp_path / "s.csv", 30)
    with pytest.raises(ValueError, match=r"s\.csv has 3 columns of data .a, b, c., but this model reads series of 1"):
        list(SampleStream(tmp_path / "s.csv", {"sequence": (7, 1)}))


def test_what_fills_no_window_or_is_cut_is_told(tmp_path):
    write_table(tmp_path / "s.csv", 30)
    stream = SampleStream(tmp_path / "s.csv", {"sequence": (7, 3)})
    assert sum(len(chunk.names) for chunk in stream) == 4
    assert ["2 steps fill no window of 7" in sentence for sentence in stream.account] == [True]
    (tmp_path / "m.csv").write_text("sequence,x\n" + "s.csv,1\n" * 300)
    stream = SampleStream(tmp_path / "m.csv", {"sequence": (7, 3), "tabular": (1,)})
    assert [len(chunk.names) for chunk in stream] == [256, 44]
    assert "m.csv: sequences of more than 7 steps are cut at 7" in list(stream.account)


def test_columns_come_by_name_and_text_is_told(tmp_path):
    (tmp_path / "t.csv").write_text("city,b,a\nParis,1,2\nRome,3,4\n")
    schema = Schema(("a", "b"), ignored={"city": "as asked for"})
    stream = SampleStream(tmp_path / "t.csv", {"tabular": (2,)}, schemas={"tabular": schema})
    assert next(iter(stream)).samples["tabular"].tolist() == [[2, 1], [4, 3]]
    assert list(stream.account) == ["t.csv: 'city' left out: as asked for"]
    schema = Schema(("a", "city"), ignored={"b": "as asked for"})
    with pytest.raises(ValueError, match=r"columns \['city'\] hold text or times, but held numbers"):
        list(SampleStream(tmp_path / "t.csv", {"tabular": (2,)}, schemas={"tabular": schema}))


@pytest.mark.parametrize(
    ("stride", "how"), [(1, "mean"), (3, "mean"), (8, "max"), (5, "mean"), (1, "last"), (3, "last"), (8, "last")]
)
@pytest.mark.parametrize("length", [8, 9, 700, 2301])
def test_points_in_blocks_score_as_the_whole(length, stride, how):
    rng = np.random.default_rng(length)
    series = rng.normal(size=(length, 2)).astype(np.float32)
    seen = []

    def scorer(windows):
        # Depends on the batch as well: the same windows have to be scored together.
        seen.append(len(windows["sequence"]))
        return windows["sequence"].square().mean((1, 2)) + 0.01 * len(windows["sequence"])

    cuts = np.sort(rng.integers(0, length, 5))
    blocks = np.split(series, cuts)
    points = PointStream(scorer, 8, stride, how, batch=256)
    parts = [*(points.take(block) for block in blocks), points.end()]
    assert max(seen) <= 256
    np.testing.assert_array_equal(np.concatenate(parts), score_series(scorer, series, 8, stride, how))


def test_points_of_too_short_a_series_have_no_score():
    points = PointStream(len, 8, 1, "mean")
    assert len(points.take(np.zeros((5, 1)))) == 0
    assert np.isnan(points.end()).tolist() == [True] * 5
    with pytest.raises(ValueError, match="stride is 9"):
        PointStream(len, 8, 9, "mean")


def test_rebatched_keeps_order_and_shape():
    blocks = [
        Chunk([f"{k}-{i}" for i in range(n)], {"x": torch.full((n, w), k)}, k / 4)
        for k, n, w in [(0, 5, 2), (1, 1, 2), (2, 2, 3), (3, 9, 3)]
    ]
    batches = list(rebatched(blocks, 4))
    assert [len(c.names) for c in batches] == [4, 2, 4, 4, 3]
    assert [n for c in batches for n in c.names] == [n for b in blocks for n in b.names]
    assert batches[1].samples["x"].shape == (2, 2)


def test_times_index_and_text_are_no_channels(tmp_path):
    rows = "\n".join(f"{i},{i},web,{i % 5},{-i}" for i in range(3000))
    (tmp_path / "s.csv").write_text(f",T,host,temperature,t\n{rows}\n")
    stream = SampleStream(tmp_path / "s.csv", {"sequence": (7, -1)})
    x = torch.cat([chunk.samples["sequence"] for chunk in stream]).flatten(0, 1)
    assert stream.schemas["sequence"].features == ["temperature"]
    assert x.tolist() == [[i % 5] for i in range(2996)]
    reasons = [
        "'T' left out: a time",
        "'' left out: an index",
        "'host' left out: text",
        "'t' left out: it changes by -1",
    ]
    assert [any(part in sentence for sentence in stream.account) for part in reasons] == [True] * 4
    (tmp_path / "s.csv").write_text(f",T,host,temperature,t\n{rows}\n5,5,web,1,1\n")
    with pytest.raises(ValueError, match=r"s\.csv, row 3001: column 'T' goes back by .*sort the rows by time"):
        list(SampleStream(tmp_path / "s.csv", {"sequence": (7, -1)}))
    hosts = Schema(("host",), ignored={"temperature": "as asked for"})
    with pytest.raises(ValueError, match=r"columns \['host'\] hold text or times, but held numbers"):
        list(SampleStream(tmp_path / "s.csv", {"sequence": (7, -1)}, schemas={"sequence": hosts}))
    days = [f"2024-01-{1 + i % 28:02},{i}" for i in range(29)]
    for length in (7, -1):
        (tmp_path / "s.csv").write_text("\n".join(["day,a", *days]))
        with pytest.raises(ValueError, match=r"row 29: column 'day' goes back by .*27\.0 days"):
            list(SampleStream(tmp_path / "s.csv", {"sequence": (length, 1)}))
    (tmp_path / "s.csv").write_text("time\n1\n2\n3\n4\n")
    with pytest.raises(ValueError, match="no column to learn from"):
        list(SampleStream(tmp_path / "s.csv", {"sequence": (2, 1)}))
