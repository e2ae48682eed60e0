"""Resident memory over an hour of training, of scoring and of serving: `python benchmarks/soak.py [--minutes 60]`.

Three programs run side by side: `train.py` with a small network and the reference engine; one process that scores
tables, series and images from memory and through `metaad score`; and `metaad serve`, which clients ask without a pause,
one request in eight malformed. Every five seconds the memory of all processes of each program is read from /proc, so
this runs on Linux only. The first minutes are warm-up. After them no block of five minutes may have a median more than
2 % above that of an earlier block. Memory may fall: the kernel drops pages of files that other programs push out.
Anonymous memory, which leaves out libraries and mapped files, is held to the same bound. Writes
benchmarks/results/soak.json and docs/soak.png, and exits with 1 if memory grew or a program failed.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
INTERVAL, BLOCK, BOUND = 5.0, 300.0, 0.02
"""Seconds between two samples, seconds of a block, and the largest rise between medians of blocks."""
CLIENTS, MALFORMED_EVERY = 4, 8
START_MINUTES = 5.0
"""Time to start in, by which training and scoring outlast the sampled minutes."""
MAIN = "from metaad_zoo.cli import main; raise SystemExit(main())"
TRAIN = [
    *("--config", "configs/quickstart.yaml", "--model.backbone_options={width: 8}", "--data.episodes_per_epoch=200"),
    *("--data.val_episodes=20", "--data.test_episodes=8", "--trainer.max_epochs=-1", "--model.schedule=constant"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
]
MODELS = {
    "table": "tabular-columns-maml-generated",
    "series": "sequence-gru-maml-generated",
    "images": "image-conv4-maml-omniglot",
}
SCORE = """
import sys, time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
import numpy as np
import metaad_zoo as mz
from metaad_zoo.cli import main
folder, end = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
samples = dict(np.load(folder / "samples.npz"))
detectors = {name: mz.load_detector(folder / name) for name in samples}
first = {name: detector.score(samples[name]) for name, detector in detectors.items()}
rounds = 0
with open("/dev/null", "w") as null:
    while time.monotonic() < end:
        for name, detector in detectors.items():
            np.testing.assert_array_equal(detector.score(samples[name]), first[name])
            detector.predict(samples[name], alpha=0.2)
            data = str(folder / f"{name}_data") if name == "images" else str(folder / f"{name}_data.csv")
            with redirect_stdout(null), redirect_stderr(null):
                assert main(["score", str(folder / name), "--data", data, "--out", str(folder / "scores.csv")]) == 0
        rounds += 1
        (folder / "rounds").write_text(str(rounds))
