"""Experts that read normal and unlabelled samples, and the ranks of their scores among the unlabelled samples.

An expert is a distance that is high for anomalies: to the normal samples alone, to all unlabelled samples, or to those
of them that look most normal. No expert is best at every share of anomalies among the unlabelled samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metaad_zoo.evaluation.baselines.subspaces import ledoit_wolf
from metaad_zoo.evaluation.baselines.vectors import city_block
from metaad_zoo.evaluation.baselines.vectors import distances as euclidean
from metaad_zoo.learners.column_statistics import LIMIT, signed_log

State = Mapping[str, Tensor]
"""What the experts keep of a support set, tensors by name."""

SHARES = (70, 50)
"""Per cent of the unlabelled samples that count as normal, those that look most normal first."""
BELIEFS = ("dense", "smooth")
"""How unlabelled samples are ordered: ``dense``: by the distance to the normal samples and the density around them;
``smooth``: by the distance to the normal samples, averaged over their neighbours among the unlabelled samples."""
SPACES = ("log", "white")
"""Spaces of the distances between unlabelled samples: L1 of signed logarithms, and L2 after whitening."""
GENERAL = (
    *("near_support", "near", "near_plain", "mahalanobis", "near_white"),
    *("density_log", "density_white", "smooth_log", "smooth_white", "all_log", "all_mahalanobis"),
)
TRIMMED = (
    *(f"log_{share}" for share in SHARES),
    "white_70",
    *(f"mahalanobis_{share}" for share in SHARES),
    "wide_50",
    *("ratio_log", "ratio_white", "ratio_near"),
)
EXPERTS = (*GENERAL, *(f"{belief}_{name}" for belief in BELIEFS for name in TRIMMED))
"""Names of the experts of :func:`expert_ranks`."""
COMPARED = (
    *("near", "mahalanobis", "density_log", "density_white", "smooth_log", "dense_log_50", "dense_mahalanobis_50"),
    *("all_mahalanobis", "all_log"),
)
"""Experts whose correlations over the unlabelled samples describe the task."""
QUANTILES = (0.05, 0.5, 0.75, 0.9, 0.97)
CONTEXT = 2 + len(COMPARED) * (len(COMPARED) - 1) // 2 + 3 * (len(QUANTILES) - 2) + 3
"""Length of the description of a task."""
KNOTS = 65
"""Quantiles by which ranks are interpolated."""
FLOOR = 1e-6
"""Variance added to each column, in units of all samples, against rounding."""
OWN = 2048
"""Largest number of normal samples whose distances to the others describe the normal samples."""
FEW = 3
"""Rank of the neighbour among trusted samples."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of each expert's values among those of the unlabelled samples, interpolated between quantiles.

    Attributes:
        knots: ``(KNOTS, experts)`` quantiles, ascending.
    """

    knots: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Ranks:
        """Ranks among ``(n, experts)``."""
        return cls(values.quantile(torch.linspace(0, 1, KNOTS, dtype=values.dtype, device=values.device), 0))

    def __call__(self, values: Tensor) -> Tensor:
        """Ranks ``(m, experts)`` from 0 to 1; above the largest value they go on growing with its logarithm."""
        widths = self.knots.diff(dim=0)
        least = 1e-6 * self.knots[-1].abs() + 1e-12
        shares = (values.unsqueeze(1) - self.knots[:-1]) / widths.maximum(least)
        beyond = (values / self.knots[-1].clamp_min(1e-9)).clamp(1.0, math.exp(LIMIT)).log()
        return shares.clamp(0.0, 1.0).mean(1) + beyond


def digest(normal: Tensor, unlabelled: Tensor) -> tuple[State, Tensor]:
    """Read a support set.

    Args:
        normal: ``(K, D)`` normal samples.
        unlabelled: ``(n, D)`` unlabelled samples, n at least 2. Neither has missing values.

    Returns:
        What :func:`expert_ranks` needs, and the description of the task ``(CONTEXT,)``.
    """
    both = torch.cat([normal, unlabelled])
    state: dict[str, Tensor] = {}
    for name, rows, reference in (
        ("support", signed_log(normal), signed_log(normal)),
        ("log", signed_log(both), signed_log(both)),
        ("plain", both, both),
    ):
        state[f"{name}/centre"], state[f"{name}/spread"] = _centre_and_spread(reference)
        state[f"{name}/normal"] = _in_units(state, name, rows[: len(normal)])
    rows = _in_units(state, "log", signed_log(unlabelled))
    state["log/unlabelled"] = rows
    state |= _whitening("all", rows) | _whitening("normal", state["log/normal"])
    state["white/normal"] = _whiten(state, "all", state["log/normal"])
    state["white/unlabelled"] = _whiten(state, "all", rows)
    distances = _Distances.of(state, unlabelled, leave_one_out=True)
    general = _general(state, distances)
    ranks = {name: Ranks.of(v.unsqueeze(1))(v.unsqueeze(1)).squeeze(1) for name, v in general.items()}
    state["evidence"] = (ranks["near_support"] + ranks["near"] + ranks["mahalanobis"] + ranks["near_plain"]) / 4
    general |= {f"smooth_{space}": _smooth(state, distances, space) for space in SPACES}
    smooth = torch.stack([general[f"smooth_{space}"] for space in SPACES], 1)
    order = {
        "dense": (ranks["near_support"] + ranks["near"] + ranks["density_log"]).argsort(stable=True),
        "smooth": (Ranks.of(smooth)(smooth).mean(1) + state["evidence"]).argsort(stable=True),
    }
    n = len(unlabelled)
    for belief in BELIEFS:
        state[f"{belief}/order"] = order[belief]
        for share in SHARES:
            trusted = rows[order[belief][: _trusted(n, share)]]
            state |= _whitening(f"{belief}_{share}", torch.cat([state["log/normal"], trusted]))
    values = general | _among_trusted(state, distances)
    table = torch.stack([values[name] for name in EXPERTS], 1)
    state["knots"] = Ranks.of(table).knots
    return state, _description(state, values)


def expert_ranks(state: State, queries: Tensor) -> Tensor:
    """Ranks ``(m, len(EXPERTS))`` of queries ``(m, D)`` without missing values; higher is more anomalous."""
    distances = _Distances.of(state, queries)
    values = _general(state, distances) | _among_trusted(state, distances)
    values |= {f"smooth_{space}": _smooth(state, distances, space) for space in SPACES}
    return Ranks(state["knots"])(torch.stack([values[name] for name in EXPERTS], 1))


def digest_normal(normal: Tensor) -> State:
    """Read a support set of normal samples alone, ``(K, D)``; see :func:`normal_scores`."""
    state: dict[str, Tensor] = {}
    for name, rows in (("support", signed_log(normal)), ("plain", normal)):
        state[f"{name}/centre"], state[f"{name}/spread"] = _centre_and_spread(rows)
        state[f"{name}/normal"] = _in_units(state, name, rows)
    state |= _whitening("normal", state["support/normal"])
    own = [_nearest_other(state[name]) for name in ("support/normal", "plain/normal")]
    own.append(_mahalanobis(state, "normal", state["support/normal"]))
    medians = torch.stack([values.median() for values in own])
    state["units"] = torch.where(medians.isfinite() & (medians > 0), medians, 1)
    return state


def normal_scores(state: State, queries: Tensor) -> Tensor:
    """Scores ``(m,)`` by normal samples alone: the mean of log(1 + distance), in units of the samples' own distances.

    The distances are the smallest L1 distance in logarithmic and in plain units, and the Mahalanobis distance.
    """
    logs = _in_units(state, "support", signed_log(queries))
    values = (
        city_block(logs, state["support/normal"]).amin(1),
        city_block(_in_units(state, "plain", queries), state["plain/normal"]).amin(1),
        _mahalanobis(state, "normal", logs),
    )
    return (torch.stack(values, 1) / state["units"]).log1p().mean(1)


@dataclass(frozen=True)
class _Distances:
    """Samples in the support's units, and their distances to normal and unlabelled samples.

    Attributes:
        rows: ``(m, D)`` in units of all samples' logarithms.
        near_support: ``(m, K)`` L1 distances to the normal samples, in the logarithmic units of these.
        plain: ``(m, K)`` L1 distances to the normal samples in plain units.
        normal: distances to the normal samples by space, each ``(m, K)``.
        unlabelled: distances to the unlabelled samples by space, each ``(m, n)``.
    """

    rows: Tensor
    near_support: Tensor
    plain: Tensor
    normal: Mapping[str, Tensor]
    unlabelled: Mapping[str, Tensor]

    @classmethod
    def of(cls, state: State, x: Tensor, leave_one_out: bool = False) -> _Distances:
        logs = signed_log(x)
        rows = _in_units(state, "log", logs)
        white = _whiten(state, "all", rows)
        unlabelled = {
            "log": city_block(rows, state["log/unlabelled"]),
            "white": euclidean(white, state["white/unlabelled"]),
        }
        if leave_one_out:
            itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
            unlabelled = {space: d.masked_fill(itself, torch.inf) for space, d in unlabelled.items()}
        return cls(
            rows,
            city_block(_in_units(state, "support", logs), state["support/normal"]),
            city_block(_in_units(state, "plain", x), state["plain/normal"]),
            {"log": city_block(rows, state["log/normal"]), "white": euclidean(white, state["white/normal"])},
            unlabelled,
        )


def _among_trusted(state: State, distances: _Distances) -> dict[str, Tensor]:
    """Experts that take all unlabelled samples, or those that look most normal, as normal."""
    values = {
        "all_log": _kth(torch.cat([distances.normal["log"], distances.unlabelled["log"]], 1), FEW),
        "all_mahalanobis": _mahalanobis(state, "all", distances.rows),
    }
    n = len(state["evidence"])
    for belief in BELIEFS:
        for share in SHARES:
            values[f"{belief}_mahalanobis_{share}"] = _mahalanobis(state, f"{belief}_{share}", distances.rows)
        values |= _trimmed(distances, state[f"{belief}/order"], belief, n)
    return values


def _general(state: State, distances: _Distances) -> dict[str, Tensor]:
    """Experts that do not ask which unlabelled samples are normal."""
    tenth = max(1, len(state["log/unlabelled"]) // 10)
    return {
        "near_support": distances.near_support.amin(1),
        "near": distances.normal["log"].amin(1),
        "near_plain": distances.plain.amin(1),
        "mahalanobis": _mahalanobis(state, "normal", distances.rows),
        "near_white": distances.normal["white"].amin(1),
        **{f"density_{space}": _kth(distances.unlabelled[space], tenth) for space in SPACES},
    }


def _smooth(state: State, distances: _Distances, space: str) -> Tensor:
    """Mean evidence of a sample's neighbours among the unlabelled samples."""
    n = len(state["evidence"])
    nearest = distances.unlabelled[space].topk(min(max(FEW, n // 12), n - 1), 1, largest=False).indices
    return state["evidence"][nearest].mean(1)


def _trimmed(distances: _Distances, order: Tensor, belief: str, n: int) -> dict[str, Tensor]:
    """Distances to the most normal unlabelled samples, alone and relative to the least normal ones."""
    many = max(FEW, n // 20)
    trusted = {share: order[: _trusted(n, share)] for share in SHARES}
    doubted = order[min(n - 1, (3 * n) // 4) :]

    def to_trusted(space: str, share: int, k: int) -> Tensor:
        return _nearest(torch.cat([distances.normal[space], distances.unlabelled[space][:, trusted[share]]], 1), k)

    near, near_white = to_trusted("log", 50, many), to_trusted("white", 50, many)
    far, far_white = (_nearest(distances.unlabelled[space][:, doubted], many) for space in SPACES)
    few, few_doubted = min(FEW, near.shape[1]) - 1, min(FEW, far.shape[1]) - 1
    values = {
        "log_70": to_trusted("log", 70, FEW)[:, -1],
        "log_50": near[:, few],
        "white_70": to_trusted("white", 70, FEW)[:, -1],
        "wide_50": near[:, -1],
        "ratio_log": _ratio(near[:, -1], far[:, -1]),
        "ratio_white": _ratio(near_white[:, -1], far_white[:, -1]),
        "ratio_near": _ratio(near[:, few], far[:, few_doubted]),
    }
    return {f"{belief}_{name}": value for name, value in values.items()}


def _ratio(x: Tensor, y: Tensor) -> Tensor:
    return x.clamp_min(1e-6) / y.clamp_min(1e-6)


def _description(state: State, values: Mapping[str, Tensor]) -> Tensor:
    """Numbers ``(CONTEXT,)`` that describe a task: sizes, agreement of experts, tails, and where the support lies."""
    n, columns = len(state["evidence"]), state["log/centre"].shape[0]
    sizes = [math.log(size) / 3 for size in (n, columns)]
    compared = Ranks(state["knots"][:, [EXPERTS.index(name) for name in COMPARED]])
    table = compared(torch.stack([values[name] for name in COMPARED], 1))
    correlations = torch.corrcoef(table.T).nan_to_num(0.0)
    above = torch.triu_indices(len(COMPARED), len(COMPARED), 1)
    tails = [_tail(values[name]) for name in ("near_support", "near", "density_log")]
    tenth = max(1, n // 10)
    own = _nearest_other(state["log/normal"])
    places = [
        _place(_kth(city_block(state["log/normal"], state["log/unlabelled"]), tenth), values["density_log"]),
        _place(_kth(euclidean(state["white/normal"], state["white/unlabelled"]), tenth), values["density_white"]),
        _place(own.nan_to_num(posinf=0.0), values["near"]),
    ]
    numbers = torch.tensor(sizes, dtype=table.dtype, device=table.device)
    return torch.cat([numbers, correlations[above[0], above[1]], *tails, torch.stack(places) * 3])


def _tail(values: Tensor) -> Tensor:
    """How far the upper quantiles of a distance lie from its median, relative to the lower one."""
    quantiles = values.clamp_min(1e-9).log().quantile(torch.tensor(QUANTILES, dtype=values.dtype, device=values.device))
    return ((quantiles[2:] - quantiles[1]) / (quantiles[1] - quantiles[0] + 1e-6)).clamp(0, LIMIT).log1p()


def _place(values: Tensor, reference: Tensor) -> Tensor:
    """Mean rank of values among a reference, minus 0.5."""
    return Ranks.of(reference.unsqueeze(1))(values.unsqueeze(1)).mean() - 0.5


def _trusted(n: int, share: int) -> int:
    return max(1, n * share // 100)


def _centre_and_spread(x: Tensor) -> tuple[Tensor, Tensor]:
    spread, centre = torch.std_mean(x, 0, correction=0)
    return centre, torch.where(spread > 1e-5 * centre.abs() + 1e-12, spread, 1)


def _in_units(state: State, name: str, x: Tensor) -> Tensor:
    return ((x - state[f"{name}/centre"]) / state[f"{name}/spread"]).clamp(-LIMIT, LIMIT)


def _whitening(name: str, x: Tensor) -> dict[str, Tensor]:
    """Centre and whitening matrix of ``(n, D)`` under Ledoit and Wolf's shrinkage."""
    n, columns = x.shape
    centre = x.mean(0)
    rows = (x - centre).double()
    shrinkage, variance = ledoit_wolf(rows)
    rest = torch.tensor(shrinkage * variance + FLOOR, dtype=rows.dtype, device=x.device)
    identity = torch.eye(columns, dtype=rows.dtype, device=x.device)
    if columns > n:
        squares, vectors = torch.linalg.eigh(rows @ rows.T)  # more robust than svd of the rows
        squares = squares.clamp_min(1e-10 * squares[-1].clamp_min(1e-30))
        gains = ((1 - shrinkage) * squares / n + rest).rsqrt() - rest.rsqrt()
        matrix = rows.T @ (vectors * (gains / squares)) @ vectors.T @ rows + rest.rsqrt() * identity
    else:
        root = torch.linalg.cholesky((1 - shrinkage) * (rows.T @ rows) / n + rest * identity)
        matrix = torch.linalg.solve_triangular(root, identity, upper=False).T
    return {f"{name}/mean": centre, f"{name}/whitening": matrix.to(x.dtype)}


def _whiten(state: State, name: str, rows: Tensor) -> Tensor:
    return (rows - state[f"{name}/mean"]) @ state[f"{name}/whitening"]


def _mahalanobis(state: State, name: str, rows: Tensor) -> Tensor:
    return _whiten(state, name, rows).norm(dim=1)


def _nearest_other(x: Tensor) -> Tensor:
    """L1 distance of each of ``(n, D)``, or of at most :data:`OWN` of them, to the nearest of the others.

    Infinite for a single one.
    """
    n = len(x)
    rows = torch.arange(min(n, OWN), device=x.device)
    chosen = rows * n // len(rows)
    distances = city_block(x[chosen], x)
    distances[rows, chosen] = torch.inf
    return distances.amin(1)


def _kth(distances: Tensor, k: int) -> Tensor:
    """Distance ``(m,)`` to the k-th nearest of ``(m, n)``, or to the farthest of fewer."""
    return _nearest(distances, k)[:, -1]


def _nearest(distances: Tensor, k: int) -> Tensor:
    """The ``k`` smallest distances ``(m, k)`` of ``(m, n)``, or all of fewer, ascending."""
    return distances.topk(min(k, distances.shape[1]), 1, largest=False).values
