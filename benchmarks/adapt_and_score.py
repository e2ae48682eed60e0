"""What a user waits for, beside what a user would take instead: `python benchmarks/adapt_and_score.py`.

*Commands*: `metaad adapt` and `metaad score` on few samples beside `python -c "import torch"`. *Contests*: import, fit
and score of images beside anomalib's PatchCore, of tables beside PyOD and scikit-learn, of series beside stumpy and
PyOD. *Published*: seconds of each published model beside 1-NN on the same samples (`knn`).

Each command and contestant is a new process with one thread; they take turns for some rounds. A first round of the
commands fills Python's cache of bytecode and is not counted. Ratios are those of processor seconds, which tell the work
of one core also on a busy machine; each is the median over the rounds. Memory is the peak of a command's process, and
what fit and score add to that of a contestant.

`--folder` is for the virtual environments of anomalib and stumpy, see `peers.py`. METAAD_DATA names the folder of
nab.npz and smd.npz. benchmarks/results/adapt_and_score.json is the result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# The scripts beside this one import torch and the package: only where the time of an import is not measured.

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES: dict[str, int] = {"support": 10, "scored": 30, "size": 224}
TABLE: dict[str, int] = {"support": 10, "scored": 1_000_000, "columns": 10}
SERIES = {
    "nab": ("realAWSCloudwatch__ec2_network_in_257a54", 1000, 3000),
    "smd": ("machine-1-6", 2000, 1000),
}
"""Name of the series, steps of its history and steps that are scored, by data set."""
WINDOW = 32
TABLE_MODEL = "tabular-raw_columns-weighted_experts-unlabelled"
SERIES_MODEL = "sequence-window_statistics-in_context-servers"
TIMES = ("clock", "processor")
Step = Callable[[Any], Any]
Contestant = Callable[[Any], tuple[Callable[[], Any], Step]]
"""Takes the data; returns what fits, and what scores with that."""


# Data


def write_images(folder: Path, n: int, seed: int) -> None:
    """Crops of scikit-learn's two photographs, as PNG files."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photos, size = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")], IMAGES["size"]
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(n):
        photo = photos[i % 2]
        y, x = (int(rng.integers(0, length - size)) for length in photo.shape[:2])
        Image.fromarray(photo[y : y + size, x : x + size]).save(folder / f"{i:03}.png")


def write_csv(path: Path, rows: np.ndarray) -> None:
    names = ",".join(f"c{i}" for i in range(rows.shape[1]))
    np.savetxt(path, rows, fmt="%.4f", delimiter=",", header=names, comments="")


def waves(n: int) -> np.ndarray:
    """Series ``(n, 3)`` of waves with noise."""
    noise = np.random.default_rng(n).normal(0, 0.2, (n, 3))
    return np.sin(np.arange(n)[:, None] / np.array([5.0, 9.0, 17.0])) + noise


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    write_images(folder / "support", IMAGES["support"], 0)
    write_images(folder / "scored", IMAGES["scored"], 1)
    write_images(folder / "five", 5, 2)
    write_csv(folder / "good.csv", rng.normal(size=(TABLE["support"], TABLE["columns"])))
    write_csv(folder / "rows.csv", rng.normal(size=(5, TABLE["columns"])))
    write_csv(folder / "history.csv", waves(1600))
    write_csv(folder / "series.csv", waves(160))


def table_rows(_: Path) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    support, rows = (rng.normal(size=(TABLE[n], TABLE["columns"])).astype(np.float32) for n in ("support", "scored"))
    return support, rows


def series_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """History and steps to score ``(steps, C)`` of a series of a data set, without constant channels."""
    series, history, scored = SERIES[name]
    with np.load(Path(os.environ["METAAD_DATA"]) / f"{name}.npz") as arrays:
        if name == "nab":
            x = arrays[f"{series}__x"].astype(np.float64)[:, None]
            return x[:history], x[history : history + scored]
        first, second = (arrays[f"{series}_{part}"].astype(np.float64) for part in ("train", "test"))
    varies = (first[:history].std(0) > 0) & (second[:scored].std(0) > 0)
    return first[:history, varies], second[:scored, varies]


# Contestants


def ours(model: str, **options: Any) -> Contestant:
    """A detector on arrays or on folders of files."""

    def contestant(data: tuple[Any, Any]) -> tuple[Callable[[], Any], Step]:
        import metaad_zoo as mz

        detector = mz.load_detector(model, **options)
        return lambda: detector.fit(data[0]), lambda fitted: fitted.score(data[1])

    return contestant