"""


@dataclass
class Program:
    """A program under load, and the samples of its memory.

    Attributes:
        process: the started process; its descendants count too.
        seconds: time of each sample since the start, in seconds.
        samples: by measure, a value for each sample: ``resident`` and ``anonymous`` in MiB, ``processes`` and
            ``files`` (open file descriptors).
    """

    process: subprocess.Popen[bytes]
    seconds: list[float] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def take(self, seconds: float) -> None:
        """Append a sample, unless the program has ended."""
        measures = tree_memory(self.process.pid)
        if not measures["processes"]:
            return
        self.seconds.append(round(seconds, 1))
        for name, value in measures.items():
            self.samples.setdefault(name, []).append(round(value, 2))


def tree_memory(pid: int) -> dict[str, float]:
    """Memory in MiB, number of processes and of open files, summed over a process and its descendants."""
    total = {"resident": 0.0, "anonymous": 0.0, "processes": 0, "files": 0}
    waiting = [pid]
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        try:
            rollup = (process / "smaps_rollup").read_text().splitlines()
            values = {name: float(rest.split()[0]) / 1024 for name, _, rest in (x.partition(":") for x in rollup[1:])}
            files = len(list((process / "fd").iterdir()))
            children = " ".join(task.read_text() for task in (process / "task").glob("*/children"))
        except (OSError, ValueError):  # it ended in the meantime
            continue
        total["resident"] += values["Rss"]
        total["anonymous"] += values["Pss_Anon"]
        total["processes"] += 1
        total["files"] += files
        waiting += [int(child) for child in children.split()]
    return total


def judge(seconds: Sequence[float], values: Sequence[float], warm_up: float, block: float = BLOCK) -> dict[str, Any]:
    """Medians of blocks after the warm-up, and whether they agree within the bound.

    Args:
        seconds: times of the samples, in seconds.
        values: memory at these times.
        warm_up: time that is left out, in seconds.
        block: length of a block in seconds; a shorter rest at the end is left out.
    """
    blocks: dict[int, list[float]] = {}
    for at, value in zip(seconds, values, strict=True):
        if at >= warm_up:
            blocks.setdefault(int((at - warm_up) // block), []).append(value)
    whole = int((max(seconds, default=0.0) + 2 * INTERVAL - warm_up) // block)
    medians = [round(statistics.median(blocks[i]), 2) for i in sorted(blocks) if i < whole]
    if len(medians) < 2:
        raise ValueError(f"{len(medians)} whole blocks of {block:g} s after the warm-up; take more --minutes")
    spread = (max(medians) - min(medians)) / medians[0]
    growth = medians[-1] / medians[0] - 1
    rise = max(later / earlier - 1 for i, earlier in enumerate(medians) for later in medians[i:])
    figures = {"spread": round(spread, 5), "growth": round(growth, 5), "rise": round(rise, 5)}
    return {"medians": medians, **figures, "flat": rise <= BOUND}


def write_samples(folder: Path) -> None:
    """Supports and data of the three detectors, as files, and samples in memory."""
    from PIL import Image
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 6)).round(4)
    steps = (np.sin(np.arange(4000)[:, None] / 5) + 0.1 * rng.normal(size=(4000, 1))).round(4)
    for name, values, support in (("table", rows, 20), ("series", steps, 1000)):
        header = ",".join(f"c{i}" for i in range(values.shape[1]))
        for part, lines in (("support", values[:support]), ("data", values)):
            np.savetxt(folder / f"{name}_{part}.csv", lines, "%.4f", ",", header=header, comments="")
    digits = (load_digits().images * 15).astype(np.uint8)
    for part, images in (("support", digits[:10]), ("data", digits[:100])):
        (folder / f"images_{part}").mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).resize((28, 28)).save(folder / f"images_{part}" / f"{i:03}.png")
    series = np.stack([steps[i * 32 : (i + 1) * 32] for i in range(30)]).astype(np.float32)
    images = rng.random((30, 1, 28, 28), np.float32)
    np.savez(folder / "samples.npz", table=rows.astype(np.float32), series=series, images=images)


def adapt(folder: Path) -> None:
    """Adapt the published models to the supports."""
    for name, model in MODELS.items():
        support = folder / (f"{name}_support" if name == "images" else f"{name}_support.csv")
        line = ["adapt", model, "--support", str(support), "--out", str(folder / name)]
        subprocess.run([sys.executable, "-c", MAIN, *line], check=True, capture_output=True, env=surroundings())


def surroundings() -> dict[str, str]:
    """Environment of the programs: one thread, and this repository's package."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "METAAD_REPO": str(REPOSITORY)}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Clients:
    """Threads that ask a server without a pause, and compare each answer with the first one to the same body.

    Args:
        port: port of the server on this machine.
        rows: table of samples, of which each request sends some.
    """

    def __init__(self, port: int, rows: np.ndarray) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.bodies = [json.dumps({"samples": rows[i : i + 1 + i % 7].tolist()}).encode() for i in range(64)]
        self.counts: Counter[str] = Counter()
        self.lock, self.done = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.ask_on, args=(i,), daemon=True) for i in range(CLIENTS)]

    def wait_until_ready(self, seconds: float = 1200) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(1)
        raise SystemExit(f"error: the server at {self.address} was not ready after {seconds:g} s")

    def ask(self, body: bytes) -> tuple[int, bytes]:
        request = urllib.request.Request(f"{self.address}/predict", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    @staticmethod
    def is_as_before(first: bytes, text: bytes) -> bool:
        """Whether two answers agree; which requests are scored together may change the last digit."""
        before, after = (json.loads(x).get("score", [0.0]) for x in (first, text))
        return len(before) == len(after) and bool(np.allclose(before, after, rtol=1e-5, atol=1e-6))

    def ask_on(self, first: int) -> None:
        """Ask until told to stop."""
        expected: dict[int, bytes] = {}
        number = first
        while not self.done.is_set():
            number += 1
            which = number % len(self.bodies)
            malformed = number % MALFORMED_EVERY == 0
            try:
                status, text = self.ask(b'{"samples": [[1, 2]]}' if malformed else self.bodies[which])
            except OSError:
                outcome = "lost"
            else:
                outcome = "refused" if status == 422 else "answered" if status == 200 else "wrong"
                if malformed != (outcome == "refused") or not self.is_as_before(expected.setdefault(which, text), text):
                    outcome = "wrong"
            with self.lock:
                self.counts[outcome] += 1


def start(folder: Path, minutes: float) -> tuple[dict[str, Program], Clients]:
    """Start the three programs and the clients."""
    port = free_port()
    seconds = 60 * (minutes + START_MINUTES)
    limit = f"{timedelta(seconds=round(seconds))}"  # H:MM:SS
    lines = {
        "training": [
            str(REPOSITORY / "train.py"),
            *TRAIN,
            f"--runs={folder / 'runs'}",
            f"--trainer.max_time=00:{limit.zfill(8)}",
        ],
        "scoring": ["-c", SCORE, str(folder), str(seconds)],
        "serving": ["-c", MAIN, "serve", str(folder / "table"), "--port", str(port)],
    }
    programs = {}
    for name, line in lines.items():
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *line], cwd=REPOSITORY, env=surroundings(), stdout=log, stderr=subprocess.STDOUT
            )
        programs[name] = Program(process)
    clients = Clients(port, np.load(folder / "samples.npz")["table"])
    clients.wait_until_ready()
    for thread in clients.threads:
        thread.start()
    return programs, clients


