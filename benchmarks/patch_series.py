"""Memory of windows of series with a meta-trained encoder.

    python benchmarks/patch_series.py DATA --cache FOLDER --json FILE

DATA is the folder that holds smap.npz, asd.npz, smd.npz, tep.npz and nab.npz. The score of a window of 32 steps is the
distance to the nearest of fifty windows of the series' history, in an embedding. The embedding is a small CNN on each
channel, random or trained by a contrastive loss: on the history from scratch, on the series of other families, or on
these and then for a few steps on the history. It may also be the window statistics changed by a CNN, which is trained
to rank anomalies of other families. PaAno (Park and Kang, ICLR 2026) is trained on each history, at a quarter of its
width and with fewer and smaller batches. Each group of families is left out in turn. Controls are the memory of window
statistics, and `series_experts` alone and with a memory as a seventh expert. Scores are judged point by point.
benchmarks/results/patch_series.json is the result.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from metaad_zoo.atomic_write import replacing, write_whole
from metaad_zoo.backbones.window_statistics import WindowStatistics
from metaad_zoo.data.known.catalog import DATASETS
from metaad_zoo.data.series import Series
from metaad_zoo.data.synthetic.registry import create_synthetic
from metaad_zoo.episodes import SupportScaling
from metaad_zoo.evaluation.baselines.series_experts import EXPERTS, SeriesExperts
from metaad_zoo.evaluation.metrics import auroc
from metaad_zoo.evaluation.protocol import environment, paired_difference

FAMILIES = ("smap", "asd", "smd", "tep", "nab")
GROUPS = (("smap",), ("asd", "smd"), ("tep",), ("nab",))
"""Families that are left out of the training together: the machines of asd and smd are both servers."""
WINDOW, SHOTS, STRIDE = 32, 50, 8
LONGEST, LIMIT = 10_000, 10.0
"""Points of a test part that are scored, and the largest absolute value, in units of the support."""
CHANNELS = 12
"""Most channels of a series in one training step."""
HISTORY_SHARE = 0.3
"""Share of a series of nab that is its history; the other families state theirs."""
FOLDS = 5
"""Blocks of the support; the own scores of its windows leave their block out."""
STEPS, INNER, INNER_RATE, SCRATCH = 160, 20, 1e-3, 100
"""Steps of a meta-training; of an adaptation, and its learning rate; of a training from scratch."""
CONTROL, EQUAL_MEAN = "nearest statistics", "series_experts"
BY_CHANNEL = ", by channel"
"""End of the names of memories whose channels look for their nearest windows alone."""
SEVENTH = (CONTROL, "contrast, any length", "statistics")
"""Memories that join `series_experts`."""
Row = dict[str, Any]
KINDS = ("spike", "drift", "level_shift", "drop_out", "time_warp", "frequency", "noise")


@dataclass
class Recording:
    """One series in the units of its support.

    Attributes:
        history: ``(n, C)``; ``starts`` are the first steps of its windows without a labelled anomaly.
        support: ``(K, 32, C)``, windows evenly spaced over the history.
        test: ``(m, C)`` with ``labels`` ``(m,)``.
    """

    family: str
    name: str
    history: Tensor
    starts: np.ndarray
    support: Tensor
    test: Tensor
    labels: np.ndarray

    @property
    def moving(self) -> np.ndarray:
        """Channels that vary in the support."""
        return np.flatnonzero((self.support.std((0, 1)) > 0).numpy())


def recording(family: str, series: Series) -> Recording | None:
    """The series with its history cut into windows; None where it holds too little."""
    assert series.labels is not None
    split = series.support_until or int(HISTORY_SHARE * len(series.values))
    values = torch.from_numpy(np.asarray(series.values, dtype=np.float64))
    values = values[:, values.nan_to_num(0.0).std(0) > 0]
    labels = series.labels[split : split + LONGEST].astype(int)
    starts = np.arange(split - WINDOW + 1)
    clean = np.lib.stride_tricks.sliding_window_view(series.labels[:split], WINDOW).max(1) == 0
    apart = starts[::WINDOW][clean[::WINDOW]]
    if len(labels) < WINDOW or len(apart) < 5 or labels.min() == labels.max():
        return None
    if len(apart) > SHOTS:
        apart = apart[np.linspace(0, len(apart) - 1, SHOTS).round().astype(int)]
    scaling = SupportScaling.fit(windows(values, apart), "standard")
    scaled = scaling.apply(values.unsqueeze(0), LIMIT)[0].nan_to_num(0.0).float()
    history, test = scaled[:split], scaled[split : split + LONGEST]
    return Recording(family, series.name, history, starts[clean], windows(history, apart), test, labels)


def windows(values: Tensor, starts: np.ndarray) -> Tensor:
    """Windows ``(n, 32, C)`` of a series ``(T, C)``."""
    return values[torch.from_numpy(starts[:, None] + np.arange(WINDOW))]


def recordings(data: Path) -> list[Recording]:
    """All series that have a history, a test part and anomalies in it."""
    drawn = ((family, series) for family in FAMILIES for series in DATASETS[family](data).series)
    return [made for family, series in drawn if (made := recording(family, series)) is not None]


class ChannelEncoder(nn.Module):
    """Embeds each channel of a window alone: three convolutions, mean and maximum over time, a linear head.

    Args:
        width: channels of the second and third convolution.
        out: length of an embedding.
        unit_length: whether embeddings have length 1.
    """

    def __init__(self, width: int = 32, out: int = 32, unit_length: bool = True) -> None:
        super().__init__()
        self.unit_length = unit_length
        self.body = nn.Sequential(
            *(nn.Conv1d(1, 16, 7, stride=2, padding=3), nn.ReLU()),
            *(nn.Conv1d(16, width, 5, stride=2, padding=2), nn.ReLU()),
            *(nn.Conv1d(width, width, 3, padding=1), nn.ReLU()),
        )
        self.head = nn.Linear(2 * width, out)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 32, C)`` to ``(n, C, out)``."""
        maps = self.body(x.transpose(1, 2).reshape(-1, 1, x.shape[1]))
        z = self.head(torch.cat([maps.mean(-1), maps.amax(-1)], 1)).view(len(x), x.shape[2], -1)
        return F.normalize(z, dim=-1) if self.unit_length else z


