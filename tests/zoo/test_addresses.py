"""Checkpoints by name and from addresses, over real HTTP and TLS: verified, bounded, cached, never from elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import ssl
import subprocess
import threading
import time
import tracemalloc

import numpy as np
import pytest

import metaad_zoo as mz
from metaad_zoo.cli import main
from metaad_zoo.zoo import transfer
from metaad_zoo.zoo.reading import TEXT_LIMIT, parse_yaml
from metaad_zoo.zoo.transfer import Reach, Transfer
from tests.zoo.conftest import NAME
from tests.zoo.forge import FORGED
from tests.zoo.server import drip, endless, redirect, serving

WINDOWS = np.random.default_rng(0).normal(size=(6, 32, 1)).astype("float32")


def scores(name):
    return mz.load_detector(name).fit(WINDOWS[:3]).score(WINDOWS)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def server(zoo):
    with serving(zoo) as running:
        yield running


def test_by_name(zoo, run):
    assert mz.list_checkpoints() == mz.list_checkpoints("*gru*", modality="sequence") == [NAME]
    assert mz.list_checkpoints("*omniglot*") == mz.list_checkpoints(modality="image") == []
    np.testing.assert_array_equal(scores(NAME), scores(run))
    with pytest.raises(ValueError, match="unknown modality of checkpoints: 'sequences'; did you mean 'sequence'"):
        mz.list_checkpoints(modality="sequences")
    with pytest.raises(mz.CheckpointError, match=f"did you mean '{NAME}'"):
        mz.load_detector(NAME[:-1])


def test_what_is_not_as_the_index_says_is_refused(zoo):
    for name in ("model.safetensors", "manifest.json", "config.yaml", "metrics.json", "README.md"):
        path = zoo / NAME / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(mz.CheckpointError, match=rf"{name} has sha256 .*, the index says"):
            mz.load_detector(NAME)
        path.unlink()
        with pytest.raises(mz.CheckpointError, match="can't be read"):
            mz.load_detector(NAME)
        path.symlink_to(zoo / "copy")
        (zoo / "copy").write_bytes(content)
        with pytest.raises(mz.CheckpointError, match="is a link"):
            mz.load_detector(NAME)
        path.unlink()
        path.write_bytes(content)
    mz.load_detector(NAME)
    (zoo / NAME).rename(zoo / "elsewhere")
    (zoo / NAME).symlink_to(zoo / "elsewhere")
    with pytest.raises(mz.CheckpointError, match="is a link"):
        mz.load_detector(NAME)


@pytest.mark.parametrize(
    "form", ["{url}{name}", "{url}{name}/", "{url}{name}#sha256={manifest}", "{url}index.json#{name}"]
)
def test_from_an_address_once(form, server, zoo, tmp_path):
    pins = {"manifest": sha256(zoo / NAME / "manifest.json")}
    address = form.format(url=server.url, name=NAME, **pins)
    expected = scores(NAME)
    np.testing.assert_array_equal(scores(address), expected)
    first = list(server.asked)
    np.testing.assert_array_equal(scores(address), expected)
    again = server.asked[len(first) :]
    assert not any("model.safetensors" in path for path in again), "the weights are in the cache"
    assert "#sha256" not in address or again == []
    np.testing.assert_array_equal(scores(form.format(url=f"file://{zoo}/", name=NAME, **pins)), expected)
    files = {p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    assert files == {"manifest.json", "model.safetensors", "config.yaml"}


def test_a_damaged_cache_is_fetched_again(server, tmp_path):
    expected = scores(server.url + NAME)
    for path in (tmp_path / "cache").rglob("model.safetensors"):
        path.write_bytes(b"damaged")
    np.testing.assert_array_equal(scores(server.url + NAME), expected)


@pytest.mark.parametrize(
    ("fragment", "complaint"),
    [
        ("#sha256=" + "0" * 64, "has sha256 .*, its address or index says 0000"),
        ("#name=x", "expected #NAME, #sha256=... or #NAME&sha256=..."),
        ("#x&md5=1", "expected #NAME, #sha256=... or #NAME&sha256=..."),
    ],
)
def test_a_wrong_pin(fragment, complaint, server):
    with pytest.raises(mz.CheckpointError, match=complaint):
        mz.load_detector(server.url + NAME + fragment)


def test_what_a_server_may_not_do(zoo, tmp_path):
    shutil.copytree(zoo / NAME, zoo / "changed")
    weights = bytearray((zoo / "changed" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (zoo / "changed" / "model.safetensors").write_bytes(weights)
    manifest = f"/{NAME}/manifest.json"
    answers = {
        "/file/manifest.json": redirect(f"file://{zoo}{manifest}"),
        "/plain/manifest.json": redirect(f"http://example.com{manifest}"),
        "/ftp/manifest.json": redirect(f"ftp://localhost{manifest}"),
        "/ring/manifest.json": redirect("/ring/manifest.json"),
        "/moved/manifest.json": redirect(manifest),
        "/moved/model.safetensors": redirect(f"/{NAME}/model.safetensors"),
        "/moved/config.yaml": redirect(f"/{NAME}/config.yaml"),
        "/endless/manifest.json": endless,
    }
    said = {
        "changed": r"model\.safetensors has sha256",
        "file": "file://.* redirects to\\) is no https:// address",
        "plain": "http://example.com.* redirects to\\) is no https:// address",
        "ftp": "ftp://.* is no https:// address",
        "ring": "redirects more than 5 times",
        "endless": f"gives more than {TEXT_LIMIT:,} bytes",
        "nothing": "404",
        "index.json#other-a-b-c": "unknown checkpoint 'other-a-b-c'",
        "index.json": "index.json#NAME is expected",
    }
    with serving(zoo, answers) as server:
        for path, complaint in said.items():
            with pytest.raises(mz.CheckpointError, match=complaint):
                mz.load_detector(server.url + path)
        np.testing.assert_array_equal(scores(server.url + "moved"), scores(NAME))
        closed = server.url
    with pytest.raises(mz.CheckpointError, match="could not be fetched"):
        mz.load_detector(closed + "other")


@pytest.mark.parametrize(
    "text", [b"HTTP/1.0 200 OK\r\nA: ", b"HTTP/1.0 200 OK\r\n\r\n{", b""], ids=["head", "body", "status"]
)
@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors"])
def test_a_server_that_drips_is_cut_at_the_deadline(text, file, zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("METAAD_FETCH_TIMEOUT", "0.4")
    begin = time.monotonic()
    with serving(zoo, {f"/{NAME}/{file}": drip(text)}) as server:
        with pytest.raises(
            mz.CheckpointError, match=rf"{file} was not complete after 0.4 seconds.*METAAD_FETCH_TIMEOUT"
        ):
            mz.load_detector(server.url + NAME)
        assert time.monotonic() - begin < 5
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_work_over_connections_of_others_has_a_deadline_too(monkeypatch):
    """As huggingface_hub's."""
    monkeypatch.setenv("METAAD_FETCH_TIMEOUT", "0.1")
    with pytest.raises(mz.CheckpointError, match=r"hf://a/b was not complete after 0\.1 seconds"):
        transfer.in_time(threading.Event().wait, "hf://a/b")

    def out_of_time() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        transfer.in_time(out_of_time, "hf://a/b")


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_time_that_is_none(text, zoo, monkeypatch):
    monkeypatch.setenv("METAAD_FETCH_TIMEOUT", text)
    with pytest.raises(
        mz.CheckpointError, match=f"METAAD_FETCH_TIMEOUT={text}: expected a number of seconds, such as 600"
    ):
        mz.load_detector("https://localhost:1/x")


