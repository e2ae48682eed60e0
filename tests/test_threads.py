"""Threads may share a model: they score, adapt, explain and decide at the same time as one alone would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import nn

from metaad_zoo.backbones import EpisodicBatchNorm, carry_task_axis, differentiable_recurrence, task_recurrent
from metaad_zoo.backbones.task_recurrent import cudnn_off
from metaad_zoo.detector import Detector
from metaad_zoo.learners import Learner, PatchMemory, learner_class, list_learners
from metaad_zoo.learners.network import load_parameters, with_own_modules
from metaad_zoo.zoo import Checkpoint
from tests.tiny import (
    EMBEDDING_LEARNERS,
    GRADIENT_LEARNERS,
    REGISTERED,
    TIMM,
    WITH_WEIGHTS,
    tiny_batch,
    tiny_embedding_learner,
    tiny_learner,
    tiny_patch_learner,
)

THREADS = 8
ONE_A_MODALITY = ("conv4", "gru", "columns", "fusion_gated")
LABELS = torch.tensor([0, 0, 1, -1])


@pytest.fixture(autouse=True)
def _switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def tiny(name: str, backbone: str, **inner_loop) -> Learner:
    if name in GRADIENT_LEARNERS:
        return tiny_learner(name, backbone, **inner_loop).eval()
    if name in EMBEDDING_LEARNERS:
        return tiny_embedding_learner(name, backbone).eval()
    return tiny_patch_learner(name, backbone).eval()


def at_once(work: Callable[[int], object], times: int = 1) -> list:
    """Results of ``work(i)`` for each thread ``i``, all started together."""
    barrier = Barrier(THREADS)

    def run(i: int) -> list[object]:
        barrier.wait()
        return [work(i) for _ in range(times)]

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(run, range(THREADS)))


MEMORIES = [name for name in list_learners() if issubclass(learner_class(name), PatchMemory)]
CASES = [
    *((name, backbone, "higher") for name in list_learners() if name not in MEMORIES for backbone in ONE_A_MODALITY),
    *(("maml", backbone, "vectorized") for backbone in WITH_WEIGHTS),
    *(("protonet", backbone, "higher") for backbone in REGISTERED if backbone not in ONE_A_MODALITY),
    *((name, "timm/vit_tiny_patch16_224", "higher") for name in ("maml", "protonet")),
    *(("patch_memory", backbone, "higher") for backbone in ("conv4", "vit", "timm/test_resnet")),
    *((name, "conv4", "higher") for name in ("patch_change", "patch_metric")),
]


@pytest.mark.parametrize(("name", "backbone", "engine"), CASES)
def test_threads_score_and_adapt_as_one_alone(name, backbone, engine):
    """Half of the threads score by two scorers of one learner, the others adapt it anew and score by that."""
    inner_loop = {"engine": engine, "adapt": ("head.*",) if backbone in TIMM else ("*",)}
    learner = tiny(name, backbone, **(inner_loop if name in GRADIENT_LEARNERS else {}))
    batch = tiny_batch(backbone, tasks=2)
    tasks = [({k: x[i] for k, x in batch.support.items()}, {k: x[i] for k, x in batch.query.items()}) for i in (0, 1)]
    weights = {key: x.clone() for key, x in learner.state_dict().items()}
    adapted = [learner.adapt(support, LABELS) for support, _ in tasks]
    alone = [one.score(query) for one, (_, query) in zip(adapted, tasks, strict=True)]
    assert not torch.equal(*alone)

    def work(i: int) -> torch.Tensor:
        support, query = tasks[i % 2]
        return (learner.adapt(support, LABELS) if i % 4 > 1 else adapted[i % 2]).score(query)

    for i, scores in enumerate(at_once(work, 3)):
        for one in scores:
            torch.testing.assert_close(one, alone[i % 2], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(x, weights[key]) for key, x in learner.state_dict().items())
    assert torch.backends.cudnn.enabled


def fitted(backbone: str = "conv4", name: str = "maml") -> tuple[Detector, list[dict], dict]:
    """A calibrated detector, two supports for it, and a query."""
    batch = tiny_batch(backbone, tasks=2)
    support, query = (
        {key: x.sigmoid() if key == "image" else x for key, x in part.items()} for part in (batch.support, batch.query)
    )
    supports = [{key: x[i] for key, x in support.items()} for i in (0, 1)]
    query = {key: x[0] for key, x in query.items()}
    calibration = {"calibration": torch.linspace(-1, 1, 99)}
    return Detector(Checkpoint(tiny(name, backbone), [], calibration)).fit(supports[0]), supports, query


@pytest.mark.parametrize("name", ["maml", "protonet", "in_context"])
def test_a_refit_is_seen_whole_or_not_at_all(name):
    detector, supports, query = fitted("gru", name)
    mixed = {key: torch.cat([supports[0][key], x]) for key, x in query.items()}

    def look() -> tuple[np.ndarray, ...]:
        return detector.judge(mixed, 0.5, "contamination", 0.25)

    expected = []
    for support in (supports[1], supports[0]):
        detector.fit(support)
        expected.append(look())

    def work(i: int) -> tuple[np.ndarray, ...]:
        if i == 0:
            for support in (supports[1], supports[0]) * 3:
                detector.fit(support)
        return look()

    for results in at_once(work, 4):
        for parts in results:
            fits = [all(np.allclose(a, b, atol=1e-5) for a, b in zip(parts, fit, strict=True)) for fit in expected]
            assert any(fits)


@pytest.mark.parametrize("backbone", ["conv4", "gru", "fusion_gated"])
def test_a_move_to_other_numbers_does_not_disturb_those_who_score(backbone):
    for name in ("maml", "protonet"):
        detector, _, query = fitted(backbone, name)
        expected = detector.score(query)

        def work(i: int, detector: Detector = detector, query: dict = query) -> np.ndarray:
            if i == 0:
                detector.to(torch.float64).to(torch.float32)
            return detector.score(query)

        for results in at_once(work, 3):
            for scores in results:
                np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)


def test_fitting_and_moving_do_not_undo_each_other():
    detector, supports, query = fitted()
    expected = detector.fit(supports[1]).score(query)
    for _ in range(5):
        detector.fit(supports[0])
        at_once(lambda i: detector.fit(supports[1]) if i == 0 else detector.to(torch.float32))
        np.testing.assert_allclose(detector.score(query), expected, rtol=1e-5, atol=1e-6)


def test_leaving_one_out_is_computed_once_for_all_threads(monkeypatch):
    detector, _, query = fitted()
    expected = detector.p_value(query, "within")
    detector, _, _ = fitted()
    learner = detector._checkpoint.learner
    calls: list[int] = []
    adapt = learner.adapt
    monkeypatch.setattr(learner, "adapt", lambda *task: (calls.append(0), adapt(*task))[1])
    for (p,) in at_once(lambda i: detector.p_value(query, "within")):
        np.testing.assert_array_equal(p, expected)
    assert len(calls) == 4


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion", "nearest"])
@pytest.mark.parametrize("backbone", ONE_A_MODALITY)
def test_threads_explain_as_one_alone(backbone, method):
    detector, _, query = fitted(backbone)
    one = {key: x[:1] for key, x in query.items()}
    expected, scores = detector.explain(one, method), detector.score(query)

    def work(i: int) -> object:
        return detector.explain(one, method) if i % 2 else detector.score(query)

    for i, (item,) in enumerate(at_once(work)):
        parts = zip(item.values(), expected.values(), strict=True) if isinstance(item, dict) else [(item, expected)]
        for a, b in parts if i % 2 else [(item, scores)]:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_is_not_adapted_is_shared_and_not_copied():
    learner = tiny_learner("maml", "timm/test_resnet", adapt=("head.*",)).eval()
    adapted = learner.adapt({"image": torch.rand(4, 1, 32, 32)}, LABELS)
    start = {**dict(learner.network.named_parameters()), **dict(learner.network.named_buffers())}
    for name, x in [*adapted.network.named_parameters(), *adapted.network.named_buffers()]:
        assert (x.data_ptr() == start[name].data_ptr()) == (not name.startswith("head.")), name
    modules = set(learner.network.modules())
    assert not any(module in modules for module in adapted.network.modules())


def test_a_learner_that_goes_on_training_does_not_change_how_its_scorers_normalise():
    learner = tiny_learner("maml_pp", "conv4").eval()
    query = torch.rand(5, 1, 16, 16)
    adapted = learner.adapt({"image": torch.rand(4, 1, 16, 16)}, LABELS)
    expected = adapted.score({"image": query})
    learner.train()
    assert torch.equal(adapted.score({"image": query}), expected)
    assert not any(layer.observed for layer in learner.modules() if isinstance(layer, EpisodicBatchNorm))


def test_tied_and_recurrent_weights_are_loaded():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.cells = nn.Linear(3, 3), nn.Linear(3, 3), nn.LSTM(3, 3, batch_first=True)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.cells(self.two(self.one(x)))[0]

    network, x = Tied(), torch.randn(2, 4, 3)
    before = network(x)
    changed = {name: p.detach() + 1 for name, p in network.named_parameters()}
    expected = torch.func.functional_call(network, changed, (x,))
    twin = with_own_modules(network)
    load_parameters(twin, changed)
    torch.testing.assert_close(twin(x), expected)
    assert twin.one.weight is twin.two.weight
    assert torch.equal(network(x), before)


def test_the_old_name_of_set_optimizer_warns():
    learner = tiny("maml", "mlp")
    with pytest.warns(DeprecationWarning, match="set_optimizer"):
        learner.train_by(torch.optim.SGD, "constant")
    assert learner._optimizer is torch.optim.SGD


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_recurrent_layers_leave_cudnn_without_the_switch_of_the_whole_process(kind, monkeypatch):
    """As on a GPU: within an inner loop, or for a gradient in evaluation mode, the cells are their own."""
    layer, x = kind(2, 3, num_layers=2, batch_first=True), torch.randn(4, 5, 2, requires_grad=True)
    expected = layer(x)[0]
    (slope,) = torch.autograd.grad(expected.square().sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.square().sum(), x)
    carry_task_axis(layer)
    monkeypatch.setattr(task_recurrent, "runs_in_cudnn", lambda x: True)
    monkeypatch.setattr(kind, "forward", lambda *args: pytest.fail("cuDNN has no second derivative"))
    with differentiable_recurrence(layer):
        result = layer(x)[0]
    (own_slope,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
    (own_curve,) = torch.autograd.grad(own_slope.square().sum(), x)
    for a, b in ((result, expected), (own_slope, slope), (own_curve, curve), (layer.eval()(x)[0], expected)):
        torch.testing.assert_close(a, b)


def test_cudnn_stays_off_while_any_thread_needs_it_so_and_comes_back():
    first, second = cudnn_off(), cudnn_off()
    with first:
        second.__enter__()
    assert not torch.backends.cudnn.enabled
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.enabled
