"""Known variants of MAML, each a setting of :class:`metaad_zoo.learners.GradientLearner` under its own name."""

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
    """Almost no inner loop: it adapts the head alone; the backbone is meta-learned.

    Source: Raghu et al., "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML", ICLR 2020.
    """

    fixed = {"adapt": ("head.*",)}  # noqa: RUF012


@register_learner("boil")
class BOIL(GradientLearner):
    """Body only in the inner loop: it adapts the backbone; the head is meta-learned.

    Source: Oh et al., "BOIL: Towards Representation Change for Few-shot Learning", ICLR 2021.
    """

    fixed = {"adapt": ("backbone.*",)}  # noqa: RUF012


@register_learner("meta_sgd")
class MetaSGD(GradientLearner):
    """Learns a rate for each single weight, and with it the inner loop's direction; rates are kept in [0, 1].

    Source: Li et al., "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017 (there without bounds).
    """

    fixed = {"learn_lr": "element", "lr_range": (0.0, 1.0)}  # noqa: RUF012


@register_learner("maml_pp")
class MAMLPlusPlus(GradientLearner):
    """MAML++: by default its parts are all on; each is a setting of its own that ``maml`` takes too.

    Source: Antoniou et al., "How to train your MAML", ICLR 2019, section 4. The parts: ``multi_step_epochs``,
    ``inner_loop.learn_lr=parameter_and_step``, ``inner_loop.batch_norm=per_step``, ``first_order_epochs`` and
    ``schedule=cosine``. Left out: batch normalisation weights of each step.

    Args:
        inner_loop: as for ``maml``, by default with rates and batch-norm statistics of each step; one that is given
            whole in Python must ask for them itself.
        multi_step_epochs: as for ``maml``.
        first_order_epochs: as for ``maml``.
        kwargs: all else, as for ``maml``.
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
    """Meta-gradients of the inner loop's optimum: memory does not grow with the number of inner steps.

    Source: Rajeswaran et al., "Meta-Learning with Implicit Gradients", NeurIPS 2019. See
    :func:`metaad_zoo.inner_loop.implicit.adapt_to_optimum`.

    Args:
        inner_loop: as for ``maml``; ``proximal`` above 0, and steps enough to come near the optimum.
        kwargs: all else, as for ``maml``.
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
