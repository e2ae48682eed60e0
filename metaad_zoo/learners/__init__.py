"""Learners: modules that are meta-trained over many tasks and adapt to a new task."""

from metaad_zoo.learners.base import Learner
from metaad_zoo.learners.classical import ClassicalLearner, classical_class
from metaad_zoo.learners.controls import can_start_from_scratch, from_scratch, untrained, with_steps
from metaad_zoo.learners.deep_sad import DeepSAD
from metaad_zoo.learners.deviation import DeviationNetwork
from metaad_zoo.learners.embedding import AdaptedEmbedding, EmbeddingLearner
from metaad_zoo.learners.fine_tuning import FineTuning, Trained
from metaad_zoo.learners.gradient import GradientLearner
from metaad_zoo.learners.in_context import InContextDetector
from metaad_zoo.learners.maml_family import ANIL, BOIL, FirstOrderMAML, ImplicitMAML, MAMLPlusPlus, MetaSGD
from metaad_zoo.learners.network import AdaptedNetwork
from metaad_zoo.learners.neural_process import ConditionalNeuralProcess
from metaad_zoo.learners.other_head import with_head
from metaad_zoo.learners.pairwise import PairwiseRelation
from metaad_zoo.learners.patch_change import AdaptedChange, ChangeDecoder, PatchChange
from metaad_zoo.learners.patch_memory import AdaptedMemory, PatchMemory
from metaad_zoo.learners.patch_metric import PatchMetric
from metaad_zoo.learners.pretrained import ContrastivePretraining
from metaad_zoo.learners.proto_maml import ProtoMAML
from metaad_zoo.learners.prototypes import PrototypicalNetwork
from metaad_zoo.learners.registry import learner_class, list_learners, register_learner
from metaad_zoo.learners.reptile import Reptile
from metaad_zoo.learners.statistics import AdaptiveCentredRepresentations
from metaad_zoo.learners.svdd import MetaSVDD
from metaad_zoo.learners.weighted_experts import WeightedExperts

__all__ = [
    "ANIL",
    "BOIL",
    "AdaptedChange",
    "AdaptedEmbedding",
    "AdaptedMemory",
    "AdaptedNetwork",
    "AdaptiveCentredRepresentations",
    "ChangeDecoder",
    "ClassicalLearner",
    "ConditionalNeuralProcess",
    "ContrastivePretraining",
    "DeepSAD",
    "DeviationNetwork",
    "EmbeddingLearner",
    "FineTuning",
    "FirstOrderMAML",
    "GradientLearner",
    "ImplicitMAML",
    "InContextDetector",
    "Learner",
    "MAMLPlusPlus",
    "MetaSGD",
    "MetaSVDD",
    "PairwiseRelation",
    "PatchChange",
    "PatchMemory",
    "PatchMetric",
    "ProtoMAML",
    "PrototypicalNetwork",
    "Reptile",
    "Trained",
    "WeightedExperts",
    "can_start_from_scratch",
    "classical_class",
    "from_scratch",
    "learner_class",
    "list_learners",
    "register_learner",
    "untrained",
    "with_head",
    "with_steps",
]
