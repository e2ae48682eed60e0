"""Meta-SVDD: the smallest ball around the support's embeddings, by a differentiable solver."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaad_zoo.episodes import ANOMALOUS
from metaad_zoo.learners.embedding import EmbeddingLearner, Reading
from metaad_zoo.learners.registry import register_learner


@register_learner("meta_svdd")
class MetaSVDD(EmbeddingLearner):
    """Deep one-class description: centre and radius of the smallest ball around the normal support samples.

    Source: Dahia and Pamplona Segundo, "Meta Learning for Few-Shot One-class Classification", 2020; the ball is that of
    Tax and Duin, "Support Vector Data Description", Machine Learning 2004, equation 13: its centre is ``sum_i a_i x_i``
    where ``a`` on the simplex maximises ``sum_i a_i |x_i|^2 - |sum_i a_i x_i|^2``, and its squared radius is that
    maximum. An entropy term with weight ``penalty`` keeps the weights close to equal, like slack variables. For a large
    penalty the centre tends to the mean, which is Deep SVDD's closed form (Ruff et al., ICML 2018). The logit is
    ``scale (|x - c|^2 - R^2 - margin)``, with learned scale and margin, and distances as means over features.

    Args:
        penalty: weight of the entropy, in units of the support's mean squared distance; 0: the exact ball.
        iterations: number of iterations of exponentiated gradient ascent, through which the meta-gradient flows.
        kwargs: further arguments of :class:`EmbeddingLearner`.
    """

    def __init__(self, *, penalty: float = 0.1, iterations: int = 50, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if penalty < 0 or iterations < 1:
            raise ValueError(f"penalty is {penalty} and iterations {iterations}; expected 0 or more and 1 or more")
        self._arguments |= {"penalty": penalty, "iterations": iterations}
        self.penalty, self.iterations = penalty, iterations
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.margin = nn.Parameter(torch.tensor(0.0))

    def read(self, embeddings: Tensor, labels: Tensor) -> Reading:
        """The ball's ``centre`` ``(..., d)`` and squared ``radius`` ``(...)``."""
        weights = ball_weights(embeddings, labels != ANOMALOUS, self.penalty, self.iterations)
        centre = (weights.unsqueeze(-1) * embeddings).sum(-2)
        distances = (embeddings - centre.unsqueeze(-2)).square().mean(-1)
        return {"centre": centre, "radius": (weights * distances).sum(-1)}

    def compare(self, reading: Reading, embeddings: Tensor) -> Tensor:
        """``scale (|x - c|^2 - R^2 - margin)``."""
        distances = (embeddings - reading["centre"].unsqueeze(-2)).square().mean(-1)
        return self.log_scale.exp() * (distances - reading["radius"].unsqueeze(-1) - F.softplus(self.margin))


def ball_weights(x: Tensor, chosen: Tensor, penalty: float, iterations: int) -> Tensor:
    """Weights of samples whose weighted mean is the centre of the smallest ball around them.

    Args:
        x: ``(..., n, d)``.
        chosen: ``(..., n)`` booleans of the samples in the ball.
        penalty: see :class:`MetaSVDD`.
        iterations: number of iterations of exponentiated gradient ascent (Kivinen and Warmuth, 1997).

    Returns:
        ``(..., n)``, 0 for samples that are not chosen; the sum is 1.
    """
    mask = chosen.to(x.dtype)
    share = mask / mask.sum(-1, keepdim=True).clamp_min(1)
    centred = x - (share.unsqueeze(-1) * x).sum(-2, keepdim=True)
    unit = (share * centred.square().mean(-1)).sum(-1).clamp_min(1e-12).sqrt()
    gram = centred @ centred.transpose(-1, -2) / x.shape[-1] / unit.square()[..., None, None]
    logits = torch.where(chosen, 0.0, -torch.inf).to(x.dtype)
    lengths = gram.diagonal(dim1=-2, dim2=-1)
    rate = 0.5 / lengths.amax(-1, keepdim=True).clamp_min(max(1.0, penalty))
    for _ in range(iterations):
        weights = torch.softmax(logits, -1)
        ascent = lengths - 2 * (gram @ weights.unsqueeze(-1)).squeeze(-1)
        entropy = penalty * torch.log(weights.clamp_min(1e-12)) if penalty else 0.0
        logits = logits + rate * (ascent - entropy)
    return torch.softmax(logits, -1)
