"""Checkpoints stay whole: a kill in their writing, SIGTERM, a full disk, a temporary folder on another file system."""

from __future__ import annotations

import copy
import errno
import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from metaad_zoo import atomic_write
from metaad_zoo.experiment.whole_checkpoints import LastCheckpoint, WholeCheckpointIO
from metaad_zoo.learners.training import trainable
from tests.conftest import small_learner
from tests.learners.test_training import QUIET


def written(path: Path, value: float) -> None:
    WholeCheckpointIO().save_checkpoint({"state_dict": {"w": torch.full((300_000,), value)}}, path)


def write_until(moment: str, path: Path) -> None:
    """Write a checkpoint, and be killed where a function of ``atomic_write`` is called."""

    def stop(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    owner, _, name = moment.rpartition(".")
    setattr({"atomic_write": atomic_write, "atomic_write.os": atomic_write.os}[owner], name, stop)
    written(path, 1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("moment", ["atomic_write._sync", "atomic_write.os.replace", "atomic_write.os.fsync"])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_earlier_one(moment, tmp_path):
    path = tmp_path / "last.ckpt"
    written(path, 0)
    process = multiprocessing.get_context("fork").Process(target=write_until, args=(moment, path))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert not torch.load(path, weights_only=True)["state_dict"]["w"].any()
    assert len(list(tmp_path.iterdir())) == 2, "the killed process leaves a part beside it"
    written(path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_nothing_is_written_to_the_temporary_folder(tmp_path, monkeypatch):
    """It may be on another file system, from where a move is a copy into the earlier file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    written(tmp_path / "last.ckpt", 1)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["w"].all()


def test_a_full_disk_leaves_the_earlier_checkpoint_and_says_which_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    written(path, 0)

    def full(self, content):
        with self.open("wb") as file:
            file.write(bytes(content)[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        OSError, match=r"last\.ckpt can't be written \(No space left on device\); --ckpt_path last"
    ) as caught:
        written(path, 1)
    assert caught.value.errno == errno.ENOSPC
    assert not torch.load(path, weights_only=True)["state_dict"]["w"].any()
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


class Terminate(pl.Callback):
    """SIGTERM to this process at the first batch or validation after so many outer steps."""

    def __init__(self, hook: str, step: int):
        setattr(self, hook, lambda trainer, *_: trainer.global_step == step and os.kill(os.getpid(), signal.SIGTERM))


class Validations(pl.Callback):
    """Steps after which a validation has been finished."""

    def __init__(self):
        self.steps = []

    def on_validation_end(self, trainer, learner):
        if not trainer.sanity_checking:
            self.steps.append(trainer.global_step)


def trained(folder, data, *, stop=None, resume=None, **length):
    torch.manual_seed(3)
    learner, validations = small_learner(steps=1), Validations()
    learner.diagnose_every = 0
    last = LastCheckpoint(dirpath=folder, filename="last", every_n_train_steps=1, enable_version_counter=False)
    callbacks = [validations, last, *([Terminate(*stop)] if stop else [])]
    trainer = pl.Trainer(**QUIET, callbacks=callbacks, plugins=[WholeCheckpointIO()], **length)
    trainer.fit(trainable(learner), datamodule=copy.deepcopy(data), ckpt_path=resume, weights_only=True)
    return learner.state_dict(), validations.steps


@pytest.mark.parametrize(
    ("hook", "step", "saved", "validated"),
    [
        ("on_train_batch_start", 0, 1, [2, 4]),
        ("on_train_batch_start", 1, 1, [2, 4]),
        ("on_validation_batch_start", 2, 1, [2, 4]),
        ("on_validation_end", 2, 3, [4]),
        ("on_train_end", 4, 4, []),
    ],
)
def test_sigterm_leaves_a_checkpoint_that_resumes_to_the_same_end(hook, step, saved, validated, tmp_path, digits):
    """Two epochs of four batches in groups of three; a step before a validation is not saved without it."""
    length = {"max_epochs": 2, "accumulate_grad_batches": 3}
    straight, _ = trained(tmp_path / "a", digits, **length)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        trained(tmp_path / "b", digits, stop=(hook, step), **length)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    last = str(tmp_path / "b" / "last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == saved
    resumed, validations = trained(tmp_path / "b", digits, resume=last, **length)
    assert validations == validated
    assert all(torch.equal(x, straight[name]) for name, x in resumed.items())


@pytest.mark.parametrize("length", [{"check_val_every_n_epoch": 2}, {"val_check_interval": 2}], ids=str)
def test_checkpoints_after_epochs_without_and_with_several_validations_resume_to_the_same_end(length, tmp_path, digits):
    length = {"max_epochs": 2, **length}
    straight, validations = trained(tmp_path / "a", digits, **length)
    with pytest.raises(SystemExit):
        trained(tmp_path / "b", digits, stop=("on_train_batch_start", 4), **length)
    resumed, rest = trained(tmp_path / "b", digits, resume=str(tmp_path / "b" / "last.ckpt"), **length)
    assert rest == [step for step in validations if step > 4]
    assert all(torch.equal(x, straight[name]) for name, x in resumed.items())


def test_a_detector_on_a_full_disk_names_the_file_and_leaves_no_part(tmp_path, monkeypatch, capsys):
    from metaad_zoo.cli import main

    (tmp_path / "rows.csv").write_text("a,b\n1.5,2\n2.5,3\n3.5,5\n")

    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["adapt", "knn", "--support", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: no space left on the disk to write {tmp_path / 'out'}/")
    assert "make room, or name another folder" in error
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "rows.csv"]


def test_a_training_on_a_full_disk_ends_in_one_sentence(tmp_path, monkeypatch):
    from metaad_zoo.cli.train import run
    from tests.cli.short import QUICKSTART, SHORT

    def full(self, checkpoint, path, storage_options=None):
        raise OSError(errno.ENOSPC, f"the checkpoint {path} can't be written")

    monkeypatch.setattr(WholeCheckpointIO, "save_checkpoint", full)
    with pytest.raises(SystemExit, match=r"^error: no space left on the disk \(the checkpoint .*\): make room"):
        run(["fit", *QUICKSTART, *SHORT, "--runs", str(tmp_path)])