def ours_as_patchcore(data: tuple[Path, Path]) -> tuple[Callable[[], Any], Step]:
    """The patch memory with the coreset, grid and score of PatchCore."""
    import metaad_zoo as mz
    from metaad_zoo.learners import PatchMemory
    from metaad_zoo.zoo import Checkpoint

    n = IMAGES["support"] * (IMAGES["size"] // 8) ** 2 // 10
    shape: dict[str, Sequence[int]] = {"image": (3, IMAGES["size"], IMAGES["size"])}
    learner = PatchMemory(
        input_shapes=shape, memory=n, grid="finest", turns=False, subspace=0.0, top=0.0, unit_length=False
    )
    detector = mz.Detector(Checkpoint(learner, [], {}))
    return lambda: detector.fit(data[0]), lambda fitted: fitted.score(data[1])


def anomalib(data: tuple[Path, Path]) -> tuple[Callable[[], Any], Step]:
    """PatchCore with the weights and layers of our backbone, on images in batches of 8."""
    import torch
    from peer_contests import patchcore
    from PIL import Image

    model, mean, std = patchcore()

    def images(folder: Path) -> Any:
        pictures = [np.asarray(Image.open(path), np.float32) / 255 for path in sorted(folder.iterdir())]
        return (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) - mean) / std

    def fit() -> Any:
        model.train()
        with torch.no_grad():
            model(images(data[0]))
            model.subsample_embedding(0.1)
        return model.eval()

    def score(model: Any) -> Any:
        with torch.no_grad():
            return [model(part).pred_score for part in images(data[1]).split(8)]

    return fit, score


def ours_of_series(model: str) -> Contestant:
    """A detector on the windows of a history; every step of the series is scored."""

    def contestant(data: tuple[np.ndarray, np.ndarray]) -> tuple[Callable[[], Any], Step]:
        import metaad_zoo as mz

        detector = mz.load_detector(model)
        window = detector.usual_shapes["sequence"][0]
        n = len(data[0]) // window
        windows = data[0][: n * window].reshape(n, window, -1).astype(np.float32)
        return lambda: detector.fit(windows), lambda fitted: fitted.score_series(data[1], causal=True)

    return contestant


def stumpy(data: tuple[np.ndarray, np.ndarray]) -> tuple[Callable[[], Any], Step]:
    """Matrix profile of the series against its history, the mean over channels."""
    import stumpy as package

    noise = np.random.default_rng(0).normal(size=4 * WINDOW)
    package.stump(noise, WINDOW, noise, ignore_trivial=False)  # numba compiles it: half a minute, counted as import

    def score(history: np.ndarray) -> Any:
        pairs = zip(data[1].T, history.T, strict=True)
        return sum(package.stump(x, WINDOW, past, ignore_trivial=False)[:, 0].astype(float) for x, past in pairs)

    return lambda: data[0], score


def pyod_windows(data: tuple[np.ndarray, np.ndarray]) -> tuple[Callable[[], Any], Step]:
    """KNN on all overlapping windows, as vectors."""
    from pyod.models.knn import KNN

    def vectors(x: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(x, WINDOW, 0).reshape(len(x) - WINDOW + 1, -1)

    return lambda: KNN(n_neighbors=1).fit(vectors(data[0])), lambda m: m.decision_function(vectors(data[1]))


def pyod_rows(data: tuple[np.ndarray, np.ndarray]) -> tuple[Callable[[], Any], Step]:
    from pyod.models.knn import KNN

    return lambda: KNN(n_neighbors=1).fit(data[0]), lambda fitted: fitted.decision_function(data[1])


def scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> tuple[Callable[[], Any], Step]:
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=1, n_jobs=1)
    return lambda: model.fit(data[0]), lambda fitted: fitted.kneighbors(data[1])


OF_SERIES: dict[str, Contestant] = {
    "stumpy, matrix profile": stumpy,
    "PyOD, KNN on windows": pyod_windows,
    "metaad_zoo, default (series_experts)": ours_of_series("series"),
    f"metaad_zoo, {SERIES_MODEL}": ours_of_series(SERIES_MODEL),
}
CONTESTS: dict[str, dict[str, Contestant]] = {
    "images": {
        "anomalib, PatchCore": anomalib,
        "metaad_zoo, default (patch_memory)": ours("image"),
        "metaad_zoo, patch_memory with PatchCore's coreset and grid": ours_as_patchcore,
    },
    "table": {
        "PyOD, KNN": pyod_rows,
        "scikit-learn, NearestNeighbors": scikit_learn,
        "metaad_zoo, default (knn)": ours("knn"),
        f"metaad_zoo, {TABLE_MODEL}": ours(TABLE_MODEL),
    },
    "nab": OF_SERIES,
    "smd": OF_SERIES,
}
"""The first contestant is the peer with which the others are compared."""
DATA: dict[str, Callable[[Path], Any]] = {
    "images": lambda folder: (folder / "support", folder / "scored"),
    "table": table_rows,
    "nab": lambda _: series_of("nab"),
    "smd": lambda _: series_of("smd"),
}
WORK = {
    "images": "{support} images of {size} x {size} pixels, then {scored}".format(**IMAGES),
    "table": "{support} rows of {columns} columns, then {scored:,}".format(**TABLE),
    **{name: f"{name}: history of {n:,} steps, then {scored:,}" for name, (_, n, scored) in SERIES.items()},
}


