"""A compiled outer step has the loss and the meta-gradient of the vectorized engine."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from metaad_zoo.inner_loop.compiled import CompiledSteps, compile_trace, trace_step, without_compilation
from metaad_zoo.learners import GradientLearner
from metaad_zoo.learners.compiled_step import CompiledOuterStep
from tests.inner_loop.test_engines import LEARNERS
from tests.tiny import meta_gradient, relative_difference, tiny_batch, tiny_learner

REFUSING = ("maml_pp", "reptile")
"""MAML++ collects statistics of each step outside of the graph, and Reptile takes no meta-gradient."""
TRACED = [(learner, order) for learner, order in LEARNERS if order != "implicit" and learner not in REFUSING]


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def traced(learner: str, backbone: str, **inner_loop) -> GradientLearner:
    """A learner whose outer step is traced and not compiled."""
    made = tiny_learner(learner, backbone, engine="vectorized", compile=True, **inner_loop)
    made.compiled = CompiledOuterStep(CompiledSteps(fuse=False))
    return made


@pytest.mark.parametrize(("learner", "order"), TRACED)
def test_every_learner_is_traced_without_a_difference(learner, order):
    batch = tiny_batch("mlp")
    eager = tiny_learner(learner, "mlp", engine="vectorized", order=order, steps=1)
    ours = traced(learner, "mlp", order=order, steps=1)
    assert ours.outer_loss(batch).item() == pytest.approx(eager.outer_loss(batch).item(), rel=1e-12)
    assert relative_difference(meta_gradient(ours, batch), meta_gradient(eager, batch)) <= 1e-12


@pytest.mark.parametrize(
    ("backbone", "missing"), [("conv4", False), ("resnet_mlp", False), ("transformer", False), ("gru:any", True)]
)
def test_backbones_are_traced_without_a_difference(backbone, missing):
    batch = tiny_batch(backbone)
    if missing:
        for samples in (batch.support, batch.query):
            samples["sequence"][0, 0, -2:] = torch.nan  # padding
            samples["sequence"][1, 1, 0] = torch.nan
    eager = meta_gradient(tiny_learner("maml", backbone, engine="vectorized", steps=1), batch)
    assert relative_difference(meta_gradient(traced("maml", backbone, steps=1), batch), eager) <= 1e-12


@pytest.mark.slow
def test_a_compiled_step_has_the_same_gradient_and_follows_new_weights_and_shapes():
    eager = tiny_learner("maml", "mlp", engine="vectorized", steps=1)
    compiled = tiny_learner("maml", "mlp", engine="vectorized", steps=1, compile=True)
    batch = tiny_batch("mlp")
    for _ in range(2):
        assert relative_difference(meta_gradient(compiled, batch), meta_gradient(eager, batch)) <= 1e-8
        with torch.no_grad():
            for learner in (eager, compiled):
                for p in learner.parameters():
                    p.mul_(0.9)


def test_parts_of_a_batch_and_new_shapes():
    for tasks in (2, 5):
        batch = tiny_batch("mlp", tasks=tasks)
        eager = meta_gradient(tiny_learner("maml", "mlp", engine="vectorized", steps=1), batch)
        ours = traced("maml", "mlp", tasks_at_once=2, steps=1)
        assert relative_difference(meta_gradient(ours, batch), eager) <= 1e-12


def test_a_diverging_task_is_named():
    batch = tiny_batch("mlp")
    batch.support["tabular"][1, 0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="inner step 0"):
        traced("maml", "mlp", lr=1e200, steps=1).outer_loss(batch)


def test_random_numbers_and_branches_on_values_are_refused():
    x = torch.ones(3)
    with pytest.raises(ValueError, match="random numbers"):
        trace_step(lambda v: (torch.dropout(v, 0.5, True),), [x])
    with pytest.raises(ValueError, match="depend on values"):
        trace_step(lambda v: (v + 1 if v.sum() > 0 else v,), [x])


def test_a_missing_compiler_is_named(monkeypatch):
    from torch._inductor import cpp_builder

    def no_compiler(*_: object) -> str:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", no_compiler)
    x = torch.rand(7, 3)
    with pytest.raises(ValueError, match=r"C\+\+ compiler"):
        compile_trace(trace_step(lambda v: (v.sin().cos() * 3.0,), [x]), [x])


def test_copies_start_without_compiled_versions():
    steps = CompiledSteps(fuse=False)
    steps.run(lambda v: (v + 1,), [torch.ones(2)])
    for twin in (copy.deepcopy(steps), pickle.loads(pickle.dumps(steps))):
        assert twin.run(lambda v: (v + 2,), [torch.ones(2)])[0].tolist() == [3, 3]


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": "higher"},
        {"checkpoint_steps": True},
        {"batch_norm": "per_step"},
        {"order": "implicit", "proximal": 1.0},
    ],
    ids=str,
)
def test_settings_that_do_not_go_together_are_refused(settings):
    with pytest.raises(ValueError, match=r"inner_loop.compile"):
        tiny_learner("maml", "mlp", **{"engine": "vectorized", "compile": True, **settings})


@pytest.mark.parametrize("learner", REFUSING)
def test_learners_that_cannot_be_compiled_refuse(learner):
    with pytest.raises(ValueError, match=r"inner_loop.compile"):
        tiny_learner(learner, "mlp", engine="vectorized", compile=True)


def test_a_traced_learner_counts_its_versions():
    """A batch of another shape is traced anew; the explanation of a divergence traces nothing."""
    learner = traced("maml", "mlp", steps=1)
    learner.outer_loss(tiny_batch("mlp"))
    with without_compilation():
        learner.outer_loss(tiny_batch("mlp", tasks=1))
    assert learner.compiled.steps.versions == 1
    learner.outer_loss(tiny_batch("mlp", tasks=1))
    assert learner.compiled.steps.versions == 2


def test_a_batch_with_missing_values_is_traced_anew():
    """A version without masks serves complete batches only."""
    learner, batch = traced("maml", "tcn", order=1, steps=1), tiny_batch("tcn")
    learner.outer_loss(batch)
    batch.query["sequence"][0, 0, -1] = torch.nan
    eager = tiny_learner("maml", "tcn", engine="vectorized", order=1, steps=1)
    assert learner.outer_loss(batch).item() == pytest.approx(eager.outer_loss(batch).item(), rel=1e-12)
    assert learner.compiled.steps.versions == 2


def test_other_errors_of_a_step_are_not_taken_for_branches():
    with pytest.raises(RuntimeError, match="shape"):
        trace_step(lambda v: (v.view(2, 2),), [torch.ones(3)])