class JointEncoder(nn.Module):
    """PaAno's encoder of a window, all channels at once, at a quarter of its width.

    Each window is standardised by itself; four convolutions with batch normalisation, mean over time. ``project`` adds
    the head of the training.
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (32, 64, 32, 32)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, kernel in zip((channels, *widths), widths, (7, 5, 3, 3), strict=False):
            layers += [nn.Conv1d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm1d(after)]
            layers.append(nn.ReLU())
        self.body = nn.Sequential(*layers)
        self.projection = nn.Sequential(nn.Linear(widths[-1], 256), nn.ReLU(), nn.Linear(256, 256))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 32, C)`` to ``(n, 1, width)`` of length 1."""
        spread = x.std(1, keepdim=True, correction=0).clamp_min(1e-5)
        z = self.body(((x - x.mean(1, keepdim=True)) / spread).transpose(1, 2)).mean(-1)
        return F.normalize(z, dim=-1).unsqueeze(1)

    def project(self, x: Tensor) -> Tensor:
        return F.normalize(self.projection(self(x)[:, 0]), dim=-1)


class Statistics(nn.Module):
    """Window statistics of each channel in the units of the support's, ``(n, C, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = WindowStatistics(-1)

    def fit(self, support: Tensor) -> Callable[[Tensor], Tensor]:
        """The embedding in units of windows ``(K, 32, C)``."""
        x = self._of(support)
        centre, spread = x.mean(0), x.std(0, correction=0) + 0.05
        return lambda windows: self._changed((self._of(windows) - centre) / spread, windows)

    def _of(self, x: Tensor) -> Tensor:
        return self.statistics(x).view(len(x), x.shape[2], -1)

    def _changed(self, statistics: Tensor, windows: Tensor) -> Tensor:
        return statistics


class ChangedStatistics(Statistics):
    """The same with a learned linear map and the embedding of a CNN beside them; at first both add nothing."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(width, width))
        self.cnn = ChannelEncoder(unit_length=False)
        nn.init.zeros_(self.cnn.head.bias)
        with torch.no_grad():
            self.cnn.head.weight *= 0.1

    def _changed(self, statistics: Tensor, windows: Tensor) -> Tensor:
        return torch.cat([statistics + 4 * statistics @ self.change, self.cnn(windows)], -1)


