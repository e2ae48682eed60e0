"""Checkpoints in Hugging Face repositories: pushed and pulled by huggingface_hub, over HTTP, from a hub of our own."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import metaad_zoo as mz
from metaad_zoo.cli import main
from tests.zoo.conftest import NAME
from tests.zoo.hub_server import running_hub

pytest.importorskip("huggingface_hub")
WINDOWS = np.random.default_rng(0).normal(size=(6, 32, 1)).astype("float32")


def scores(name):
    return mz.load_detector(name).fit(WINDOWS[:3]).score(WINDOWS)


@pytest.fixture
def hub(zoo, monkeypatch):
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield running


def test_push_then_pull(hub, zoo, tmp_path, capsys):
    assert main(["push", NAME, "me/mine", "--private"]) == 0
    assert hub.tokens == {"Bearer hf_of_a_test"}
    first = capsys.readouterr().out.split()[-1]
    assert first == f"hf://me/mine@{hub.commit_id('me/mine', 0)}"
    assert set(hub.repositories["me/mine"][0]) == {p.name for p in (zoo / NAME).iterdir()}
    for address in ("hf://me/mine", first):
        np.testing.assert_array_equal(scores(address), scores(NAME))
    assert main(["pull", "hf://me/mine", "--out", str(tmp_path / "pulled")]) == 0
    np.testing.assert_array_equal(scores(tmp_path / "pulled"), scores(NAME))
    assert (tmp_path / "pulled" / "README.md").read_bytes() == (zoo / NAME / "README.md").read_bytes()
    capsys.readouterr()
    assert main(["info", "hf://me/mine"]) == 0
    assert "Limits, and when not to use it" in capsys.readouterr().out
    mz.push_to_hub(zoo / NAME, "me/mine")
    assert len(hub.repositories["me/mine"]) == 2
    del hub.repositories["me/mine"][-1]["README.md"]
    assert main(["info", "hf://me/mine"]) == 0
    assert "has no card" in capsys.readouterr().out


def test_a_folder_of_a_repository(hub, zoo):
    files = {f"sub/model/{p.name}": p.read_bytes() for p in (zoo / NAME).iterdir()}
    hub.repositories["me/many"] = [files]
    np.testing.assert_array_equal(scores("hf://me/many/sub/model"), scores(NAME))
    np.testing.assert_array_equal(scores("hf://me/many/sub/model@main"), scores(NAME))


def test_a_new_commit_is_seen_and_files_are_of_one_commit(hub, zoo, run, tmp_path):
    mz.push_to_hub(zoo / NAME, "me/mine")
    before = scores("hf://me/mine")
    old, new = hub.repositories["me/mine"][0], {p.name: p.read_bytes() for p in (run / "model").iterdir()}
    hub.repositories["me/mine"].append({**old, "manifest.json": b"{"})
    with pytest.raises(mz.CheckpointError, match=r"manifest\.json is damaged"):
        mz.load_detector("hf://me/mine")
    hub.repositories["me/mine"].append(new)
    np.testing.assert_array_equal(scores("hf://me/mine"), before)


def test_what_goes_wrong_is_named(hub, zoo, monkeypatch):
    for address in ("hf://me", "hf://me/../you", "hf://me/mine@", "hf:///x/y"):
        with pytest.raises(mz.CheckpointError, match="expected hf://owner/repository"):
            mz.load_detector(address)
    with pytest.raises(mz.CheckpointError, match=r"hf://me/none: Hugging Face says"):
        mz.load_detector("hf://me/none")
    content = {p.name: p.read_bytes() for p in (zoo / NAME).iterdir()}
    weights = content["model.safetensors"]
    hub.repositories["me/changed"] = [{**content, "model.safetensors": weights[:-1] + bytes([weights[-1] ^ 1])}]
    with pytest.raises(mz.CheckpointError, match=r"model\.safetensors has sha256"):
        mz.load_detector("hf://me/changed")
    hub.repositories["me/half"] = [{k: v for k, v in content.items() if k != "model.safetensors"}]
    with pytest.raises(mz.CheckpointError, match=r"hf://me/half: Hugging Face says .*NotFound"):
        mz.load_detector("hf://me/half")
    (zoo / NAME / "manifest.json").write_text("{")
    with pytest.raises(mz.CheckpointError, match=r"manifest\.json is damaged"):
        mz.push_to_hub(zoo / NAME, "me/never")
    assert "me/never" not in hub.repositories
    hub.repositories["me/large"] = [content]
    hub.sizes["model.safetensors"] = 2**50
    with pytest.raises(mz.CheckpointError, match=r"model\.safetensors has .* bytes, expected at most"):
        mz.load_detector("hf://me/large")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(mz.CheckpointError, match=r"pip install 'metaad_zoo\[hub\]'"):
        mz.load_detector("hf://me/mine")


def test_a_hub_out_of_reach_is_named(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost:9")
    with pytest.raises(mz.CheckpointError, match="Hugging Face says"):
        mz.load_detector("hf://me/mine")
