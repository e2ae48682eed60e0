"""Variants of MAML as settings of :class:`metaad_zoo.learners.GradientLearner`."""

from __future__ import annotations

from typing import Any

from metaad_zoo.inner_loop import InnerLoopConfig
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.registry import register_learner


@register_learner("fomaml")
class FirstOrderMAML(GradientLearner):
    """MAML without second derivatives.

    Source: Finn et al., "Model-Agnostic Meta-Learning", ICML 2017, section 5.2; named in Nichol et al., "On First-Order
    Meta-Learning Algorithms", 2018.
    """

    fixed = {"order": 1}  # noqa: RUF012


@register_learner("anil")
class ANIL(GradientLearner):
    """Almost no inner loop: it adapts only the head; the backbone is meta-learned.

    Source: Raghu et al., "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML", ICLR 2020.
    """

    fixed = {"adapt": ("head.*",)}  # noqa: RUF012


@register_learner("boil")
class BOIL(GradientLearner):
    """Body only in the inner loop: it adapts only the backbone; the head is meta-learned.

    Source: Oh et al., "BOIL: Towards Representation Change for Few-shot Learning", ICLR 2021.
    """

    fixed = {"adapt": ("backbone.*",)}  # noqa: RUF012


@register_learner("meta_sgd")
class MetaSGD(GradientLearner):
    """Learns a rate in [0, 1] for each single weight, and so the direction of the inner steps.

    Source: Li et al., "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017 (there without bounds).
    """

    fixed = {"learn_lr": "element", "lr_range": (0.0, 1.0)}  # noqa: RUF012


@register_learner("maml_pp")
class MAMLPlusPlus(GradientLearner):
    """MAML++: ``maml`` with all parts of MAML++ as defaults.

    Source: Antoniou et al., "How to train your MAML", ICLR 2019, section 4. The parts are ``multi_step_epochs``,
    ``inner_loop.learn_lr=parameter_and_step``, ``inner_loop.batch_norm=per_step``, ``first_order_epochs`` and
    ``schedule=cosine``. Difference: no separate batch normalisation weights for each step.

    Args:
        inner_loop: settings of the inner loop; the default has rates and batch-norm statistics of each step, but an
            object given in Python replaces it as a whole.
        multi_step_epochs: see ``maml``.
        first_order_epochs: see ``maml``.
        kwargs: further arguments of ``maml``.
    """

    def __init__(
        self,
        *,
        inner_loop: InnerLoopConfig = InnerLoopConfig(  # noqa: B008 - frozen
            learn_lr="parameter_and_step", batch_norm="per_step"
        ),
        multi_step_epochs: int = 10,
        first_order_epochs: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            inner_loop=inner_loop, multi_step_epochs=multi_step_epochs, first_order_epochs=first_order_epochs, **kwargs
        )


@register_learner("imaml")
class ImplicitMAML(GradientLearner):
    """Implicit MAML: meta-gradients of the inner loop's optimum, in memory that does not grow with the inner steps.

    Source: Rajeswaran et al., "Meta-Learning with Implicit Gradients", NeurIPS 2019. See
    :func:`metaad_zoo.inner_loop.implicit.adapt_to_optimum`.

    Args:
        inner_loop: settings of the inner loop, with ``proximal`` above 0, and enough steps to approach the optimum.
        kwargs: further arguments of ``maml``.
    """

    fixed = {"order": "implicit"}  # noqa: RUF012

    def __init__(
        self,
        *,
        inner_loop: InnerLoopConfig = InnerLoopConfig(  # noqa: B008 - frozen
            steps=10, order="implicit", proximal=1.0
        ),
        **kwargs: Any,
    ) -> None:
        super().__init__(inner_loop=inner_loop, **kwargs)