def embedding(encoder: nn.Module, support: Tensor) -> Callable[[Tensor], Tensor]:
    """The encoder as a function of windows, in the units of a support where it has any."""
    return encoder.fit(support) if isinstance(encoder, Statistics) else encoder


def channels_of(series: Recording, rng: np.random.Generator) -> np.ndarray:
    """At most twelve channels that vary; of all where none does."""
    moving = series.moving
    return rng.permutation(moving if len(moving) else series.support.shape[2])[:CHANNELS]


def contrast(encoder: nn.Module, series: Recording, rng: np.random.Generator, batch: int = 32) -> Tensor:
    """InfoNCE within each channel: a window shifted by up to 8 steps is the positive, windows elsewhere negatives."""
    anchors = rng.choice(series.starts, batch)
    shifted = (anchors + rng.choice([-1, 1], batch) * rng.integers(1, 9, batch)).clip(0, len(series.history) - WINDOW)
    both = windows(series.history, np.concatenate([anchors, shifted]))[..., channels_of(series, rng)]
    both = both + 0.05 * torch.randn_like(both)
    z = F.normalize(encoder(both), dim=-1).transpose(0, 1)  # (C, 2 batch, d)
    logits = z[:, :batch] @ z[:, batch:].mT / 0.2
    near = torch.from_numpy(np.abs(anchors[:, None] - shifted) < WINDOW) & ~torch.eye(batch, dtype=torch.bool)
    target = torch.arange(batch).expand(len(z), -1)
    return F.cross_entropy(logits.masked_fill(near, -torch.inf).flatten(0, 1), target.flatten())


def triplet(encoder: nn.Module, series: Recording, rng: np.random.Generator, batch: int = 32) -> Tensor:
    """PaAno's triplet loss: positives within two steps, the farthest window of the batch as the negative."""
    assert isinstance(encoder, JointEncoder)
    anchors = rng.choice(series.starts, batch)
    near = (anchors + rng.choice([-2, -1, 1, 2], batch)).clip(0, len(series.history) - WINDOW)
    z = encoder.project(windows(series.history, np.concatenate([anchors, near])))
    apart = 1 - z[:batch] @ z[batch:].T
    negative = apart.masked_fill(torch.eye(batch, dtype=torch.bool), -torch.inf).amax(1)
    return F.relu(apart.diagonal() - negative + 0.5).mean()


