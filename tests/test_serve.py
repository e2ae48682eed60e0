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
from metaad_zoo.learners import GradientLearner, PrototypicalNetwork
from metaad_zoo.zoo import Checkpoint
from tests.tiny import tiny_batch, tiny_learner

pytest.importorskip("litserve")
from metaad_zoo.serve import ScoringAPI, ServerSettings


def ask(address: str, body: bytes, timeout: float = 30, content: str = "application/json") -> tuple[int, str]:
    request = urllib.request.Request(address, body, {"Content-Type": content})
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
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "log.txt"


@pytest.fixture(scope="module")
def address(folder, log):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from metaad_zoo.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", start, "serve", str(folder), "--port", str(port)]
    command += ["--max-samples", "50", "--max-bytes", "20000"]
    with log.open("wb") as log_file, subprocess.Popen(command, stdout=log_file, stderr=subprocess.STDOUT) as server:
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
            server.wait(60)
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
        answer = json.loads(text)
        scores, p, decisions = detector.judge(rows)
        np.testing.assert_allclose(answer["score"], scores, atol=1e-5)
        np.testing.assert_allclose(answer["p_value"], p, atol=1e-6)
        assert answer["anomaly"] == decisions.tolist()
        assert all(type(x) is int for x in answer["anomaly"])


def test_a_bad_request_does_not_spoil_the_good_ones_of_its_batch(address):
    good, bad = (json.dumps({"samples": [[0.0] * n]}).encode() for n in (3, 2))
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda i: ask(address, bad if i % 4 == 0 else good)[0], range(64)))
    assert answers == [422 if i % 4 == 0 else 200 for i in range(64)]


@pytest.mark.parametrize("backbone", ["gru", "fusion_gated"])
def test_a_batch_of_series_of_any_length_and_of_several_modalities(backbone, tmp_path):
    """The API's steps as LitServe takes them, without a server."""
    shapes = {name: x[0, 0].shape for name, x in tiny_batch(backbone).support.items()}
    if backbone == "gru":
        learner = GradientLearner("gru", {"width": 6}, {"sequence": (-1, 2)}).eval()
    else:
        learner = tiny_learner("maml", backbone).eval()
    rng = np.random.default_rng(0)
    fitted = Detector(Checkpoint(learner, [], {"calibration": torch.linspace(-2, 2, 99)}))
    fitted.fit({name: rng.random((5, *shape), dtype=np.float32) for name, shape in shapes.items()}).save(tmp_path)
    requests = [{name: rng.random((n, *x)).round(3) for name, x in shapes.items()} for n in (1, 3, 2)]
    if backbone == "gru":
        requests[1]["sequence"] = requests[1]["sequence"][:, :5]
    else:
        requests[1]["image"][0] = np.nan  # a sample that lacks a modality
    api = ScoringAPI(ServerSettings(tmp_path))
    api.setup("cpu")
    bodies = [{"samples": {k: np.where(np.isnan(x), None, x).tolist() for k, x in r.items()}} for r in requests]
    bodies.insert(1, {"samples": [[1]], "alpha": 0.5})
    batch = api.batch([api.decode_request(body) for body in bodies])
    answers = [api.encode_response(x) for x in api.unbatch(api.predict(batch))]
    refused = answers.pop(1)
    assert refused.status_code == 422
    assert "saw 'alpha', 'samples'" in refused.body.decode()
    for answer, samples in zip(answers, requests, strict=True):
        expected = load_detector(tmp_path).score(samples)
        np.testing.assert_allclose(json.loads(answer.body)["score"], expected, atol=1e-5)


def test_decisions_within_the_support(folder):
    api = ScoringAPI(ServerSettings(folder, alpha=0.2, calibrate="within"))
    api.setup("cpu")
    rows = np.random.default_rng(2).normal(size=(6, 3))
    (answer,) = api.unbatch(api.predict(api.batch([api.decode_request({"samples": rows.tolist()})])))
    expected = load_detector(folder).judge(rows, 0.2, "within")
    for row, wanted in zip(answer, expected, strict=True):
        np.testing.assert_allclose(row, wanted, atol=1e-5)


