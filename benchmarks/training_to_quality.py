"""Time to a trained model: `python benchmarks/training_to_quality.py`.

Every contestant is trained on the same one-class episodes of Omniglot until its mean AUROC over fixed validation
episodes, of alphabets that training does not see, reaches 99.0. All have the same Conv4 with the same initial weights,
ten shots, four tasks a step and the same outer optimiser. They take turns of CHECK_EVERY outer steps, in one process
with one thread. Times are processor seconds of the outer steps alone; drawing of episodes and validation are not part
of them. learn2learn takes part where it is installed, as in the environment that `peers.py` makes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peer_contests import omniglot, train_batches
from torch import Tensor, nn

from metaad_zoo.episodes import Episode, EpisodeBatch
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import environment
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner, PrototypicalNetwork
from metaad_zoo.learners.network import anomaly_loss

Samples = dict[str, Tensor]
RESULT = Path(__file__).parent / "results" / "training_to_quality.json"
AUROC, SHOTS, TASKS, CHECK_EVERY, VALIDATION = 0.99, 10, 4, 100, 200
OUTER_LR, CLIP = 0.002, 10.0
NETWORK: dict[str, Any] = {
    "backbone": "conv4",
    "backbone_options": {"width": 32},
    "input_shapes": {"image": (1, 28, 28)},
}
INNER: dict[str, Any] = {"steps": 1, "lr": 0.1}
OURS: dict[str, dict[str, Any]] = {
    "MAML, engine higher": {"engine": "higher"},
    "MAML, engine vectorized": {"engine": "vectorized"},
    "MAML of first order, engine vectorized": {"engine": "vectorized", "order": 1},
    "MAML, learned rates, engine vectorized": {"engine": "vectorized", "learn_lr": "parameter_and_step"},
}
"""By name, settings of the inner loop; the last ones are those of the published model."""
PROTOTYPES = "prototypes"
PEERS = {"learn2learn, MAML": False, "learn2learn, MAML of first order": True}
"""By name, whether the peer leaves second derivatives out."""


@dataclass
class Contestant:
    """What is trained, and how it has gone so far.

    Args:
        module: has the parameters.
        backward: adds the gradient of the outer loss of a batch.
        score: logits ``(n_query,)`` of the query of a task, from its support.
    """

    module: nn.Module
    backward: Callable[[EpisodeBatch], None]
    score: Callable[[Samples, Samples], Tensor]
    seconds: float = 0.0
    steps: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=OUTER_LR)

    @property
    def done(self) -> bool:
        return bool(self.curve) and self.curve[-1][1] >= AUROC

    def train(self, batches: Sequence[EpisodeBatch]) -> None:
        self.module.train()
        start = time.process_time()
        for batch in batches:
            self.optimizer.zero_grad()
            self.backward(batch)
            nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
            self.optimizer.step()
        self.seconds += time.process_time() - start
        self.steps += len(batches)

    def validate(self, episodes: Sequence[Episode]) -> None:
        self.module.eval()
        areas = [auroc(self.score(e.support, e.query), e.query_labels) for e in episodes]
        self.curve.append((self.steps, statistics.mean(areas)))


def normal_labels(support: Samples) -> Tensor:
    return torch.zeros(len(support["image"]), dtype=torch.long)


def ours(name: str) -> Contestant:
    if name == PROTOTYPES:
        learner: Any = PrototypicalNetwork(**NETWORK)
    else:
        learner = GradientLearner(**NETWORK, inner_loop=InnerLoopConfig(**INNER, **OURS[name]))
    return Contestant(
        learner,
        lambda batch: learner.outer_loss(batch).backward(),
        lambda support, query: learner.adapt(support, normal_labels(support)).score(query),
    )


def learn2learn_contestant(first_order: bool) -> Contestant:
    import learn2learn

    network = GradientLearner(**NETWORK, inner_loop=InnerLoopConfig(**INNER)).network
    maml = learn2learn.algorithms.MAML(network, lr=INNER["lr"], first_order=first_order)

    def adapted(support: Samples, labels: Tensor) -> Any:
        clone = maml.clone()
        for _ in range(INNER["steps"]):
            clone.adapt(anomaly_loss(clone(support), labels))
        return clone

    def backward(batch: EpisodeBatch) -> None:
        for support, support_labels, query, query_labels, _ in batch:
            logits = adapted(support, support_labels)(support, query)
            (anomaly_loss(logits, query_labels) / len(batch)).backward()

    def score(support: Samples, query: Samples) -> Tensor:
        clone = adapted(support, normal_labels(support))
        with torch.no_grad():
            scores: Tensor = clone(support, query)
        return scores

    return Contestant(maml, backward, score)


def contestants(seed: int) -> dict[str, Contestant]:
    """All contestants by name, with equal initial weights."""
    makers: dict[str, Callable[[], Contestant]] = {name: lambda n=name: ours(n) for name in (*OURS, PROTOTYPES)}  # type: ignore[misc]
    if importlib.util.find_spec("learn2learn"):
        makers |= {name: lambda f=first: learn2learn_contestant(f) for name, first in PEERS.items()}  # type: ignore[misc]
    made = {}
    for name, make in makers.items():
        torch.manual_seed(seed)
        made[name] = make()
    return made


def run(seed: int, max_steps: int) -> dict[str, Contestant]:
    """Train all contestants on the same episodes until each has reached the AUROC or taken so many steps."""
    data = omniglot(SHOTS, seed=seed)
    validation = list(data.episodes("val", VALIDATION))
    batches = train_batches(data, max_steps, TASKS)
    trained = contestants(seed)
    while part := list(islice(batches, CHECK_EVERY)):
        training = {name: one for name, one in trained.items() if not one.done}
        if not training:
            break
        for name, contestant in training.items():
            contestant.train(part)
            contestant.validate(validation)
            area = 100 * contestant.curve[-1][1]
            print(f"seed {seed}, {name}: {contestant.steps} steps, {contestant.seconds:.0f} s, {area:.2f}", flush=True)
    return trained


def summary(runs: Sequence[Mapping[str, Contestant]]) -> dict[str, Any]:
    """By contestant: steps, episodes and seconds to the AUROC, of each seed and in the median."""
    rows = {}
    for name in runs[0]:
        trained = [run[name] for run in runs]
        reached = all(one.done for one in trained)
        rows[name] = {
            "reached": sum(one.done for one in trained),
            "steps": [one.steps for one in trained],
            "seconds": [round(one.seconds, 2) for one in trained],
            "median_episodes": TASKS * statistics.median(one.steps for one in trained) if reached else None,
            "median_seconds": statistics.median(one.seconds for one in trained) if reached else None,
            "milliseconds_a_step": 1000 * sum(one.seconds for one in trained) / sum(one.steps for one in trained),
            "curves": [[(step, round(area, 5)) for step, area in one.curve] for one in trained],
        }
    return rows


def content(runs: Sequence[Mapping[str, Contestant]], seeds: Sequence[int], max_steps: int) -> dict[str, Any]:
    """What the result file holds."""
    rows = summary(runs)
    peers = [rows[name]["median_seconds"] for name in PEERS if name in rows and rows[name]["median_seconds"]]
    return {
        "auroc": AUROC,
        "seeds": list(seeds),
        "max_steps": max_steps,
        "protocol": {
            "network": NETWORK,
            "inner_loop": INNER,
            "shots": SHOTS,
            "tasks_per_step": TASKS,
            "outer": f"Adam, {OUTER_LR}, gradient norm at most {CLIP:g}",
            "validation_episodes": VALIDATION,
            "check_every": CHECK_EVERY,
            "time": "processor seconds of outer steps, one thread",
        },
        "contestants": rows,
        "best_peer_seconds": min(peers, default=None),
        "environment": environment("cpu") | ({"learn2learn": version("learn2learn")} if PEERS.keys() & rows else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, default=1500)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for seed in options.seeds:
        runs.append(run(seed, options.max_steps))
        result = content(runs, options.seeds[: len(runs)], options.max_steps)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, row in result["contestants"].items():
        print(f"{name}: {row['median_episodes']} episodes, {row['median_seconds']} s")


if __name__ == "__main__":
    main()