def marks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def contestant(contest: str, name: str, folder: Path) -> dict[str, Any]:
    """Seconds of import, fit and score by clock and processor, and MiB that fit and score add, of this process."""
    data = DATA[contest](folder)
    points = [marks()]
    fit, score = CONTESTS[contest][name](data)
    points.append(marks())
    from inner_loop import resident

    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    points.append(marks())
    fitted = fit()
    points.append(marks())
    score(fitted)
    points.append(marks())
    spans = zip(("load", "", "fit", "score"), points[:-1], points[1:], strict=True)
    seconds = {step: {of: end[k] - start[k] for k, of in enumerate(TIMES)} for step, start, end in spans if step}
    return {"seconds": seconds, "added_mib": resident("VmHWM") - before}


# Processes

LAUNCH = """
import json, os, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ), 0)
taken = {"clock": time.perf_counter() - start, "processor": usage.ru_utime + usage.ru_stime}
with open(sys.argv[1], "w") as file:
    json.dump({**taken, "peak_mib": usage.ru_maxrss / 1024, "status": status}, file)
"""
"""A small process that starts the measured one: Linux counts the memory of the parent as a peak of its child."""


def child(command: Sequence[str], folder: Path) -> tuple[dict[str, float], str]:
    """Seconds by clock and processor and peak MiB of a new process, and its standard output.

    Raises:
        SystemExit: it fails; its errors are given.
    """
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    usage = folder / "usage.json"
    line = [sys.executable, "-S", "-c", LAUNCH, str(usage), *command]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    figures: dict[str, float] = json.loads(usage.read_text())
    if figures.pop("status"):
        raise SystemExit(f"error: {' '.join(command)} failed:\n{done.stderr}")
    return figures, done.stdout


def commands(number: int) -> dict[str, list[str]]:
    """Command lines of a round; those of `metaad score` use the folders that those of `metaad adapt` write."""
    metaad = [sys.executable, "-m", "metaad_zoo.cli"]
    of = {"table": ("good.csv", "rows.csv"), "series": ("history.csv", "series.csv"), "image": ("support", "five")}
    lines = {f"import {name}": [sys.executable, "-c", f"import {name}"] for name in ("torch", "timm")}
    for kind, (support, _) in of.items():
        lines[f"metaad adapt {kind}"] = [*metaad, "adapt", kind, "--support", support, "--out", f"{kind}{number}"]
    for kind, (_, data) in of.items():
        out = f"scores_{kind}.csv"
        lines[f"metaad score, {kind}"] = [*metaad, "score", f"{kind}{number}", "--data", data, "--out", out]
    return lines


def median_of(runs: Sequence[Mapping[str, Any]], *keys: str) -> float:
    values: list[Any] = list(runs)
    for key in keys:
        values = [value[key] for value in values]
    return statistics.median(values)


def ratio(runs: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]], *keys: str) -> float:
    """Median over the rounds of a figure, divided by that of the first contestant."""
    return statistics.median(median_of([a], *keys) / median_of([b], *keys) for a, b in zip(runs, first, strict=True))


def measure_commands(folder: Path, rounds: int) -> dict[str, Any]:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands(0)}
    for number in range(rounds + 1):
        for name, line in commands(number).items():
            taken, _ = child(line, folder)
            if number:
                runs[name].append(taken)
    first = runs["import torch"]
    return {
        name: {
            **{key: median_of(taken, key) for key in (*TIMES, "peak_mib")},
            **{f"{of}_over_import_torch": ratio(taken, first, of) for of in TIMES},
        }
        for name, taken in runs.items()
    }


