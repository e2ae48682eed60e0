"""The stream of batches does not depend on workers, processes, or where it was taken up again."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from metaad_zoo.data import ImageEpisodes, RandomCamera
from metaad_zoo.episodes import EpisodeBatch, EpisodeLoader, EpisodeSampler, EpisodeSpec
from tests.conftest import SPLITS


def sampler() -> EpisodeSampler:
    data = ImageEpisodes(splits=SPLITS, image_size=16, camera=RandomCamera(), finer_tasks=0.5)
    data.episode = EpisodeSpec(3, query_normal=4, query_anomalous=4)
    return data.sampler("train")


def contents(batches) -> list[tuple[list[str], torch.Tensor]]:
    return [(b.tasks, torch.cat([b.support["image"], b.query["image"]], 1)) for b in batches]


def assert_same(batch, expected):
    assert [tasks for tasks, _ in batch] == [tasks for tasks, _ in expected]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(batch, expected, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_episodes(workers):
    alone = EpisodeLoader(sampler(), 12, 2, advance=True)
    shared = EpisodeLoader(sampler(), 12, 2, advance=True, num_workers=workers)
    for _ in range(2):  # two epochs, through persistent workers
        assert_same(contents(shared), contents(alone))


def test_epochs_advance_in_training_and_repeat_in_evaluation():
    training, evaluation = (EpisodeLoader(sampler(), 4, 2, advance=a) for a in (True, False))
    assert contents(training)[0][1].ne(contents(training)[0][1]).any()
    assert_same(contents(evaluation), contents(evaluation))


@pytest.mark.parametrize("stop", range(1, 6))
def test_resumes_at_any_batch(stop):
    straight = EpisodeLoader(sampler(), 6, 2, advance=True)
    expected = contents(straight) + contents(straight)  # two epochs of three batches

    def stream(loader):
        while True:
            yield from loader

    stopped, resumed = (EpisodeLoader(sampler(), 6, 2, advance=True) for _ in range(2))
    before = contents(islice(stream(stopped), stop))
    resumed.load_state_dict(stopped.state_dict())
    after = contents(islice(stream(resumed), 6 - stop))
    assert_same(before + after, expected)


def test_a_pass_cut_short_is_not_taken_up_again():
    """Lightning's sanity check looks at two validation batches; each validation must see all of them all the same."""
    evaluation = EpisodeLoader(sampler(), 6, 2, advance=False)
    expected = contents(EpisodeLoader(sampler(), 6, 2, advance=False))
    list(islice(evaluation, 2))
    assert_same(contents(evaluation), expected)
    training = EpisodeLoader(sampler(), 6, 2, advance=True)
    list(islice(training, 2))
    second = EpisodeLoader(sampler(), 6, 2, advance=True)
    list(second)
    assert_same(contents(training), contents(second))


def test_the_first_pass_begins_with_the_first_episode_of_epoch_0():
    loader = EpisodeLoader(sampler(), 4, 2, advance=True)
    assert loader.state_dict() == {"epoch": 0, "batch": 0}
    first = EpisodeBatch.collate([sampler().episode(0, i) for i in range(2)])
    assert_same(contents(islice(loader, 1)), contents([first]))


def test_a_state_at_the_end_of_an_epoch_continues_with_the_next():
    finished, resumed = (EpisodeLoader(sampler(), 4, 2, advance=True) for _ in range(2))
    list(finished)
    resumed.load_state_dict(finished.state_dict())
    assert_same(contents(resumed), contents(finished))
    assert resumed.state_dict() == {"epoch": 1, "batch": 2}


@pytest.mark.parametrize("tasks", [4, 0])
def test_an_epoch_too_short_for_a_batch_is_refused(tasks):
    with pytest.raises(ValueError, match=f"3 episodes an epoch do not fill one batch of {tasks} tasks"):
        EpisodeLoader(sampler(), 3, tasks, advance=True)


@pytest.mark.parametrize(("episodes", "messages"), [(8, []), (10, ["the last 2 of 10 train episodes"])])
def test_episodes_that_fill_no_batch_are_reported(episodes, messages, caplog):
    assert len(EpisodeLoader(sampler(), episodes, 4, advance=True)) == 2
    assert [record.getMessage().partition(" fill no batch of 4 tasks")[0] for record in caplog.records] == messages


def test_collate_refuses_mixed_sizes():
    small = sampler().episode(0, 0)
    large = EpisodeSampler(sampler().pool, EpisodeSpec(4), "train", 0).episode(0, 0)
    with pytest.raises(ValueError, match="same modalities, numbers of samples"):
        EpisodeBatch.collate([small, large])


def _tasks_of_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    loader = EpisodeLoader(sampler(), 12, 3, advance=True)
    torch.save([x for _, x in contents(loader)], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_two_processes_share_out_what_one_would_take(tmp_path):
    """Forked, because a new process imports for seconds."""
    mp.start_processes(_tasks_of_rank, args=(str(tmp_path),), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    for b, (_, union) in enumerate(contents(EpisodeLoader(sampler(), 12, 6, advance=True))):
        assert torch.equal(union[0::2], ranks[0][b])
        assert torch.equal(union[1::2], ranks[1][b])
