"""The scoring server, started as a user does and asked over HTTP: under load, and with requests that are none."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from metaad_zoo.cli import main
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.learners import PrototypicalNetwork
from metaad_zoo.zoo import Checkpoint

pytest.importorskip("litserve")


def ask(address: str, body: bytes, timeout: float = 30) -> tuple[int, str]:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    learner = PrototypicalNetwork(backbone="columns", backbone_options={"width": 8}, input_shapes={"tabular": (-1,)})
    detector = Detector(Checkpoint(learner.eval(), [], {"calibration": torch.linspace(-2, 2, 99)}))
    path = tmp_path_factory.mktemp("served") / "detector"
    detector.fit(np.random.default_rng(0).normal(size=(5, 3))).save(path)
    return path


@pytest.fixture(scope="module")
def address(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from metaad_zoo.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", start, "serve", str(folder), "--port", str(port)]
    with subprocess.Popen([*command, "--max-samples", "50", "--max-bytes", "20000"]) as server:
        try:
            for _ in range(240):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                        if answer.status == 200:
                            break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/predict"
        finally:
            server.terminate()
            server.wait(30)
            with pytest.raises(OSError, match=r"refused|reset"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)


def test_answers_are_the_detectors_own_under_load(folder, address):
    rng = np.random.default_rng(1)
    asked = [rng.normal(size=(1 + i % 4, 3)).round(3) for i in range(40)]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda x: ask(address, json.dumps({"samples": x.tolist()}).encode()), asked))
    detector = load_detector(folder)
    for rows, (status, text) in zip(asked, answers, strict=True):
        assert status == 200, text
        found = json.loads(text)
        scores, p, decisions = detector.judge(rows)
        np.testing.assert_allclose(found["score"], scores, atol=1e-5)
        np.testing.assert_allclose(found["p_value"], p, atol=1e-6)
        assert found["anomaly"] == decisions.tolist()


def test_a_missing_value_is_null(folder, address):
    status, text = ask(address, b'{"samples": [[1.0, null, 0.5]]}')
    assert status == 200
    expected = load_detector(folder).score(np.array([[1.0, np.nan, 0.5]]))
    np.testing.assert_allclose(json.loads(text)["score"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"no json", "JSON"),
        (b"[1, 2]", "dictionary"),
        (b'{"rows": [[1, 2, 3]]}', "samples"),
        (b'{"samples": []}', "expected samples of shape"),
        (b'{"samples": [[1, 2], [1]]}', "nested lists of numbers"),
        (b'{"samples": [["a", "b", "c"]]}', "nested lists of numbers"),
        (b'{"samples": [[1, 2]]}', "2 columns or channels, but the support set had 3"),
        (b'{"samples": {"image": [[1, 2, 3]]}}', "expected samples of"),
        (json.dumps({"samples": [[0, 0, 0]] * 51}).encode(), "at most 50 a request"),
        (json.dumps({"samples": [[0.123456789] * 3] * 1000}).encode(), ""),
    ],
    ids=["text", "list", "key", "empty", "ragged", "words", "narrow", "modality", "many", "large"],
)
def test_what_is_no_request_is_answered_plainly(address, body, answer):
    status, text = ask(address, body)
    assert 400 <= status < 500, text
    assert answer in text
    assert "Traceback" not in text
    assert ask(address, b'{"samples": [[1, 2, 3]]}')[0] == 200, "and the server goes on"


def test_what_is_not_adapted_is_not_served(tmp_path, capsys):
    learner = PrototypicalNetwork(backbone="columns", input_shapes={"tabular": (-1,)})
    Detector(Checkpoint(learner, [], {})).save(tmp_path)
    assert main(["serve", str(tmp_path)]) == 1
    assert "is not adapted" in capsys.readouterr().err
