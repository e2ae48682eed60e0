"""Episodes out of tables of any length: `python benchmarks/table_size.py --json benchmarks/results/table_size.json`.

Writes Parquet files of 20 columns, block by block; has each mapped into a cache in a process of its own; then, in a
fresh process each, draws episodes of 10 support and 20 query rows and tells how many a second come and what memory the
process holds after them: *anonymous* is what it has asked for, *total* counts mapped files and libraries too (Linux's
RssAnon and VmRSS); in brackets what was added since before the table was opened. Needs 2 GB of disk for the longest
table, given back at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from rich.console import Console
from rich.table import Table

from metaad_zoo.data import TabularEpisodes
from metaad_zoo.data.big_tables import read_big_table
from metaad_zoo.episodes import EpisodeSpec
from metaad_zoo.evaluation.protocol import environment

COLUMNS, ANOMALOUS, BLOCK = 20, 0.05, 100_000
SPEC = EpisodeSpec(support_normal=10, query_normal=10, query_anomalous=10)


def write_table(path: Path, rows: int) -> None:
    """A Parquet file of noise with a label column, written block by block."""
    rng = np.random.default_rng(0)
    schema = pa.schema([*((f"f{i}", pa.float32()) for i in range(COLUMNS)), ("anomaly", pa.uint8())])
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, BLOCK):
            n = min(BLOCK, rows - start)
            columns = [*rng.standard_normal((COLUMNS, n), np.float32), (rng.random(n) < ANOMALOUS).astype(np.uint8)]
            writer.write_table(pa.table([pa.array(c) for c in columns], schema))


def resident() -> dict[str, float]:
    """MiB of this process, as Linux counts them: now, and at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: float(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}
    return {"anonymous": sizes["RssAnon"], "total": sizes["VmRSS"], "peak": sizes["VmHWM"]}


def map_table(path: Path, cache: Path) -> dict[str, Any]:
    """Seconds and peak memory of the first opening; to be called in a fresh process."""
    before, start = resident(), time.perf_counter()
    read_big_table(path, cache=cache)
    return {"seconds": time.perf_counter() - start, "peak": resident()["peak"], "before": before["total"]}


def draw_episodes(path: Path, cache: Path, episodes: int) -> dict[str, Any]:
    """Speed and memory of episodes out of a mapped table; to be called in a fresh process."""
    settings: dict[str, Any] = {"splits": {"test": ["*"]}, "cache": str(cache), "memory_limit": 0.0}
    before = resident()
    data = TabularEpisodes("own", str(path), episode=SPEC, **settings)
    sampler = data.sampler("test")
    sampler.episode(0, 0)
    start = time.perf_counter()
    for i in range(episodes):
        sampler.episode(0, i)
    seconds = time.perf_counter() - start
    return {"episodes_per_second": episodes / seconds, "before": before, "after": resident()}


def ask(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure(rows: int, episodes: int, folder: Path) -> dict[str, Any]:
    path, cache = folder / f"rows{rows}.parquet", folder / "cache"
    write_table(path, rows)
    mapped = ask("--map", str(path), str(cache))
    drawn = ask("--draw", str(path), str(cache), "--episodes", str(episodes))
    row = {"rows": rows, "file_mib": path.stat().st_size / 2**20, "mapping": mapped, **drawn}
    path.unlink()
    return row


def result_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "rows", "file", "mapping, s", "peak then", "episodes/s", "anonymous", "total", title="tables on disk, MiB"
    )
    for row in rows:
        after, before, mapping = row["after"], row["before"], row["mapping"]
        table.add_row(
            f"{row['rows']:,}",
            f"{row['file_mib']:.0f}",
            f"{mapping['seconds']:.1f}",
            f"{mapping['peak']:.0f}",
            f"{row['episodes_per_second']:.0f}",
            f"{after['anonymous']:.0f} ({after['anonymous'] - before['anonymous']:+.0f})",
            f"{after['total']:.0f} ({after['total'] - before['total']:+.0f})",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10**4, 10**6, 10**7])
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--folder", help="for the files; a temporary one otherwise")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--map", nargs=2, metavar=("PATH", "CACHE"), help=argparse.SUPPRESS)
    parser.add_argument("--draw", nargs=2, metavar=("PATH", "CACHE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.map:
        print(json.dumps(map_table(*map(Path, args.map))))
        return
    if args.draw:
        print(json.dumps(draw_episodes(*map(Path, args.draw), args.episodes)))
        return
    rows = []
    for n in args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            rows.append(measure(n, args.episodes, Path(folder)))
    Console(width=None if sys.stdout.isatty() else 120).print(result_table(rows))
    if args.json:
        protocol = {"columns": COLUMNS, "episodes": args.episodes, "episode": SPEC.as_dict()}
        content = {"protocol": protocol, "tables": rows, "environment": environment("cpu")}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
