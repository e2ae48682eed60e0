"""Every way of damaging or forging a checkpoint that we thought of ends in a named error, soon and in little memory."""

from __future__ import annotations

import json
import os
import resource
import shutil

import pytest

import metaad_zoo as mz
from metaad_zoo.zoo import is_checkpoint
from metaad_zoo.zoo.index import parse_index
from metaad_zoo.zoo.reading import TEXT_LIMIT
from tests.zoo.forge import FORGED

SAID = json.loads((FORGED / "cases.json").read_text())
FOLDERS = sorted(name for name in SAID if not name.startswith("indexes/"))
INDEXES = sorted(name for name in SAID if name.startswith("indexes/"))


def test_each_file_has_its_case():
    assert {p.name for p in (FORGED / "folders").iterdir()} == {*FOLDERS, "sound"}
    assert {f"indexes/{p.name}" for p in (FORGED / "indexes").iterdir()} == set(INDEXES)


def test_what_they_are_made_from_is_sound():
    detector = mz.load_detector(FORGED / "folders" / "sound")
    assert detector.fit([[0.0, 1.0, 2.0], [1.0, 1.0, 2.0]]).score([[5.0, 5.0, 5.0]]).shape == (1,)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_forged_checkpoint(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert is_checkpoint(FORGED / "folders" / name)
    with pytest.raises(mz.CheckpointError, match=SAID[name]):
        mz.load_detector(FORGED / "folders" / name)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000, f"{grown} kB more"  # timm's own import, that a forged name may cause, is the largest


@pytest.mark.parametrize("name", INDEXES)
def test_a_forged_index(name):
    with pytest.raises(mz.CheckpointError, match=SAID[name]):
        parse_index((FORGED / name).read_bytes(), name)


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(FORGED / "folders" / "sound", tmp_path / "c")
    return tmp_path / "c"


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "config.yaml"])
def test_devices_pipes_and_endless_files_are_not_read(name, folder):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(mz.CheckpointError, match=r"no regular file|is no checkpoint"):
        mz.load_detector(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(mz.CheckpointError, match=r"no regular file|is no checkpoint"):
        mz.load_detector(folder)
    (folder / name).unlink()
    with (folder / name).open("wb") as file:
        file.truncate(2**40)  # sparse: takes no room
    with pytest.raises(mz.CheckpointError, match=r"bytes, expected at most"):
        mz.load_detector(folder)
    assert TEXT_LIMIT < 2**40
