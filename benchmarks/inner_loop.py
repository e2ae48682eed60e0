"""Time and memory of one outer step: `python benchmarks/inner_loop.py --json benchmarks/results/inner_loop.json`.

All contestants take the same outer step of the same learner on the same tasks, in one process, in rounds that take
turns; what is told is the median over rounds of the ratio to `higher` in the same round. learn2learn and TorchOpt take
part where they are installed. The *limit* is what the step's matrix products cost as plain forward and backward passes,
all tasks in one batch of one shared network: to first order one pass on the support for each inner step and one on
support and query, to second order three for each inner step. (A product `x w` takes one product forward and two
backward; differentiating those two takes four more, and the forward once more two: nine, three times three.)

Memory is the peak of a fresh process above what it held when all was loaded (of the device, where that is a GPU).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import functional_call

from metaad_zoo.episodes import EpisodeBatch
from metaad_zoo.evaluation.protocol import environment
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner
from metaad_zoo.learners.network import anomaly_loss

CASES: dict[str, tuple[str, str, dict[str, Any], tuple[int, ...]]] = {
    "Conv4-32, 28x28": ("image", "conv4", {"width": 32}, (1, 28, 28)),
    "MLP 3x128, 32 columns": ("tabular", "mlp", {"widths": (128, 128, 128)}, (32,)),
    "GRU-64, 64 steps": ("sequence", "gru", {"width": 64}, (64, 4)),
    "transformer 2x64, 64 steps": ("sequence", "transformer", {"width": 64, "layers": 2}, (64, 4)),
}
COMPILED = ("MLP 3x128, 32 columns",)
"""Cases whose outer step is also compiled (inner_loop.compile): those of which that takes less than a minute."""
SUPPORT, QUERY, STEPS, LR = 10, 20, 5, 0.01
Run = Callable[[], object]


def make_learner(case: str, device: str, **inner_loop: Any) -> GradientLearner:
    """The case's learner; equal weights for equal cases."""
    modality, backbone, options, shape = CASES[case]
    torch.manual_seed(0)
    settings: dict[str, Any] = {"steps": STEPS, "lr": LR, **inner_loop}
    return GradientLearner(backbone, options, {modality: shape}, InnerLoopConfig(**settings)).to(device)