def measure_contest(contest: str, folder: Path, rounds: int, pythons: Mapping[str, str]) -> dict[str, Any]:
    """Figures of each contestant, also as ratios to the first."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTS[contest]}
    for _ in range(rounds):
        for name, parts in runs.items():
            python = pythons.get(name.partition(",")[0], sys.executable)
            line = [python, str(Path(__file__).resolve()), "--contestant", contest, name, str(folder)]
            run = json.loads(child(line, folder)[1].splitlines()[-1])
            work = {of: run["seconds"]["fit"][of] + run["seconds"]["score"][of] for of in TIMES}
            parts.append({**run, "work": work})
    first = next(iter(runs.values()))
    figures: dict[str, Any] = {}
    for name, parts in runs.items():
        steps = {step: {of: median_of(parts, "seconds", step, of) for of in TIMES} for step in first[0]["seconds"]}
        over = {of: ratio(parts, first, "work", of) for of in TIMES}
        figures[name] = {"seconds": steps, "over_first": over, "added_mib": median_of(parts, "added_mib")}
    return {"work": WORK[contest], "contestants": figures}


# Published models

SHOTS, QUERIES, LARGE_QUERIES, LARGE = 10, 200, 20, 1e5
"""Samples to adapt to and to score, fewer of them where one has more values than LARGE."""


def published(rounds: int) -> dict[str, Any]:
    """Processor seconds of each published model and of `knn` on the same noise; both take turns in this process."""
    import torch

    from metaad_zoo.evaluation.baselines import create_baseline
    from metaad_zoo.zoo import list_checkpoints, load_checkpoint, locate

    torch.set_num_threads(1)
    figures = {}
    for name in list_checkpoints():
        learner, generator = load_checkpoint(locate(name)).learner.eval(), torch.Generator().manual_seed(0)
        shapes = {m: [8 if n == -1 else n for n in shape] for m, shape in learner.arguments()["input_shapes"].items()}
        queries = LARGE_QUERIES if any(np.prod(shape) > LARGE for shape in shapes.values()) else QUERIES
        support, query = (
            {m: torch.rand(n, *shape, generator=generator) for m, shape in shapes.items()} for n in (SHOTS, queries)
        )
        methods: dict[str, Any] = {"model": learner, "knn": create_baseline("knn")}
        seconds: dict[str, list[dict[str, float]]] = {who: [] for who in methods}
        for _ in range(rounds + 1):
            for who, method in methods.items():
                start = time.process_time()
                adapted = method.adapt(support, torch.zeros(SHOTS, dtype=torch.long))
                middle = time.process_time()
                adapted.score(query)
                seconds[who].append({"fit": middle - start, "score": time.process_time() - middle})
        runs = {who: parts[1:] for who, parts in seconds.items()}
        figures[name] = {
            "queries": queries,
            **{who: {step: median_of(parts, step) for step in ("fit", "score")} for who, parts in runs.items()},
            "over_knn": {step: ratio(runs["model"], runs["knn"], step) for step in ("fit", "score")},
        }
    return figures


# Table of the docs


def contest_rows(result: Mapping[str, Any]) -> list[str]:
    """Table of the contests: processor seconds of each step, and memory."""
    from judging_tables import head

    lines = head("work", "method", "import and load, s", "fit, s", "score, s", "times the first", "memory, MiB")
    for contest in result["contests"].values():
        work = contest["work"]
        for name, figures in contest["contestants"].items():
            seconds = [f"{figures['seconds'][step]['processor']:.2g}" for step in ("load", "fit", "score")]
            cells = [work, name, *seconds, f"{figures['over_first']['processor']:.2g}", f"{figures['added_mib']:,.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
            work = ""
    return lines


def command_rows(result: Mapping[str, Any]) -> list[str]:
    """Table of the commands beside `import torch`."""
    from judging_tables import head

    lines = head("new process", "processor seconds", "over import torch", "peak memory, MiB")
    return lines + [
        f"| {name} | {of['processor']:.2f} | {of['processor_over_import_torch']:.2f} | {of['peak_mib']:.0f} |"
        for name, of in result["commands"].items()
    ]


def versions(pythons: Mapping[str, str]) -> dict[str, str]:
    from peers import run

    from metaad_zoo.evaluation.protocol import environment

    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    apart = {name: run(python, "-c", code, name).strip() for name, python in pythons.items()}
    return {**environment("cpu"), "pyod": version("pyod"), **apart, "threads": "1"}


PARTS = ("commands", *CONTESTS, "published")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each command and contestant")
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="folder of the virtual environments")
    parser.add_argument("--json", type=Path, help="file of the figures; parts that are not measured stay as they are")
    parser.add_argument("--contestant", nargs=3, metavar=("CONTEST", "NAME", "DATA"), help="measure this process")
    options = parser.parse_args()
    if options.contestant:
        contest, name, data = options.contestant
        print(json.dumps(contestant(contest, name, Path(data))))
        return
    from peers import make_environment

    pythons = {name: str(make_environment(name, options.folder.resolve())) for name in ("anomalib", "stumpy")}
    result: dict[str, Any] = {"rounds": {}, "commands": {}, "contests": {}, "published": {}}
    if options.json and options.json.exists():
        result |= json.loads(options.json.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as place:
        write_data(Path(place))
        for part in options.only:
            result["rounds"][part] = options.rounds
            if part == "commands":
                result[part] = measure_commands(Path(place), options.rounds)
            elif part == "published":
                result[part] = published(options.rounds)
            else:
                result["contests"][part] = measure_contest(part, Path(place), options.rounds, pythons)
            print(part, json.dumps(result.get(part) or result["contests"][part], indent=1), flush=True)
    result["environment"] = versions(pythons)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