def test_weights_are_written_as_they_come(tmp_path):
    (tmp_path / "large").write_bytes(bytes(50 * 2**20))
    expected = sha256(tmp_path / "large")
    with serving(tmp_path) as server, Transfer() as files:
        tracemalloc.start()
        files.save(server.url + "large", tmp_path / "copy", 2**30, expected)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20 * 2**20
        with pytest.raises(mz.CheckpointError, match="large gives more than 1,000,000 bytes"):
            files.save(server.url + "large", tmp_path / "other", 10**6, "0" * 64)
        with pytest.raises(mz.CheckpointError, match=r"large has sha256 .*, its address or index says 000"):
            files.save(server.url + "large", tmp_path / "other", 2**30, "0" * 64)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "large"]


def test_compressed_content_is_refused(zoo):
    packed = {"/x/manifest.json": drip(b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n")}
    with serving(zoo, packed) as server, pytest.raises(mz.CheckpointError, match="comes compressed"):
        mz.load_detector(server.url + "x")


def test_nothing_leads_further_inside_than_the_address_itself(zoo, monkeypatch):
    """The first connection counts as one to the internet, the second is to this machine."""
    reaches = iter([Reach.INTERNET, Reach.MACHINE])
    monkeypatch.setattr(transfer, "reach_of", lambda _: next(reaches))
    moved = {f"/{NAME}/manifest.json": redirect("/elsewhere")}
    with (
        serving(zoo, moved) as server,
        pytest.raises(mz.CheckpointError, match="an address of this machine, to which an"),
    ):
        mz.load_detector(server.url + NAME)
    assert "/elsewhere" not in server.asked, "nothing was sent"


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("127.0.0.2", Reach.MACHINE),
        ("::1", Reach.MACHINE),
        ("0.0.0.0", Reach.MACHINE),
        ("::ffff:127.0.0.1", Reach.MACHINE),
        ("10.1.2.3", Reach.NETWORK),
        ("192.168.0.1", Reach.NETWORK),
        ("169.254.169.254", Reach.NETWORK),
        ("100.64.0.1", Reach.NETWORK),
        ("fe80::1%eth0", Reach.NETWORK),
        ("fd00::1", Reach.NETWORK),
        ("1.1.1.1", Reach.INTERNET),
        ("2606:4700::1111", Reach.INTERNET),
    ],
)
def test_reach(address, reach):
    assert transfer.reach_of(address) == reach


