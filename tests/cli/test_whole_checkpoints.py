"""Checkpoints stay whole: a kill while one is written, a full disk, and a temporary folder on another file system."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from metaad_zoo.experiment.whole_checkpoints import WholeCheckpointIO

KILLED = """
import os, signal, sys
import torch
from metaad_zoo.experiment.whole_checkpoints import WholeCheckpointIO
import metaad_zoo.atomic_write as atomic_write

def stop(*args):
    os.kill(os.getpid(), signal.SIGKILL)

{moment} = stop
WholeCheckpointIO().save_checkpoint({{"state_dict": {{"w": torch.ones(300_000)}}}}, sys.argv[1])
"""


def written(path: Path, value: float) -> None:
    WholeCheckpointIO().save_checkpoint({"state_dict": {"w": torch.full((300_000,), value)}}, path)


@pytest.mark.parametrize("moment", ["atomic_write._sync", "atomic_write.os.replace", "atomic_write.os.fsync"])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_earlier_one(moment, tmp_path):
    path = tmp_path / "last.ckpt"
    written(path, 0)
    code = KILLED.format(moment=moment)
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
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