def make_batch(case: str, tasks: int, device: str) -> EpisodeBatch:
    """One-class episodes of noise."""
    modality, _, _, shape = CASES[case]
    g = torch.Generator().manual_seed(1)
    return EpisodeBatch(
        support={modality: torch.randn(tasks, SUPPORT, *shape, generator=g)},
        support_labels=torch.zeros(tasks, SUPPORT, dtype=torch.long),
        query={modality: torch.randn(tasks, QUERY, *shape, generator=g)},
        query_labels=torch.tensor([0, 1]).repeat_interleave(QUERY // 2).repeat(tasks, 1),
        tasks=[f"task{i}" for i in range(tasks)],
    ).to(device)


def outer_step(learner: GradientLearner, batch: EpisodeBatch) -> None:
    learner.zero_grad()
    learner.outer_loss(batch).backward()


def learn2learn_step(learner: GradientLearner, batch: EpisodeBatch, order: int) -> Run:
    import learn2learn  # type: ignore[import-not-found]

    maml = learn2learn.algorithms.MAML(learner.network, lr=LR, first_order=order == 1)

    def run() -> None:
        maml.zero_grad()
        for support, support_labels, query, query_labels, _ in batch:
            clone = maml.clone()
            for _ in range(STEPS):
                clone.adapt(anomaly_loss(clone(support), support_labels))
            (anomaly_loss(clone(support, query), query_labels) / len(batch)).backward()

    return run


def plain_step(learner: GradientLearner, batch: EpisodeBatch, order: int) -> Run:
    """Descent in ten lines of torch, task after task: `higher` over it is what the reference engine costs."""
    network = learner.network
    start = dict(network.named_parameters())

    def run() -> None:
        learner.zero_grad()
        for support, support_labels, query, query_labels, _ in batch:
            weights: dict[str, Tensor] = dict(start)
            for _ in range(STEPS):
                at = weights if order == 2 else {name: p.detach().requires_grad_() for name, p in weights.items()}
                loss = anomaly_loss(functional_call(network, at, (support,)), support_labels)
                gradients = torch.autograd.grad(loss, list(at.values()), create_graph=order == 2)
                weights = {name: p - LR * g for (name, p), g in zip(weights.items(), gradients, strict=True)}
            logits = functional_call(network, weights, (support, query))
            (anomaly_loss(logits, query_labels) / len(batch)).backward()

    return run


def torchopt_step(learner: GradientLearner, batch: EpisodeBatch) -> Run:
    """TorchOpt's differentiable optimiser; it has no first order."""
    import torchopt  # type: ignore[import-not-found]

    network = learner.network
    parameters = list(network.parameters())

    def run() -> None:
        for p in parameters:
            p.grad = None
        start = torchopt.extract_state_dict(network, by="reference")
        for support, support_labels, query, query_labels, _ in batch:
            optimiser = torchopt.MetaSGD(network, lr=LR)
            for _ in range(STEPS):
                optimiser.step(anomaly_loss(network(support), support_labels))
            (anomaly_loss(network(support, query), query_labels) / len(batch)).backward()
            torchopt.recover_state_dict(network, start)

    return run


def limit(learner: GradientLearner, batch: EpisodeBatch, order: int) -> Run:
    """The plain passes that the step amounts to, in parts of as many tasks as our engine takes."""
    network, modality = learner.network, learner.network.modality
    parameters = list(network.parameters())

    def one_pass(x: Tensor) -> None:
        logits = network({modality: x})
        torch.autograd.grad(anomaly_loss(logits, torch.zeros_like(logits)), parameters)

    def run() -> None:
        for part in batch.parts(learner.tasks_at_once(len(batch))):
            support, query = part.support[modality], part.query[modality]
            for _ in range(STEPS * (3 if order == 2 else 1)):
                one_pass(support.flatten(0, 1))
            one_pass(torch.cat([support, query], 1).flatten(0, 1))

    return run


def contestants(case: str, tasks: int, order: int, device: str, compiles: bool) -> dict[str, Run]:
    batch = make_batch(case, tasks, device)
    ours = {engine: make_learner(case, device, engine=engine, order=order) for engine in ("higher", "vectorized")}
    runs: dict[str, Run] = {name: (lambda x=learner: outer_step(x, batch)) for name, learner in ours.items()}  # type: ignore[misc]
    if compiles:
        compiled = make_learner(case, device, engine="vectorized", order=order, compile=True)
        runs["compiled"] = lambda: outer_step(compiled, batch)
    runs["plain descent"] = plain_step(make_learner(case, device), batch, order)
    if importlib.util.find_spec("learn2learn"):
        runs["learn2learn"] = learn2learn_step(make_learner(case, device), batch, order)
    if importlib.util.find_spec("torchopt") and order == 2:
        runs["TorchOpt"] = torchopt_step(make_learner(case, device), batch)
    runs["limit"] = limit(ours["vectorized"], batch, order)
    return runs


def on_processor_time(device: str) -> bool:
    """Whether processor seconds are taken: of one thread they are the step's own, whatever else the machine does."""
    return device == "cpu" and torch.get_num_threads() == 1


def timed(run: Run, device: str) -> float:
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    clock = time.process_time if on_processor_time(device) else time.perf_counter
    synchronise()
    start = clock()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # not every contestant sees to that
        run()
    synchronise()
    return clock() - start


def measure(case: str, tasks: int, order: int, rounds: int, device: str, compiles: bool) -> dict[str, Any]:
    """Seconds and speed over `higher` of every contestant."""
    runs = contestants(case, tasks, order, device, compiles)
    for run in runs.values():
        timed(run, device)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(timed(run, device))
    return {
        "case": case,
        "tasks": tasks,
        "order": order,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "over_higher": {
            name: statistics.median(h / s for h, s in zip(seconds["higher"], values, strict=True))
            for name, values in seconds.items()
        },
    }


MEMORY_SETTINGS: dict[str, dict[str, Any]] = {
    "higher, all losses summed first": {"engine": "higher", "tasks_at_once": 10_000},
    "higher, task by task": {"engine": "higher"},
    "vectorized, all tasks at once": {"engine": "vectorized", "tasks_at_once": 10_000},
    "vectorized": {"engine": "vectorized"},
    "vectorized, checkpointed": {"engine": "vectorized", "checkpoint_steps": True},
    "vectorized, task by task, checkpointed": {"engine": "vectorized", "checkpoint_steps": True, "tasks_at_once": 1},
    "implicit (imaml)": {"engine": "vectorized", "order": "implicit", "proximal": 1.0},
}


def peak_memory(case: str, setting: str, steps: int, tasks: int, device: str) -> float:
    """MiB that one outer step adds; to be called in a fresh process."""
    learner = make_learner(case, device, **{**MEMORY_SETTINGS[setting], "steps": steps})
    small = make_learner(case, device, **{**MEMORY_SETTINGS[setting], "steps": 1})
    outer_step(small, make_batch(case, 1, device))  # loads every kernel
    batch = make_batch(case, tasks, device)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        outer_step(learner, batch)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak so far; a child starts with its parent's
    before = resident("VmRSS")
    outer_step(learner, batch)
    return resident("VmHWM") - before


def resident(key: str) -> float:
    """MiB of this process, as Linux counts them now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def memory_rows(case: str, tasks: int, device: str) -> Iterator[dict[str, Any]]:
    for setting in MEMORY_SETTINGS:
        peaks = {}
        for steps in (1, 5, 10):
            ask = ["--peak", case, setting, str(steps), "--tasks", str(tasks), "--device", device]
            done = subprocess.run([sys.executable, __file__, *ask], capture_output=True, text=True, check=True)
            peaks[str(steps)] = float(done.stdout)
        yield {"case": case, "tasks": tasks, "setting": setting, "mib_by_steps": peaks}


def speed_table(rows: list[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    table = Table(
        "case", "tasks", "order", "higher, s", *(n for n in names if n != "higher"), title="speed over higher"
    )
    for row in rows:
        ratios = (f"{row['over_higher'][n]:.2f}x" if n in row["over_higher"] else "" for n in names if n != "higher")
        table.add_row(row["case"], str(row["tasks"]), str(row["order"]), f"{row['seconds']['higher']:.3f}", *ratios)
    return table


def memory_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "case", "tasks", "setting", "1 step", "5 steps", "10 steps", title="peak memory of one outer step, MiB"
    )
    for row in rows:
        peaks = (f"{row['mib_by_steps'][s]:.0f}" for s in ("1", "5", "10"))
        table.add_row(row["case"], str(row["tasks"]), row["setting"], *peaks)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--tasks", nargs="+", type=int, default=[4, 8, 16, 32])
    parser.add_argument("--orders", nargs="+", type=int, default=[1, 2], choices=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; with 1, processor seconds are measured")
    parser.add_argument(
        "--compile", nargs="*", default=list(COMPILED), choices=list(CASES), help="cases to compile too"
    )
    parser.add_argument("--only", choices=["speed", "memory"], help="other figures of an existing file stay")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--peak", nargs=3, metavar=("CASE", "SETTING", "STEPS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.peak:
        print(peak_memory(args.peak[0], args.peak[1], int(args.peak[2]), args.tasks[0], args.device))
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    speed = []
    for case in args.cases if args.only != "memory" else []:
        for tasks in args.tasks:
            for order in args.orders:
                speed.append(measure(case, tasks, order, args.rounds, args.device, case in args.compile))
                print(f"{case}, {tasks} tasks, order {order}: {speed[-1]['over_higher']}", file=sys.stderr, flush=True)
    memory = [] if args.only == "speed" else [row for c in args.cases for row in memory_rows(c, 16, args.device)]
    for rows, table in ((speed, speed_table), (memory, memory_table)):
        if rows:
            console.print(table(rows))
    if args.json:
        versions = environment(args.device) | {"threads": torch.get_num_threads()}
        clock = "processor" if on_processor_time(args.device) else "wall"
        protocol = {"support": SUPPORT, "query": QUERY, "inner_steps": STEPS, "rounds": args.rounds, "clock": clock}
        content = {"protocol": protocol, "speed": speed, "memory": memory, "environment": versions}
        if args.only and args.json.is_file():
            before = json.loads(args.json.read_text(encoding="utf-8"))
            if args.only == "speed":
                measured = {(row["case"], row["tasks"], row["order"]) for row in speed}
                old = [row for row in before["speed"] if (row["case"], row["tasks"], row["order"]) not in measured]
                content["speed"] = old + speed
            content = before | {args.only: content[args.only]}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