def test_yaml_that_is_slow_to_read_is_refused_by_its_size():
    content = b"{" + b"? ," * 29_999 + b" }"
    begin = time.process_time()
    assert parse_yaml(content, "config.yaml") == {None: None}
    assert time.process_time() - begin < 20, "the loader in Python takes some seconds"
    with pytest.raises(mz.CheckpointError, match=r"config\.yaml has 540,000 bytes, expected at most 262,144: not read"):
        parse_yaml(content * 6, "config.yaml")


@pytest.mark.parametrize("address", ["http://example.com/x", "ftp://example.com/x", "data://x", "https:///x", "x://"])
def test_other_addresses_are_refused_unasked(address, zoo):
    with pytest.raises(mz.CheckpointError, match=r"is no https:// address|could not be fetched"):
        mz.load_detector(address)


def test_a_hostile_manifest_names_no_file_outside(zoo, tmp_path):
    path = zoo / NAME / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sha256"] |= {"../../../escaped": "0" * 64, "/tmp/escaped": "0" * 64}
    path.write_text(json.dumps(manifest))
    with serving(zoo) as server:
        mz.load_detector(server.url + NAME)
    assert not any("escaped" in path for path in server.asked)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("name", ["name_goes_up", "file_goes_up", "newer"])
def test_a_forged_index_on_a_server(name, zoo):
    with serving(FORGED / "indexes") as server, pytest.raises(mz.CheckpointError):
        mz.load_detector(f"{server.url}{name}.json#tabular-mlp-maml-adbench")
    assert server.asked == [f"/{name}.json"]


