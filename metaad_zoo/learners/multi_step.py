"""Weights of the query losses behind each step of an inner loop."""

from __future__ import annotations


def multi_step_weights(steps: int, epoch: int, epochs: int) -> list[float]:
    """Weights of the query losses behind each inner step (multi-step loss with annealing).

    Source: Antoniou et al., "How to train your MAML", ICLR 2019, section 4; the schedule is that of the authors' code:
    all equal at first, then moving to the last step by equal amounts, of which each other step keeps 0.03 of its share.

    Args:
        steps: of the inner loop.
        epoch: the current one, from 0.
        epochs: that the schedule takes.

    Example:
        >>> [multi_step_weights(2, epoch, epochs=2) for epoch in (0, 1)]
        [[0.5, 0.5], [0.25, 0.75]]
    """
    share = 1 / steps
    early = max(share - epoch * share / epochs, 0.03 * share)
    return [*[early] * (steps - 1), 1 - early * (steps - 1)]
