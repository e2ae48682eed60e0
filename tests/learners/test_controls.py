"""The same weights with another number of inner steps."""

from __future__ import annotations

import pytest
import torch

from metaad_zoo.learners import with_steps
from tests.conftest import small_learner


def scores(learner, episode):
    return learner.eval().adapt(episode.support, episode.support_labels).score(episode.query)


def same_weights(learner, steps, **given):
    """A learner built with so many steps from the start, with the other's network."""
    other = small_learner(steps=steps, **given)
    other.network.load_state_dict(learner.network.state_dict())
    return other


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_fixed_rates_take_as_many_steps_as_asked(steps, digits):
    learner, episode = small_learner(), next(digits.episodes("test", 1))
    before = scores(learner, episode)
    changed = with_steps(learner, steps)
    assert torch.equal(scores(changed, episode), scores(same_weights(learner, steps), episode))
    assert changed.inner_loop.config.steps == steps
    assert torch.equal(scores(learner, episode), before), "the learner stays as it is"


@pytest.mark.parametrize(("steps", "rates"), [(0, [0.1]), (1, [0.1]), (2, [0.1, 0.2]), (4, [0.1, 0.2, 0.2, 0.2])])
def test_learned_rates_of_each_step_go_on_with_the_last(steps, rates, digits):
    learner, episode = small_learner(learn_lr="parameter_and_step"), next(digits.episodes("test", 1))
    with torch.no_grad():
        learner.inner_loop.rates[:, 1] = 0.2
    changed = with_steps(learner, steps)
    assert changed.inner_loop.rates[0].tolist() == pytest.approx(rates)
    other = same_weights(learner, steps, learn_lr="parameter_and_step")
    with torch.no_grad():
        other.inner_loop.rates.copy_(torch.tensor(rates).expand_as(other.inner_loop.rates))
    assert torch.equal(scores(changed, episode), scores(other, episode))


def test_averages_of_each_step_allow_no_other_number(digits):
    learner = small_learner(batch_norm="per_step")
    with pytest.raises(ValueError, match="averages for 2 inner steps alone"):
        with_steps(learner, 3)
    episode = next(digits.episodes("test", 1))
    assert torch.equal(scores(with_steps(learner, 2), episode), scores(learner, episode))