def test_over_tls(zoo, tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(zoo, wrap=lambda s: context.wrap_socket(s, server_side=True)) as server:
        with pytest.raises(mz.CheckpointError, match=r"(?i)certificate.verify.failed"):
            mz.load_detector(server.url + NAME)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        np.testing.assert_array_equal(scores(server.url + NAME), scores(NAME))
    drips = {"/x/manifest.json": drip(b"HTTP/1.0 200 OK\r\n"), "/y/manifest.json": redirect("http://localhost:1/")}
    with serving(zoo, drips, wrap=lambda s: context.wrap_socket(s, server_side=True)) as server:
        with pytest.raises(mz.CheckpointError, match=r"http://localhost:1/ \(where .* redirects to\) is no https://"):
            mz.load_detector(server.url + "y")
        monkeypatch.setenv("METAAD_FETCH_TIMEOUT", "0.4")
        with pytest.raises(mz.CheckpointError, match=r"was not complete after 0\.4 seconds"):
            mz.load_detector(server.url + "x")


def test_the_commands(zoo, server, run, tmp_path, capsys):
    assert main(["list", "*gru*"]) == 0
    assert NAME in capsys.readouterr().out
    assert main(["list", "--json", "--modality", "sequence"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["name"] == NAME
    assert entry["figures"]["best_baseline"]["name"]
    assert main(["list", "--modality", "image"]) == 0
    assert "there are 1 in all" in capsys.readouterr().err
    assert main(["info", NAME]) == 0
    assert "Limits, and when not to use it" in capsys.readouterr().out
    assert main(["info", NAME, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["name"] == NAME
    assert main(["info", str(run)]) == 0
    assert "has no card" in capsys.readouterr().out
    shutil.copytree(run / "model", tmp_path / "changed")
    with (tmp_path / "changed" / "model.safetensors").open("ab") as file:
        file.write(b"more")
    assert main(["info", str(tmp_path / "changed")]) == 1
    assert "changed/model.safetensors has sha256" in capsys.readouterr().err
    assert main(["pull", server.url + NAME, "--out", str(tmp_path / "pulled")]) == 0
    np.testing.assert_array_equal(scores(tmp_path / "pulled"), scores(NAME))
    assert main(["pull", NAME, "--out", str(tmp_path / "pulled")]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    to = ["--name", NAME, "--to", str(tmp_path / "other")]
    assert main(["publish", str(run), *to]) == 0
    assert main(["publish", str(run), *to]) == 1
    assert "--replace" in capsys.readouterr().err
    assert main(["publish", "--refresh", "--to", str(tmp_path / "other")]) == 0
    assert "0 files changed" in capsys.readouterr().out
    assert main(["publish", str(run)]) == 1
    assert "--name" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["{url}{name}", "{url}index.json#{name}", "file://{zoo}/{name}"])
def test_card_and_figures_come_from_an_address_too(form, server, zoo, tmp_path, capsys):
    address = form.format(url=server.url, name=NAME, zoo=zoo)
    assert main(["info", address]) == 0
    assert "Limits, and when not to use it" in capsys.readouterr().out
    assert main(["info", address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["name"] == NAME
    assert main(["pull", address, "--out", str(tmp_path / "pulled")]) == 0
    for name in ("README.md", "metrics.json"):
        assert (tmp_path / "pulled" / name).read_bytes() == (zoo / NAME / name).read_bytes()
    (zoo / NAME / "README.md").write_text("# Another\n\x1b[31mred\x07")
    assert main(["info", address]) == (1 if "index" in form else 0)
    out, err = capsys.readouterr()
    if "index" in form:
        assert "README.md has sha256" in err
    else:
        assert "Another" in out, "not the card that was fetched first"
        assert "\x1b[31m" not in out
        assert "\x07" not in out
        (zoo / NAME / "README.md").unlink()
        assert main(["info", address]) == 0
        assert "has no card" in capsys.readouterr().out


def test_adapt_by_name(zoo, tmp_path):
    np.savetxt(tmp_path / "series.csv", np.sin(np.arange(200) / 5), header="value", comments="")
    arguments = ["adapt", NAME, "--support", str(tmp_path / "series.csv"), "--out", str(tmp_path / "mine")]
    assert main(arguments) == 0
    assert mz.load_detector(tmp_path / "mine").is_fitted
