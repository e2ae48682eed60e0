"""Bytes that processes exchange in an outer step: `python benchmarks/many_devices.py`.

MAML of second order with Conv4 and four tasks a process, trained by Lightning's Trainer with `strategy: ddp` on CPU
processes (gloo), as `configs/trainer/ddp_cpu.yaml` does. Each process counts in every outer step the bytes of the
gradients that DDP reduces (a communication hook), how often it does, the bytes of the buffers that DDP broadcasts, and,
independently of torch, the bytes that the kernel sent through the sockets of the process (TCP_INFO). The first steps,
in which DDP sets up its buckets, are not counted. Theory: a ring all-reduce of the meta-gradient sends
2 (n - 1) / n of its bytes from each of n processes, once an outer step and not once an inner step.

benchmarks/results/many_devices.json is the result.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
CASES = [{"processes": n, "inner_steps": 1} for n in (1, 2, 4, 8)] + [{"processes": 2, "inner_steps": 5}]
TASKS, SHOTS, QUERIES, WIDTH = 4, 10, 20, 32
STEPS, SKIPPED = 12, 4
BYTES_SENT = 200
"""Position of `tcpi_bytes_sent` in Linux's `struct tcp_info`."""


def bytes_sent() -> int:
    """Bytes that this process has sent through its connected TCP sockets."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        if not entry.is_socket():  # closed since, or a file
            continue
        with socket.socket(fileno=os.dup(int(entry.name))) as copy:
            if copy.type == socket.SOCK_STREAM and copy.family in (socket.AF_INET, socket.AF_INET6):
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("Q", info, BYTES_SENT)[0]
    return total


class Batches:
    """Batches of tasks of noise; the number of bytes does not depend on the images."""

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Any]:
        import torch

        from metaad_zoo.episodes import EpisodeBatch

        for _ in range(STEPS):
            labels = torch.arange(QUERIES).remainder(2).expand(TASKS, QUERIES)
            support, query = (torch.rand(TASKS, n, 1, 28, 28) for n in (SHOTS, QUERIES))
            none = torch.zeros(TASKS, SHOTS, dtype=torch.long)
            yield EpisodeBatch({"image": support}, none, {"image": query}, labels, ["noise"] * TASKS)


def train(folder: Path, processes: int, inner_steps: int) -> None:
    """One of the processes; it writes the figures of each outer step to a file of its own."""
    import lightning.pytorch as pl
    import torch
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from metaad_zoo.inner_loop import InnerLoopConfig
    from metaad_zoo.learners import GradientLearner
    from metaad_zoo.learners.training import trainable

    class Count(pl.Callback):
        """Bytes of each outer step."""

        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.now, self.steps = {"reductions": 0, "gradient": 0}, []  # type: ignore[var-annotated]
            trainer.model.register_comm_hook(None, lambda _, bucket: self.reduce(bucket))  # type: ignore[operator,union-attr]

        def reduce(self, bucket: Any) -> Any:
            self.now["reductions"] += 1
            self.now["gradient"] += bucket.buffer().nbytes
            return allreduce_hook(None, bucket)  # type: ignore[arg-type]

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            ddp: Any = trainer.model
            buffers = sum(x.nbytes for x in ddp.modules_buffers) if ddp.will_sync_module_buffers() else 0
            self.steps.append({**self.now, "buffers": buffers, "sent": bytes_sent()})
            self.now = {"reductions": 0, "gradient": 0}

        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            parameters = sum(p.nbytes for p in pl_module.parameters() if p.requires_grad)
            content = {"parameters": parameters, "steps": self.steps}
            (folder / f"{trainer.global_rank}.json").write_text(json.dumps(content))

    torch.manual_seed(0)
    inner_loop = InnerLoopConfig(steps=inner_steps, lr=0.1)
    learner = GradientLearner("conv4", {"width": WIDTH}, {"image": (1, 28, 28)}, inner_loop)
    learner.diagnose_every = 0
    pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp",
        max_epochs=1,
        callbacks=[Count()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(trainable(learner), train_dataloaders=Batches())


def measure(case: Mapping[str, int]) -> dict[str, Any]:
    """Bytes of an outer step and process; medians over the steps, and the largest of the processes."""
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        line = [sys.executable, __file__, "--train", place, str(case["processes"]), str(case["inner_steps"])]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"error: {done.stderr.strip().splitlines()[-1]}")
        ranks = [json.loads(path.read_text()) for path in sorted(Path(place).iterdir())]
    if len(ranks) != case["processes"]:
        raise SystemExit(f"error: expected the figures of {case['processes']} processes, saw {len(ranks)}")
    by_rank: dict[str, list[float]] = {"reductions": [], "gradient": [], "buffers": [], "sent": []}
    for rank in ranks:
        steps = rank["steps"][SKIPPED:]
        for key in ("reductions", "gradient", "buffers"):
            by_rank[key].append(statistics.median(step[key] for step in steps))
        sent = [after["sent"] - before["sent"] for before, after in pairwise(steps)]
        by_rank["sent"].append(statistics.median(sent))
    n, parameters = case["processes"], ranks[0]["parameters"]
    figures = {key: max(values) for key, values in by_rank.items()}
    theory = 2 * (n - 1) / n * parameters
    return {
        **case,
        "parameters": parameters,
        **figures,
        "mean_sent": statistics.mean(by_rank["sent"]),
        "theory": theory,
    }


def rows(result: Mapping[str, Any]) -> list[str]:
    """Table of bytes an outer step and process."""
    from judging_tables import head

    lines = head("processes", "inner steps", "reductions", "meta-gradient", "buffers", "sent by the sockets", "theory")
    for case in result["cases"]:
        cells = [case[key] for key in ("processes", "inner_steps", "reductions")]
        amounts = [f"{case[key]:,.0f}" for key in ("gradient", "buffers", "mean_sent", "theory")]
        lines.append(f"| {' | '.join([*map('{:.0f}'.format, cells), *amounts])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--train", nargs=3, metavar=("FOLDER", "PROCESSES", "INNER_STEPS"), help="be a process")
    options = parser.parse_args()
    if options.train:
        train(Path(options.train[0]), *map(int, options.train[1:]))
        return
    from metaad_zoo.evaluation.protocol import environment

    cases = []
    for case in CASES:
        cases.append(measure(case))
        print(json.dumps(cases[-1]), flush=True)
    protocol = {"backbone": f"conv4, width {WIDTH}", "tasks_per_process": TASKS, "outer_steps": STEPS - SKIPPED}
    result = {"protocol": protocol, "cases": cases, "environment": environment("cpu")}
    print("\n".join(rows(result)))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
