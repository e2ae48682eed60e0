"""Downloads against a server of our own: what is fetched is checked, and every failure is named."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
import pytest

from metaad_zoo.data.known import download
from metaad_zoo.data.known.catalog import read_dataset
from metaad_zoo.data.known.download import DownloadError, fetch, fetch_public, public_files, public_sets

CONTENT = b"timestamp,value\r\n" * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        content = CONTENT
        if self.path == "/missing.csv":
            self.send_error(404)
            return
        if self.path == "/flipped.csv":
            content = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(content[:100] if self.path == "/early.csv" else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_good_file_is_fetched_once(server, tmp_path, capsys):
    path = fetch(f"{server.url}/good.csv?raw=1", SHA256.upper(), tmp_path / "new" / "folder", progress=True)
    assert path == tmp_path / "new" / "folder" / "good.csv"
    assert path.read_bytes() == CONTENT
    assert "100%" in capsys.readouterr().err
    assert fetch(f"{server.url}/good.csv?raw=1", SHA256, path.parent) == path
    assert server.requests == ["/good.csv?raw=1"]
    assert list(path.parent.iterdir()) == [path], "nothing is left beside it"


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("missing", r"answered with an error \(404 .*Not Found.*\) for http.*missing\.csv.*by hand as .*missing\.csv"),
        ("flipped", rf"has the sha256 [0-9a-f]{{64}}, expected {SHA256}: the file was removed"),
        ("early", r"early\.csv broke off before its end; what came is removed"),
    ],
)
def test_a_bad_answer_is_named_and_leaves_nothing(server, tmp_path, file, complaint):
    with pytest.raises(DownloadError, match=complaint):
        fetch(f"{server.url}/{file}.csv", SHA256, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_server_is_named(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=rf"no network, or {urlsplit(server.url).netloc} is out of reach"):
        fetch(f"{server.url}/good.csv", SHA256, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    hold = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: hold.wait(5))
    with pytest.raises(DownloadError, match=r"no answer for 0\.2 seconds"):
        fetch(f"{server.url}/good.csv", SHA256, tmp_path)
    hold.set()


def test_a_file_that_changed_on_disk_is_refused_and_kept(server, tmp_path):
    path = fetch(f"{server.url}/good.csv", SHA256, tmp_path)
    path.write_bytes(b"own notes")
    seen = hashlib.sha256(b"own notes").hexdigest()
    with pytest.raises(
        DownloadError, match=rf"has the sha256 {seen}, expected {SHA256}.*delete it to download it again"
    ):
        fetch(f"{server.url}/good.csv", SHA256, tmp_path)
    assert path.read_bytes() == b"own notes"
    assert len(server.requests) == 1


def test_files_by_file_url(tmp_path):
    path = tmp_path / "a file.csv"
    path.write_bytes(CONTENT)
    assert fetch(path.as_uri(), SHA256, tmp_path / "to").read_bytes() == CONTENT
    with pytest.raises(DownloadError, match=r"could not be read.*No such file"):
        fetch((tmp_path / "none.csv").as_uri(), SHA256, tmp_path / "to")
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["a file.csv"]


@pytest.mark.parametrize(
    ("url", "sha256", "complaint"),
    [
        ("ftp://host/a.csv", SHA256, "starts with one of https://, http://, file://"),
        ("a.csv", SHA256, "starts with one of"),
        ("https://host/", SHA256, "names no file"),
        ("https://host/a/..%2Fb", SHA256, "names no file"),
        ("https://host/a.csv", None, "saw None: nothing goes unchecked"),
        ("https://host/a.csv", "abc", "expected a sha256 of 64 hexadecimal digits"),
    ],
)
def test_what_is_no_url_and_no_sha256(tmp_path, url, sha256, complaint):
    with pytest.raises(ValueError, match=complaint):
        fetch(url, sha256, tmp_path)


def test_the_table_of_public_files():
    assert public_sets() == ["adbench", "nab"]
    assert len(public_files("nab")) == 42
    for name in public_sets():
        for file in public_files(name):
            entry = download._files_by_set()[name][file]
            assert re.fullmatch(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/.*", entry["url"])
            assert entry["url"].endswith(f"/{file}")
            assert entry["sha256"] is None or re.fullmatch(r"[0-9a-f]{64}", entry["sha256"])
    assert all(download._files_by_set()["nab"][file]["sha256"] for file in public_files("nab"))


def test_public_files_are_fetched_by_their_own_sha256(server, tmp_path, monkeypatch):
    table = {"a": {"x/good.csv": {"url": f"{server.url}/good.csv", "sha256": SHA256}}}
    monkeypatch.setattr(download, "_files_by_set", lambda: table)
    assert fetch_public("a", "x/good.csv", tmp_path) == tmp_path / "a" / "x" / "good.csv"
    with pytest.raises(ValueError, match=f"is {SHA256}, not 0000.*leave sha256 out"):
        fetch_public("a", "x/good.csv", tmp_path, sha256="0" * 64)
    table["a"]["x/good.csv"]["sha256"] = None
    with pytest.raises(
        ValueError, match=rf"no sha256 is known.*download {server.url}/good\.csv by hand.*sha256=.*METAAD_DATA"
    ):
        fetch_public("a", "x/good.csv", tmp_path)
    assert fetch_public("a", "x/good.csv", tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_unknown_sets_and_files(tmp_path):
    with pytest.raises(ValueError, match="unknown public data set 'nabs'; did you mean 'nab'"):
        public_files("nabs")
    with pytest.raises(ValueError, match=r"unknown file of nab 'speed_6005\.csv'"):
        fetch_public("nab", "speed_6005.csv", tmp_path)
    with pytest.raises(ValueError, match=r"no sha256 is known for adbench's 14_glass\.npz"):
        fetch_public("adbench", "14_glass.npz", tmp_path)


def test_the_real_series_are_those_of_the_table(data_folder):
    for file in public_files("nab"):
        path = data_folder / "raw" / "nab" / file
        if path.suffix == ".csv":
            assert fetch_public("nab", file, data_folder / "raw") == path


def test_nab_is_read_from_its_public_files_where_no_archive_lies(tmp_path, monkeypatch):
    """Through the reader itself; the files lie behind file:// addresses in the public layout."""
    origin = tmp_path / "origin"
    texts = {
        "labels/combined_windows.json": json.dumps({"ads/a.csv": [["2014-04-01 00:10:00", "2014-04-01 00:15:00"]]})
    }
    rows = [f"2014-04-01 00:{5 * i:02}:00,{i % 3}" for i in range(6)]
    texts["data/ads/a.csv"] = "\n".join(["timestamp,value", *rows]) + "\n"
    entries = {}
    for name, text in texts.items():
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        (origin / name).write_text(text)
        entries[name] = {
            "url": (origin / name).as_uri(),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
    monkeypatch.setattr(download, "_files_by_set", lambda: {"nab": entries})
    (tmp_path / "data").mkdir()
    (series,) = read_dataset("nab", "sequence", tmp_path / "data").series
    assert series.name == "nab/ads/a"
    assert series.values[:, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert series.labels.tolist() == [0, 0, 1, 1, 0, 0]


def test_adbench_is_read_from_its_own_files_and_else_says_where_they_are(tmp_path):
    with pytest.raises(ValueError, match=r"no sha256 is known .* download https://.*1_ALOI\.npz by hand"):
        read_dataset("adbench", "tabular", tmp_path)
    (tmp_path / "adbench").mkdir()
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10) > 7
    np.savez(tmp_path / "adbench" / "14_glass.npz", X=x, y=y.astype(int))
    (table,) = read_dataset("adbench", "tabular", tmp_path)
    assert table.name == "adbench/14_glass"
    assert table.values.tolist() == x.tolist()