def ranking(encoder: nn.Module, series: Recording, rng: np.random.Generator, batch: int = 16) -> Tensor:
    """Anomalous windows farther from the memory than normal ones, as in `patch_metric`; half of them synthetic."""
    channels = channels_of(series, rng)
    memory = windows(series.history, rng.choice(series.starts, 32))[..., channels]
    shares = np.lib.stride_tricks.sliding_window_view(series.labels, WINDOW).mean(1)
    good, bad = np.flatnonzero(shares == 0), np.flatnonzero(shares >= 0.25)
    normal = windows(series.history, rng.choice(series.starts, batch))[..., channels]
    if len(good):
        normal[: batch // 2] = windows(series.test, rng.choice(good, batch // 2))[..., channels]
    changed = create_synthetic(KINDS)({"sequence": normal}, {"sequence": memory}, rng)["sequence"]
    if len(bad):
        changed[: batch // 2] = windows(series.test, rng.choice(bad, batch // 2))[..., channels]
    embed = embedding(encoder, memory)
    z = embed(torch.cat([memory, normal, changed.clamp(-LIMIT, LIMIT)])).flatten(1)
    logs = torch.cdist(z[32:], z[:32]).amin(1).clamp_min(1e-4).log() / 0.2
    return F.softplus(logs[:batch] - logs[batch:].unsqueeze(1)).mean()


Loss = Callable[[nn.Module, Recording, np.random.Generator], Tensor]


def trained(
    encoder: nn.Module,
    loss: Loss,
    series: list[Recording],
    steps: int,
    rng: np.random.Generator,
    rate: float = 1e-3,
    head_only: bool = False,
) -> nn.Module:
    """A copy of the encoder trained by AdamW, a series a step, families being equally frequent."""
    encoder = copy.deepcopy(encoder).train()
    parameters = [p for name, p in encoder.named_parameters() if not head_only or name.startswith("head")]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, rate / 10)
    for _ in range(steps):
        encoder.zero_grad()
        loss(encoder, drawn(series, rng), rng).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return encoder.eval()


def drawn(series: list[Recording], rng: np.random.Generator) -> Recording:
    """One of the series; families are equally frequent."""
    families = sorted({s.family for s in series})
    family = families[rng.integers(len(families))]
    members = [s for s in series if s.family == family]
    return members[rng.integers(len(members))]


@dataclass
class Scores:
    """Scores of a test part's windows ``(m,)``, those of support windows without their block, seconds."""

    windows: Tensor
    own: Tensor
    fit_seconds: float = 0.0
    score_seconds: float = 0.0


def blocks(count: int) -> np.ndarray:
    """Block of each support window: neighbours share one."""
    return np.arange(count) * FOLDS // count


@torch.no_grad()
def memory_scores(encoder: nn.Module, series: Recording, query: Tensor, per_channel: bool) -> Scores:
    """Distance to the nearest support window: of all channels together, or the mean of each channel's."""
    start = time.process_time()
    embed = embedding(encoder, series.support)
    memory = embed(series.support)
    ready = time.process_time()
    values = torch.cat([_nearest(embed(x), memory, per_channel) for x in query.split(256)])
    done = time.process_time()
    block = torch.from_numpy(blocks(len(memory)))
    own = torch.cat([_nearest(memory[block == b], memory[block != b], per_channel) for b in range(FOLDS)])
    return Scores(values, own, ready - start, done - ready)


def _nearest(x: Tensor, memory: Tensor, per_channel: bool) -> Tensor:
    if not per_channel:
        return torch.cdist(x.flatten(1), memory.flatten(1)).amin(1)
    return torch.cdist(x.transpose(0, 1), memory.transpose(0, 1)).amin(2).mean(0)


class Raw(nn.Module):
    """The window itself."""

    def forward(self, x: Tensor) -> Tensor:
        """``(n, 32, C)`` to ``(n, C, 32)``."""
        return x.transpose(1, 2)


CONTROLS = {"raw": Raw(), CONTROL: Statistics(), CONTROL + BY_CHANNEL: Statistics()}


@torch.no_grad()
def expert_scores(series: Recording, query: Tensor) -> Scores:
    """Scores of `series_experts`, a mean of experts in units of the support's own scores."""
    start = time.process_time()
    experts = SeriesExperts().adapt({"sequence": series.support}, torch.zeros(len(series.support), dtype=torch.long))
    ready = time.process_time()
    values = torch.cat([experts.score({"sequence": x}) for x in query.split(256)])
    return Scores(values, torch.zeros(0), ready - start, time.process_time() - ready)


def standardised(scores: Scores) -> Tensor:
    """Window scores in units of the support's own, on a logarithmic scale, for a mean of experts."""
    centre, spread = scores.own.median(), scores.own.std(correction=0)
    z = (scores.windows - centre) / (spread + 0.02 * centre.abs() + 1e-6)
    return z.sign() * z.abs().log1p()


def with_seventh(experts: Scores, memory: Scores) -> Scores:
    """Equal mean of the six experts and a memory."""
    values = (len(EXPERTS) * experts.windows + standardised(memory)) / (len(EXPERTS) + 1)
    seconds = experts.fit_seconds + memory.fit_seconds, experts.score_seconds + memory.score_seconds
    return Scores(values, memory.own, *seconds)


def pointwise(scores: Tensor, starts: np.ndarray, length: int) -> Tensor:
    """Mean score ``(length,)`` of the windows that cover each point."""
    places = torch.from_numpy(starts[:, None] + np.arange(WINDOW))
    total, count = torch.zeros(length, dtype=torch.float64), torch.zeros(length, dtype=torch.float64)
    total.index_put_((places,), scores.double().unsqueeze(1).expand(-1, WINDOW), accumulate=True)
    count.index_put_((places,), torch.ones(places.shape, dtype=torch.float64), accumulate=True)
    return total / count


def query_starts(length: int) -> np.ndarray:
    """First steps of the scored windows: every eighth, every sixteenth of more than 5,000 points, and the last."""
    stride = STRIDE if length <= 5000 else 2 * STRIDE
    return np.unique(np.append(np.arange(0, length - WINDOW + 1, stride), length - WINDOW))


def untrained(seed: int) -> nn.ModuleDict:
    """Encoders before meta-training."""
    torch.manual_seed(seed)
    channel, unbounded = ChannelEncoder(), ChannelEncoder(unit_length=False)
    return nn.ModuleDict({"random": unbounded, "contrast": channel, "statistics": ChangedStatistics()})


def meta_trained(rest: list[Recording], steps: int, seed: int) -> nn.ModuleDict:
    """Encoders trained on the series of other families, and a random one."""
    encoders = untrained(seed)
    rng = np.random.default_rng(seed)
    encoders["contrast"] = trained(encoders["contrast"], contrast, rest, steps, rng)
    encoders["statistics"] = trained(encoders["statistics"], ranking, rest, steps, rng)
    return encoders


def any_length(encoder: nn.Module) -> ChannelEncoder:
    """The same encoder with embeddings of any length."""
    made = ChannelEncoder(unit_length=False)
    made.load_state_dict(encoder.state_dict())
    return made.eval()


def fitted_to_history(encoders: nn.ModuleDict, series: Recording, seed: int) -> dict[str, tuple[nn.Module, float]]:
    """Encoders trained from scratch or adapted on the series' history, with CPU seconds."""
    torch.manual_seed(seed)
    contrastive = any_length(encoders["contrast"])
    scratch, adapt = partial(trained, steps=SCRATCH), partial(trained, steps=INNER, rate=INNER_RATE)
    trainings = {
        "PaAno": partial(scratch, JointEncoder(series.history.shape[1]), triplet, rate=1e-4),
        "from scratch": partial(scratch, ChannelEncoder(unit_length=False), contrast),
        "contrast, adapted": partial(adapt, contrastive, contrast),
        "contrast, head adapted": partial(adapt, contrastive, contrast, head_only=True),
    }
    made = {}
    for name, train in trainings.items():
        start = time.process_time()
        encoder = train(series=[series], rng=np.random.default_rng(seed))
        made[name] = (encoder, time.process_time() - start)
    return made


def judged(series: Recording, encoders: Iterable[tuple[str, nn.Module]], with_experts: bool) -> Row:
    """AUROC and CPU seconds of memories on one series, and of the experts alone and with a memory as a seventh."""
    starts = query_starts(len(series.labels))
    query = windows(series.test, starts)
    scores = {name: memory_scores(encoder, series, query, name.endswith(BY_CHANNEL)) for name, encoder in encoders}
    if with_experts:
        experts = expert_scores(series, query)
        scores |= {f"{EQUAL_MEAN} and {name}": with_seventh(experts, scores[name]) for name in SEVENTH}
        scores[EQUAL_MEAN] = experts
    labels = torch.from_numpy(series.labels)
    return {
        "family": series.family,
        "auroc": {n: auroc(pointwise(s.windows, starts, len(labels)), labels) for n, s in scores.items()},
        "seconds": {n: s.fit_seconds + s.score_seconds for n, s in scores.items()},
        "windows": len(query),
        "channels": query.shape[2],
    }


def judged_adapted(series: Recording, encoders: nn.ModuleDict, seed: int) -> Row:
    """The same of encoders trained on the history, beside controls that are not."""
    own = fitted_to_history(encoders, series, seed)
    controls = [(CONTROL, Statistics()), ("random", encoders["random"])]
    controls.append(("contrast, any length", any_length(encoders["contrast"])))
    row = judged(series, [*controls, *((name, encoder) for name, (encoder, _) in own.items())], False)
    for name, (_, seconds) in own.items():
        row["seconds"][name] += seconds
    return row


def some(series: list[Recording], count: int) -> list[Recording]:
    """At most ``count`` series of each family, drawn with a fixed seed, families in turn."""
    rng = np.random.default_rng(0)
    members = [[s for s in series if s.family == family] for family in FAMILIES]
    shuffled = [[group[i] for i in rng.permutation(len(group))] for group in members]
    return [group[i] for i in range(count) for group in shuffled if i < len(group)]


class Cache:
    """Encoders and judged series of a setting, in a folder: an interrupted run goes on from there."""

    def __init__(self, folder: Path, steps: int, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.steps, self.seed = folder, steps, seed

    def encoders(self, group: tuple[str, ...], everything: list[Recording]) -> nn.ModuleDict:
        """Encoders trained without a group of families."""
        place = self.folder / f"{'_'.join(group)}_{self.steps}_{self.seed}.safetensors"
        if not place.is_file():
            rest = [s for s in everything if s.family not in group]
            with replacing(place) as beside:
                save_file(meta_trained(rest, self.steps, self.seed).state_dict(), beside)
        encoders = untrained(self.seed)
        encoders.load_state_dict(load_file(place))
        return encoders.eval()

    def row(self, series: Recording, kind: str, judge: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of ``judge``, computed once."""
        place = self.folder / f"{series.name.replace('/', '_')}_{kind}_{self.steps}_{self.seed}.json"
        if not place.is_file():
            write_whole(place, json.dumps(judge()))
        content: dict[str, Any] = json.loads(place.read_text())
        return content


def measured(data: Path, cache: Cache, count: int, count_adapted: int) -> tuple[dict[str, Row], dict[str, Row]]:
    """Results by series: of methods that need no training on the history, and, on fewer series, of those that do."""
    everything = recordings(data)
    encoders = {family: nets for group in GROUPS for nets in [cache.encoders(group, everything)] for family in group}
    rows, adapted = {}, {}
    for series in some(everything, count):
        memories = [*CONTROLS.items(), *encoders[series.family].items()]
        net = any_length(encoders[series.family]["contrast"])
        memories += [("contrast, any length", net), (f"contrast, any length{BY_CHANNEL}", net)]
        rows[series.name] = cache.row(series, "memory", partial(judged, series, memories, True))
    for series in some(everything, count_adapted):
        judge = partial(judged_adapted, series, encoders[series.family], cache.seed)
        adapted[series.name] = cache.row(series, "adapted", judge)
    return rows, adapted


def summary(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """By method the AUROC of each family and their mean, the difference to the control over series, and seconds."""
    out = []
    for name in next(iter(rows.values()))["auroc"] if rows else ():
        families = {
            f: float(np.mean([r["auroc"][name] for r in rows.values() if r["family"] == f]))
            for f in FAMILIES
            if any(r["family"] == f for r in rows.values())
        }
        control = EQUAL_MEAN if name.startswith(f"{EQUAL_MEAN} and") else CONTROL
        ours, others = ([{"auroc": r["auroc"][n]} for r in rows.values()] for n in (name, control))
        out.append(
            {
                "method": name,
                "auroc": float(np.mean(list(families.values()))),
                "families": families,
                "control": control,
                "minus_control": paired_difference(ours, others, "auroc"),
                "seconds": float(np.mean([r["seconds"][name] for r in rows.values()])),
            }
        )
    return out


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="folder of encoders and judged series")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of each meta-training")
    parser.add_argument("--series", type=int, default=8, help="most series of a family that are judged")
    parser.add_argument("--adapted", type=int, default=3, help="most series of a family with training on the history")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cache = Cache(options.cache, options.steps, options.seed)
    rows, adapted = measured(options.data, cache, options.series, options.adapted)
    results = {"rows": summary(rows), "adapted": summary(adapted)}
    for name, methods in results.items():
        table = Table("method", *FAMILIES, "mean", "minus control", "s", title=f"AUROC in % by points: {name}")
        for r in methods:
            cells = [*r["families"].values(), r["auroc"]]
            minus = f"{100 * r['minus_control']['mean']:+.1f}"
            table.add_row(r["method"], *(f"{100 * x:.1f}" for x in cells), minus, f"{r['seconds']:.2f}")
        Console(width=120).print(table)
    if options.json:
        content = {
            "steps": options.steps,
            "steps_on_a_history": {"adapted": INNER, "from scratch": SCRATCH},
            "seed": options.seed,
            "groups_left_out": GROUPS,
            **results,
            "series": rows,
            "series_adapted": adapted,
            "environment": environment("cpu"),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
