"""Attributions: how much each cell of a sample contributed to its score, and a deletion test of them.

A cell is one number of a sample: a pixel, a channel at a step, a column. The attribution of a missing cell is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from metaad_zoo.episodes import Samples, count
from metaad_zoo.modality import get_modality

Score = Callable[[Samples], Tensor]
"""Samples with a leading axis n to scores ``(n,)``, each by its own sample alone."""

ROWS_AT_ONCE = 256
FIRST_STEPS, MOST_STEPS = 32, 512
RELATIVE_GAP, ABSOLUTE_GAP = 0.01, 1e-4


def usual_sample(support: Samples) -> dict[str, Tensor]:
    """Reference sample for attributions, by modality (:meth:`metaad_zoo.modality.Modality.usual`).

    Args:
        support: normal samples, by modality ``(n, ...)``.

    Returns:
        By modality a tensor that broadcasts over samples; NaN where the whole support has no value.

    Example:
        >>> usual_sample({"tabular": torch.tensor([[0.0, 1.0], [2.0, float("nan")], [9.0, 3.0]])})
        {'tabular': tensor([[2., 1.]])}
    """
    return {name: get_modality(name).usual(x) for name, x in support.items()}


def baseline_for(samples: Samples, usual: Samples) -> dict[str, Tensor]:
    """The usual sample expanded to these samples; a cell without a usual value keeps the sample's own.

    Args:
        samples: samples by modality ``(n, ...)``.
        usual: result of :func:`usual_sample`.

    Returns:
        By modality ``(n, ...)``; NaN where the sample has NaN.
    """
    baseline = {}
    for name, x in samples.items():
        reference = usual[name].expand_as(x)
        baseline[name] = torch.where(x.isnan() | reference.isnan(), x, reference)
    return baseline


def integrated_gradients(score: Score, samples: Samples, baseline: Samples) -> tuple[dict[str, Tensor], Tensor]:
    """Integrated gradients along the straight line from a baseline.

    A sample's attributions sum to its score minus its baseline's (completeness). The integral starts with 32 points of
    a Gauss-Legendre rule; their number doubles, up to 512, for samples whose sum is off by more than 1 %.

    Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017; computed by captum.

    Args:
        score: scoring function, differentiable with respect to the samples.
        samples: samples by modality ``(n, ...)``.
        baseline: reference values in the samples' shapes, see :func:`baseline_for`.

    Returns:
        Attributions in the samples' shapes, and the absolute error of each sample's sum, ``(n,)``.
    """
    names = sorted(samples)
    with torch.no_grad():
        rise = score_in_chunks(score, samples)
        rise, size = rise - score_in_chunks(score, baseline), rise.abs()
    allowed = RELATIVE_GAP * rise.abs() + ABSOLUTE_GAP * (1 + size)
    attributions = {name: torch.zeros_like(samples[name]) for name in names}
    gaps = torch.full_like(rise, torch.inf)

    def forward(*tensors: Tensor) -> Tensor:
        # Captum asks for a gradient by every modality, also by one that the network does not read.
        tie = sum(torch.where(x.isnan(), 0, x).flatten(1).sum(1) for x in tensors)
        total: Tensor = score(dict(zip(names, tensors, strict=True))) + 0 * tie
        return total

    from captum.attr import IntegratedGradients  # takes a second to import

    method, steps = IntegratedGradients(forward), FIRST_STEPS
    pending = torch.arange(len(rise), device=rise.device)
    while len(pending) and steps <= MOST_STEPS:
        for rows in pending.split(max(1, ROWS_AT_ONCE // steps)):
            inputs = tuple(samples[name][rows] for name in names)
            starts = tuple(baseline[name][rows] for name in names)
            parts = method.attribute(inputs, starts, n_steps=steps, internal_batch_size=max(ROWS_AT_ONCE, len(rows)))
            for name, part in zip(names, parts, strict=True):
                attributions[name][rows] = part.detach().to(attributions[name].dtype)
            gaps[rows] = (sum(p.detach().flatten(1).nansum(1) for p in parts) - rise[rows]).abs().to(gaps.dtype)
        pending, steps = pending[~(gaps[pending] <= allowed[pending])], 2 * steps
    return attributions, gaps


def occlusion(score: Score, samples: Samples, baseline: Samples) -> dict[str, Tensor]:
    """Drop of the score when a patch is replaced by the baseline, assigned to every cell of the patch.

    Patches are those of :meth:`metaad_zoo.modality.Modality.patches`. No gradient is needed.

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2; computed
    by captum.

    Args:
        score: scoring function.
        samples: samples by modality ``(n, ...)``.
        baseline: reference values in the samples' shapes, see :func:`baseline_for`.
    """
    names, masks, used = sorted(samples), [], 0
    for name in names:
        mask = get_modality(name).patches(samples[name].shape[1:]).to(samples[name].device) + used
        used = int(mask.max()) + 1
        masks.append(mask.unsqueeze(0))
    attributions: dict[str, list[Tensor]] = {name: [] for name in names}
    from captum.attr import FeatureAblation

    method = FeatureAblation(lambda *tensors: score(dict(zip(names, tensors, strict=True))))
    with torch.no_grad():
        for rows in torch.arange(count(samples)).split(ROWS_AT_ONCE):
            inputs = tuple(samples[name][rows] for name in names)
            starts = tuple(baseline[name][rows] for name in names)
            at_once = max(1, ROWS_AT_ONCE // len(rows))
            parts = method.attribute(inputs, starts, feature_mask=tuple(masks), perturbations_per_eval=at_once)
            for name, part, x in zip(names, parts, inputs, strict=True):
                attributions[name].append(torch.where(x.isnan(), torch.nan, part.to(x.dtype)))
    return {name: torch.cat(parts) for name, parts in attributions.items()}


def deletion_test(
    score: Score,
    samples: Samples,
    attribution: Mapping[str, Tensor],
    baseline: Samples,
    share: float = 0.1,
    rng: np.random.Generator | None = None,
    repeats: int = 10,
) -> tuple[float, float]:
    """Deletion test: change of the score when the most important cells are deleted, against random cells.

    Deleted cells are replaced by the baseline; missing cells are never deleted. The most important cells have the
    largest attributions in the direction of their sum (pass absolute values for a map whose sign does not refer to the
    score). Cells of several modalities are ranked together.

    Source: cf. the deletion metric of Petsiuk et al., "RISE", BMVC 2018, at one share.

    Args:
        score: scoring function.
        samples: samples by modality ``(n, ...)``.
        attribution: attributions in the samples' shapes.
        baseline: reference values in the samples' shapes.
        share: share of the cells that are deleted, in (0, 1); at least one cell of each sample.
        rng: generator that draws the random cells; None: seeded with 0.
        repeats: number of random draws.

    Returns:
        Mean absolute changes of the score: by attribution, at random.

    Raises:
        ValueError: share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; expected a part of the cells between 0 and 1, such as 0.1")
    rng = np.random.default_rng(0) if rng is None else rng
    values = torch.cat([attribution[name].flatten(1) for name in samples], 1)
    present = ~values.isnan()
    number = (share * present.sum(1, keepdim=True)).round().clamp_min(1)
    with torch.no_grad():
        before = score_in_chunks(score, samples)

        def change(importance: Tensor) -> float:
            ranks = torch.where(present, importance, -torch.inf).argsort(1, descending=True).argsort(1)
            changed = _replaced(samples, baseline, (ranks < number) & present)
            return float((score_in_chunks(score, changed) - before).abs().mean())

        by_attribution = change(values * values.nansum(1, keepdim=True).sign())
        draws = [torch.as_tensor(rng.random(tuple(values.shape)), device=values.device) for _ in range(repeats)]
        return by_attribution, float(np.mean([change(draw) for draw in draws]))


def _replaced(samples: Samples, baseline: Samples, chosen: Tensor) -> dict[str, Tensor]:
    """Samples with the chosen cells ``(n, all cells)`` from the baseline."""
    parts = chosen.split([x[0].numel() for x in samples.values()], 1)
    masks = {name: part.view_as(x) for (name, x), part in zip(samples.items(), parts, strict=True)}
    return {name: torch.where(masks[name], baseline[name], x) for name, x in samples.items()}


def score_in_chunks(score: Score, samples: Samples) -> Tensor:
    """Scores ``(n,)``, a few hundred samples at a time."""
    n = count(samples)
    return torch.cat(
        [score({k: x[i : i + ROWS_AT_ONCE] for k, x in samples.items()}) for i in range(0, n, ROWS_AT_ONCE)]
    )