def watch(programs: dict[str, Program], minutes: float) -> None:
    """Sample the memory of all programs for so many minutes."""
    started = time.monotonic()
    for i in range(int(60 * minutes / INTERVAL)):
        time.sleep(max(0.0, started + i * INTERVAL - time.monotonic()))
        for program in programs.values():
            program.take(time.monotonic() - started)


def finish(programs: dict[str, Program], clients: Clients, folder: Path) -> dict[str, Any]:
    """End the programs; what each has done, and its exit status."""
    clients.done.set()
    for thread in clients.threads:
        thread.join(130)
    programs["serving"].process.terminate()
    status = {}
    for name, program in programs.items():
        try:
            status[name] = program.process.wait(900)
        except subprocess.TimeoutExpired:
            program.process.kill()
            status[name] = program.process.wait()
    metrics = folder.glob("runs/*/*/metrics.csv")
    steps = max((int(step or 0) for path in metrics for step in _column(path, "step")), default=0)
    rounds = folder / "rounds"
    work = {
        "training": {"steps": steps},
        "scoring": {"rounds": int(rounds.read_text()) if rounds.exists() else 0},
        "serving": dict(clients.counts),
    }
    logs = {name: (folder / f"{name}.log").read_text(errors="replace").splitlines()[-3:] for name in programs}
    return {
        name: {"exit_status": status[name], **work[name], **({"log": logs[name]} if status[name] else {})}
        for name in programs
    }


def _column(path: Path, name: str) -> list[str]:
    lines = path.read_text().splitlines()
    at = lines[0].split(",").index(name)
    return [line.split(",")[at] for line in lines[1:]]


def draw(result: dict[str, Any], path: Path) -> None:
    """Resident and anonymous memory of each program over time."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(result["programs"]), figsize=(9, 2.6), layout="constrained")
    for axis, (name, program) in zip(axes, result["programs"].items(), strict=True):
        minutes = np.array(program["seconds"]) / 60
        for measure, colour in (("resident", "#4a5568"), ("anonymous", "#c2410c")):
            axis.plot(minutes, program["samples"][measure], color=colour, linewidth=1, label=measure)
        axis.axvspan(0, result["protocol"]["warm_up_minutes"], color="#facc15", alpha=0.3, linewidth=0)
        axis.set(title=name, xlabel="minutes", ylim=(0, None))
    axes[0].set_ylabel("memory in MiB")
    axes[-1].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> int:
    from metaad_zoo.evaluation.protocol import environment

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=10, help="minutes that are not judged")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/results/soak.json")
    parser.add_argument("--plot", type=Path, default=REPOSITORY / "docs/soak.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_samples(folder)
        adapt(folder)
        programs, clients = start(folder, options.minutes)
        try:
            watch(programs, options.minutes)
        finally:
            work = finish(programs, clients, folder)
    result: dict[str, Any] = {
        "protocol": {
            "minutes": options.minutes,
            "warm_up_minutes": options.warm_up,
            "interval_seconds": INTERVAL,
            "block_minutes": BLOCK / 60,
            "largest_rise": BOUND,
            "resident": "sum of Rss over the program's processes, in MiB; anonymous: sum of Pss_Anon",
            "models": MODELS,
            "training": " ".join(TRAIN),
        },
        "programs": {},
        "environment": environment("cpu"),
    }
    good = True
    for name, program in programs.items():
        print(name, json.dumps(work[name]), flush=True)
        judged = {
            measure: judge(program.seconds, program.samples[measure], 60 * options.warm_up)
            for measure in ("resident", "anonymous")
        }
        failed = work[name]["exit_status"] != 0 or bool({"lost", "wrong"} & work[name].keys())
        good &= not failed and all(x["flat"] for x in judged.values())
        result["programs"][name] = {"work": work[name], "judged": judged}
        print(json.dumps(judged), flush=True)
        thinned = {measure: values[::6] for measure, values in program.samples.items()}
        result["programs"][name] |= {"seconds": program.seconds[::6], "samples": thinned}
    options.out.write_text(json.dumps(result, indent=None) + "\n")
    draw(result, options.plot)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
