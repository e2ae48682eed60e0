"""The scoring server, started as a user does and asked over HTTP: under load, and with requests that are none."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from metaad_zoo.cli import main
from metaad_zoo.detector import Detector, load_detector
from metaad_zoo.learners import GradientLearner, PrototypicalNetwork
from metaad_zoo.zoo import Checkpoint
from tests.tiny import tiny_batch, tiny_learner

pytest.importorskip("litserve")
import uvicorn

from metaad_zoo.serve import ScoringAPI, ServerSettings
from metaad_zoo.serve.http import BoundedRequests, RefusedError, as_json, form_files, timed_protocol


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


class Small(Detector):
    """A detector of a machine whose memory suffices for four samples."""

    def judge(self, samples, *args, **options):
        if len(samples["tabular"]) > 4:
            raise MemoryError
        return super().judge(samples, *args, **options)


def test_only_the_request_that_can_not_be_scored_fails(folder):
    api = ScoringAPI(ServerSettings(folder))
    api.setup("cpu")
    api.detector.__class__ = Small
    requests = [np.random.default_rng(n).normal(size=(n, 3)) for n in (2, 5, 1, 3)]
    asked = [api.decode_request({"samples": rows.tolist()}) for rows in requests]
    answers = api.unbatch(api.predict(api.batch(asked)))
    assert answers.pop(1) == "there is no memory for the request: send fewer samples"
    for answer, rows in zip(answers, (requests[0], *requests[2:]), strict=True):
        for got, expected in zip(answer, load_detector(folder).judge(rows), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5)


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
        (b'{"samples": [[1e999, 2, 3]]}', "infinity"),
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


@pytest.mark.parametrize(
    ("body", "content", "saw"),
    [
        (b'{"samples": [[1, 2, 3]]}', "text/plain", "text/plain"),
        (b"samples=1", "application/x-www-form-urlencoded", "application/x-www-form-urlencoded"),
        (b"no json", "application/json", "a body that is no JSON object"),
        (b"\xff\xfe", "application/json", "a body that is no JSON object"),
        (b"[" * 9000, "application/json", "a body that is no JSON object"),
        (b"[[1, 2, 3]]", "application/json", "a body that is no JSON object"),
        (b"", "application/json", "a body that is no JSON object"),
    ],
    ids=["text", "form", "words", "bytes", "deep", "list", "empty"],
)
def test_a_body_of_another_kind_is_answered_by_one_sentence(address, log, body, content, saw):
    status, text = ask(address, body, content=content)
    assert status == 422
    assert json.loads(text) == {"detail": f'expected {{"samples": [[...], ...]}} as application/json, saw {saw}'}
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("value", [1e30, 1e39, -1e308, 1e999, 1e6 + 1 / 64])
def test_one_rule_for_numbers_of_any_size(value, folder, tmp_path):
    """Finite numbers are scored as they are, wherever they come from; infinite ones are missing in files, and refused
    in arrays and requests, whose sender can mend them."""
    rows = np.random.default_rng(4).normal(size=(4, 3))
    rows[1, 1] = value
    pd.DataFrame(rows, columns=list("abc")).to_csv(tmp_path / "rows.csv", index=False)
    np.savez(tmp_path / "rows.npz", X=rows)
    detector, served = load_detector(folder), Api(folder)
    in_files = detector.score(tmp_path / "rows.csv")
    np.testing.assert_allclose(detector.score(tmp_path / "rows.npz"), in_files, rtol=1e-6)
    status, answer = served.ask(json.dumps({"samples": rows.tolist()}).encode(), "application/json")
    if np.isinf(value):
        rows[1, 1] = np.nan
        assert status == 422
        assert "'tabular' holds infinity in sample [1]" in answer["detail"]
    else:
        np.testing.assert_allclose(answer["score"], in_files, rtol=1e-6)
    np.testing.assert_allclose(detector.score(rows), in_files, rtol=1e-6)
    assert np.isfinite(in_files).all()


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
    ((scores, _, _),) = api.predict([{"tabular": rows[:5]}])
    np.testing.assert_allclose(scores, 0, atol=1e-6)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def jpeg(pixels):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    return file.getvalue()


def in_form(files, name='; filename="a.png"', end=b"--x--\r\n"):
    head = f'--x\r\nContent-Disposition: form-data; name="f"{name}\r\n\r\n'.encode()
    return b"".join(head + file + b"\r\n" for file in files) + end


FORM = "multipart/form-data; boundary=x"
PIXELS = np.random.default_rng(3).integers(0, 255, (3, 20, 30, 3), np.uint8)


class Api:
    """The API behind the limits of requests, as LitServe has it, without processes."""

    def __init__(self, folder, **limits):
        self.settings = ServerSettings(folder, **limits)
        self.api = ScoringAPI(self.settings)
        self.api.setup("cpu")

    def ask(self, body, content):
        scope = {"headers": [(b"content-type", content.encode()), (b"content-length", b"%d" % len(body))]}
        try:
            scope, body = as_json(scope, body, self.settings.max_samples)
        except RefusedError as error:
            return error.status, {"detail": str(error)}
        headers = dict(scope["headers"])
        assert headers == {b"content-type": b"application/json", b"content-length": b"%d" % len(body)}
        (answer,) = self.api.unbatch(self.api.predict(self.api.batch([self.api.decode_request(json.loads(body))])))
        response = self.api.encode_response(answer)
        return response.status_code, json.loads(response.body)


@pytest.fixture(scope="module")
def images_folder(tmp_path_factory):
    torch.manual_seed(0)
    shapes = {"image": (3, 16, 16)}
    learner = PrototypicalNetwork(backbone="conv4", backbone_options={"width": 4}, input_shapes=shapes).eval()
    detector = Detector(Checkpoint(learner, [], {"calibration": torch.linspace(-2, 2, 99)}, aspect="pad"))
    detector.fit(PIXELS).save(tmp_path_factory.mktemp("images") / "detector")
    return next(tmp_path_factory.getbasetemp().glob("images*/detector"))


@pytest.mark.parametrize(
    ("content", "bodies"),
    [
        ("image/png", [png(x) for x in PIXELS]),
        ("image/jpeg; q=1", [jpeg(x) for x in PIXELS]),
        (FORM, [in_form([png(x) for x in PIXELS]), in_form([jpeg(PIXELS[0]), png(PIXELS[1][..., 0])])]),
    ],
    ids=["png", "jpeg", "form"],
)
def test_uploaded_images_get_the_scores_of_files(content, bodies, images_folder, tmp_path):
    api = Api(images_folder)
    for body in bodies:
        files = form_files(body, "x", 9) if content == FORM else [body]
        paths = [tmp_path / f"{i}.png" for i in range(len(files))]
        for path, file in zip(paths, files, strict=True):
            path.write_bytes(file)
        status, answer = api.ask(body, content)
        assert status == 200
        scores, p, _ = load_detector(images_folder).judge(paths)
        np.testing.assert_allclose(answer["score"], scores, atol=1e-6)
        np.testing.assert_allclose(answer["p_value"], p, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "content", "saw"),
    [
        (b"hello", "image/png", "image 1 can't be read as an image: it is none of PNG, JPEG"),
        (png(PIXELS[0])[:200], "image/png", "image 1 can't be read as an image"),
        (png(np.zeros((40, 30, 3), np.uint8)), "image/png", "image 1 has 30 x 40 pixels; at most 1000 are left for it"),
        (in_form([png(PIXELS[0])] * 2), FORM, "image 2 has 30 x 20 pixels; at most 400 are left for it, of 1000 a"),
        (in_form([png(PIXELS[0])] * 5), FORM, "saw more than 4 files; at most 4 samples a request"),
        (in_form([b"1"], name=""), FORM, "saw a field without a file name"),
        (in_form([b"1"], end=b""), FORM, "saw a damaged form or none"),
        (b"--x--", FORM, "saw a damaged form or none"),
        (in_form([b"1"]), "multipart/form-data", "with a boundary, saw none"),
        (b'{"images": []}', "application/json", "a list of PNG or JPEG files in base64"),
        (b'{"images": [1]}', "application/json", "a list of PNG or JPEG files in base64"),
        (b'{"images": ["\\u00fc"]}', "application/json", "image 1 is no base64"),
    ],
)
def test_what_is_no_image_is_answered_plainly(body, content, saw, images_folder):
    status, answer = Api(images_folder, max_pixels=1000, max_samples=4).ask(body, content)
    assert status == 422
    assert saw in answer["detail"]
    assert "0x" not in answer["detail"]


def test_images_for_a_model_of_tables(folder):
    status, answer = Api(folder).ask(png(PIXELS[0]), "image/png")
    assert (status, answer["detail"]) == (422, "image files are for models of images, and this one reads ['tabular']")


@pytest.fixture
def bounded(caplog):
    """A server of uvicorn with these limits, which answers with the size of the body."""

    async def app(scope, receive, send):
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})

    settings = {"http": timed_protocol(0.4), "lifespan": "off", "log_config": None, "port": 0}
    server = uvicorn.Server(uvicorn.Config(BoundedRequests(app, 1000, 0.4, 9), **settings))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


HEAD = b"POST /a%0Ab HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("start", "drips", "answer"),
    [
        (HEAD + b"Content-Length: 3\r\n\r\nabc", False, b"200 OK"),
        (HEAD + b"Content-Length: 2000\r\n\r\n" + bytes(2000), False, b"413"),
        (HEAD + b"Content-Length: 5000\r\n\r\n" + bytes(2000), True, b"413"),
        (HEAD + b"Content-Length: 500\r\n\r\n", True, b"the request was not complete after 0.4 seconds"),
        (HEAD + b"A: ", True, b"the head of the request was not complete after 0.4 seconds"),
        (b"", False, b"the head of the request was not complete after 0.4 seconds"),
    ],
    ids=["good", "large", "large and slow", "slow body", "slow head", "silent"],
)
def test_a_request_is_bounded_in_bytes_and_seconds(start, drips, answer, bounded, caplog):
    begin, text = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", bounded), timeout=0.05) as connection:
        connection.sendall(start)
        while answer not in text and time.monotonic() - begin < 20:
            try:
                text += connection.recv(9999)
            except TimeoutError:
                if drips:
                    connection.sendall(b"x")
    assert answer in text
    if b"200" not in answer:  # the server's thread may write its line after the answer
        while not (logged := any(answer.decode() in m or " 413 after" in m for m in caplog.messages)):
            if time.monotonic() - begin > 20:
                break
            time.sleep(0.01)
        assert logged
    assert all(line.isprintable() for line in caplog.messages)


def test_limits_that_are_none(folder):
    for limits in ({"max_pixels": 0}, {"max_bytes": -1}, {"max_seconds": 0}, {"max_seconds": float("nan")}):
        (name,) = limits
        with pytest.raises(ValueError, match=rf"{name} \(--{name.replace('_', '-')}\) is .*; expected"):
            ServerSettings(folder, **limits)