def test_a_missing_value_is_null(folder, address):
    status, text = ask(address, b'{"samples": [[1.0, null, 0.5]]}')
    assert status == 200
    expected = load_detector(folder).score(np.array([[1.0, np.nan, 0.5]]))
    np.testing.assert_allclose(json.loads(text)["score"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"samples": [1, 2, 3]}', "expected a list of samples, each of shape (-1,), saw one"),
        (b'{"rows": [[1, 2, 3]]}', "saw 'rows'"),
        (b'{"samples": [[1, 2, 3]], "alpha": 0.5}', "saw 'alpha', 'samples'"),
        (b'{"samples": [[1' + b"0" * 400 + b", 2, 3]]}", "nested lists of numbers"),
        (b'{"samples": [[1e39, 2, 3]]}', "infinity"),
        (b'{"samples": []}', "expected samples of shape"),
        (b'{"samples": [[1, 2], [1]]}', "nested lists of numbers"),
        (b'{"samples": [["a", "b", "c"]]}', "nested lists of numbers"),
        (b'{"samples": [[1, 2]]}', "2 columns or channels, but the support set had 3"),
        (b'{"samples": {"image": [[1, 2, 3]]}}', "expected samples of"),
        (json.dumps({"samples": [[0, 0, 0]] * 51}).encode(), "at most 50 a request"),
        (json.dumps({"samples": [[0.123456789] * 3] * 1000}).encode(), ""),
    ],
    ids=[
        "one",
        "key",
        "keys",
        "long",
        "infinite",
        "empty",
        "ragged",
        "words",
        "narrow",
        "modality",
        "many",
        "large",
    ],
)
def test_what_is_no_request_is_answered_plainly(address, body, answer):
    status, text = ask(address, body)
    assert 400 <= status < 500, text
    assert answer in text
    assert "Traceback" not in text
    assert ask(address, b'{"samples": [[1, 2, 3]]}')[0] == 200, "and the server goes on"


UPLOAD = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n\x89PNG\xff\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("body", "content", "saw"),
    [
        (UPLOAD, "multipart/form-data; boundary=x", "multipart/form-data"),
        (b'{"samples": [[1, 2, 3]]}', "text/plain", "text/plain"),
        (b"samples=1", "application/x-www-form-urlencoded", "application/x-www-form-urlencoded"),
        (b"no json", "application/json", "a body that is no JSON object"),
        (b"\xff\xfe", "application/json", "a body that is no JSON object"),
        (b"[" * 9000, "application/json", "a body that is no JSON object"),
        (b"[[1, 2, 3]]", "application/json", "a body that is no JSON object"),
        (b"", "application/json", "a body that is no JSON object"),
    ],
    ids=["upload", "text", "form", "words", "bytes", "deep", "list", "empty"],
)
def test_a_body_of_another_kind_is_answered_by_one_sentence(address, log, body, content, saw):
    status, text = ask(address, body, content=content)
    assert status == 422
    assert json.loads(text) == {"detail": f'expected {{"samples": [[...], ...]}} as application/json, saw {saw}'}
    assert "Traceback" not in log.read_text()


def test_what_can_not_be_served(folder, tmp_path, capsys):
    learner = PrototypicalNetwork(backbone="columns", input_shapes={"tabular": (-1,)})
    Detector(Checkpoint(learner, [], {})).save(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for line, complaint in (
            ([str(tmp_path)], "is not adapted"),
            ([str(folder), "--port", port], f"can't listen on 127.0.0.1, port {port}"),
            ([str(folder), "--port", "99999"], "99999"),
            ([str(folder), "--alpha", "0.001"], "can't promise 0.001"),
            ([str(folder), "--calibrate", "within", "--alpha", "0.1"], "can't promise 0.1 false alarms: take alpha >="),
            (
                [str(folder), "--calibrate", "within", "--port", port],
                "can't hold 10% false alarms: decisions aim at 17%",
            ),
        ):
            assert main(["serve", *line]) == 1
            assert complaint in capsys.readouterr().err
    with pytest.raises(ValueError, match="max_batch is 1; expected 2 or more"):
        ScoringAPI(ServerSettings(folder, max_batch=1))


def test_what_a_detector_was_fitted_with_is_printed(tmp_path, monkeypatch, capsys):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    load_detector("knn").fit(rows[:20], unlabelled=rows[20:]).save(tmp_path / "detector")
    served = []
    monkeypatch.setattr("metaad_zoo.serve.serve", served.append)
    assert main(["serve", str(tmp_path / "detector")]) == 0
    assert "note: knn, adapted to 20 normal samples and 40 unlabelled samples" in capsys.readouterr().err
    api = ScoringAPI(served[0])
    api.setup("cpu")
    (scores, _, _), _ = api.predict(({"tabular": rows[:5]}, [5]))
    np.testing.assert_allclose(scores, 0, atol=1e-6)
