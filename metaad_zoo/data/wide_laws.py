"""Laws of the wide prior over tables: networks, causal graphs, mixtures and copulas, all functions of random causes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class WideLaw:
    """Distribution of the rows of one table.

    Args:
        causes: number of independent standard normal variables that a row depends on.
        rows: function from causes ``(n, causes)`` and a generator, for what else is random, to rows ``(n, columns)``.
    """

    causes: int
    rows: Callable[[np.ndarray, np.random.Generator], np.ndarray]


FUNCTIONS: Sequence[Function] = (
    lambda x: x,
    np.tanh,
    np.sin,
    np.abs,
    lambda x: np.maximum(x, 0),
    lambda x: np.minimum(x * x, 9),
    lambda x: np.exp(-x * x),
    lambda x: (x > 0).astype(x.dtype),
    lambda x: np.sign(x) * np.sqrt(np.abs(x)),
    lambda x: np.round(x),
)
"""Activations of the nodes of networks and graphs."""

_OFTEN = np.array([4, 2, 1, 1, 3, 1, 1, 1, 2, 1]) / 17
"""How often each is drawn: increasing ones more often, for columns of real tables are correlated."""


def _log_uniform(low: float, high: float, rng: np.random.Generator, size: int | None = None) -> np.ndarray:
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def _some(most: int, rng: np.random.Generator) -> int:
    """A number from 1 to ``most``, rather a small one."""
    return min(most, int(_log_uniform(1, most + 1, rng)))


def _network(columns: int, rng: np.random.Generator) -> WideLaw:
    """Layers of random neurons over a few causes; the columns are neurons of any layer."""
    causes, depth = _some(min(12, columns), rng), int(rng.integers(1, 5))
    width = -(-columns // depth) + int(rng.integers(0, 13))
    density, gain, noise = rng.uniform(0.2, 1.0), _log_uniform(0.5, 3.0, rng), _log_uniform(0.01, 0.5, rng)
    whole = rng.random(causes) < 0.2
    layers = []
    for inputs in [causes] + [width] * (depth - 1):
        weights = rng.standard_normal((inputs, width)) * (rng.random((inputs, width)) < density)
        weights *= gain / np.sqrt(max(1.0, inputs * density))
        layers.append(
            (weights, rng.normal(0, 0.5, width), rng.choice(len(FUNCTIONS), 2, p=_OFTEN), rng.random(width) < 0.5)
        )
    seen = rng.choice(depth * width, columns, replace=False)

    def rows(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x = np.where(whole, np.round(x), x)
        neurons = []
        for weights, bias, (first, second), mask in layers:
            x = x @ weights + bias
            x = np.where(mask, FUNCTIONS[first](x), FUNCTIONS[second](x)) + noise * rng.standard_normal(x.shape)
            neurons.append(x)
        return np.concatenate(neurons, 1)[:, seen]

    return WideLaw(causes, rows)


def _graph(columns: int, rng: np.random.Generator) -> WideLaw:
    """Random acyclic graph; each node is a function of up to three earlier ones, and has a cause of its own."""
    nodes = columns + int(rng.integers(0, columns // 2 + 1))
    parents = [rng.choice(i, min(i, int(rng.integers(1, 4))), replace=False) for i in range(nodes)]
    weights = [rng.normal(0, 1.5, len(p)) / np.sqrt(max(1, len(p))) for p in parents]
    functions = rng.choice(len(FUNCTIONS), nodes, p=_OFTEN)
    roots = rng.random(nodes) < rng.uniform(0.05, 0.4)
    roots[0] = True
    noise = np.where(roots, 1.0, _log_uniform(0.02, 0.7, rng, nodes))
    seen = rng.choice(nodes, columns, replace=False)

    def rows(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x = np.ascontiguousarray((noise * x).T)
        for i in np.flatnonzero(~roots):
            x[i] += FUNCTIONS[functions[i]](weights[i] @ x[parents[i]])
        return x[seen].T

    return WideLaw(nodes, rows)


def _mixture(columns: int, rng: np.random.Generator) -> WideLaw:
    """One to eight Gaussian clusters of any weight, with covariances of their own, of low or of full rank."""
    clusters, rank = int(rng.integers(1, 9)), _some(columns, rng)
    weights = rng.dirichlet(np.full(clusters, rng.uniform(0.5, 3.0)))
    centres = rng.normal(0, rng.uniform(0.5, 4.0), (clusters, columns))
    factors = rng.standard_normal((clusters, rank, columns)) / np.sqrt(rank)
    factors *= np.exp(rng.normal(0, 0.5, (clusters, 1, columns)))
    own = _log_uniform(0.03, 0.7, rng) * np.exp(rng.normal(0, 0.3, (clusters, columns)))

    def rows(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        which = rng.choice(clusters, len(x), p=weights)
        out = centres[which] + own[which] * rng.standard_normal((len(x), columns))
        for cluster in range(clusters):
            members = which == cluster
            out[members] += x[members] @ factors[cluster]
        return out

    return WideLaw(rank, rows)


def _copula(columns: int, rng: np.random.Generator) -> WideLaw:
    """Gaussian or Student copula of few factors, each of which loads on some of the columns."""
    factors = _some(columns // 2 + 1, rng)
    loadings = rng.standard_normal((factors, columns)) * (rng.random((factors, columns)) < rng.uniform(0.3, 1.0))
    loadings[0] += (rng.random() < 0.4) * rng.uniform(0.5, 2.0)  # a size that all columns share
    specific = rng.uniform(0.05, 0.7, columns) * np.sqrt(factors)
    freedom = rng.uniform(2.5, 10.0) if rng.random() < 0.4 else None

    def rows(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        out = x @ loadings + specific * rng.standard_normal((len(x), columns))
        return out if freedom is None else out * np.sqrt(freedom / rng.chisquare(freedom, (len(x), 1)))

    return WideLaw(factors, rows)


WIDE_LAWS: Mapping[str, Callable[[int, np.random.Generator], WideLaw]] = {
    "network": _network,
    "graph": _graph,
    "mixture": _mixture,
    "copula": _copula,
}
