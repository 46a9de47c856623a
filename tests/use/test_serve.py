"""The server: the answers of xmodal.load, many requests at once, refusals without a trace, and its page."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import xmodal
from tests.browser import Browser, find
from tests.use.conftest import SHORT, data_options, names_below, train
from xmodal.use.service import Service

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def evl_run(clips, tmp_path_factory):
    """EVL on the same clips and the same encoder as the probe."""
    options = [*SHORT, *data_options(clips, {"train": "train", "val": "val", "test": "test"})]
    config = "video/evl_tiny-clip_8u_actions8"
    return train(config, tmp_path_factory.mktemp("video") / "evl", options)


@contextlib.contextmanager
def serving(*words, folder=None):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    environment |= {"TMPDIR": str(folder)} if folder else {}
    command = [sys.executable, str(ROOT / "tools" / "serve.py"), *map(str, words), "--port", "0"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        found = next(filter(None, (re.match(r"http://(\S+):(\d+)/", line) for line in process.stdout)))
        assert found[1] == "127.0.0.1"
        yield process, int(found[2])
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
        process.stderr.close()


def ask(port, path, body=None, method=None):
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    line.request(method or ("POST" if body is not None else "GET"), path, body)
    reply = line.getresponse()
    content = reply.read().decode()
    line.close()
    return reply.status, json.loads(content) if content.startswith(("{", "[")) else content


def test_the_service_answers_as_the_models_do(video_run, evl_run, image_run, cloud_run, clips, pictures, clouds):
    service = Service([f"order={evl_run}", str(video_run), f"shapes={image_run}", str(cloud_run)])
    try:
        assert list(service.tasks) == ["order", "probe", "shapes", "epcl"]
        assert [len(group.tasks) for group in service.groups] == [2, 1, 1]
        assert service.saved > 3e6  # the tower of the tiny CLIP, three times
        films = names_below(clips / "clips" / "test", ".mp4")[:6]
        futures = [service.predict(film) for film in films]
        for name, run in (("order", evl_run), ("probe", video_run)):
            wanted = xmodal.load(run).predict(films)
            for (future,), row in zip(futures, wanted, strict=True):
                found = future.result(60)
                assert set(found) == {"order", "probe"}
                np.testing.assert_allclose(found[name]["scores"], row["scores"], atol=1e-5)
                assert found[name]["name"] == row["name"]
        assert service.counts["batches"] < 6
        (only,) = service.predict(films[0], ["probe"])
        assert list(only.result(60)) == ["probe"]
        (picture,) = service.predict(names_below(pictures, ".png")[0])
        assert "score" in next(iter(picture.result(60).values()))
        (cloud,) = service.predict(names_below(clouds, ".npy")[0])
        assert next(iter(cloud.result(60).values()))["name"] in ("ball", "box")
        with pytest.raises(ValueError, match=r"files that end in \.doc are not read; the tasks read clouds and images"):
            service.predict("a.doc")
        with pytest.raises(ValueError, match="no task is called 'x'; there are order"):
            service.predict(films[0], ["x"])
    finally:
        service.close()
    assert not service.thread.is_alive()


def test_two_tasks_of_one_name(image_run):
    with pytest.raises(ValueError, match="two tasks are called 'probe': write other-name="):
        Service([str(image_run), str(image_run)])


@pytest.fixture(scope="module")
def server(video_run, evl_run, image_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    words = [f"order={evl_run}", f"probe={video_run}", f"shapes={image_run}"]
    with serving(*words, "--queue", "256", "--max-upload", "1MB", folder=folder) as (process, port):
        yield process, port, folder


def test_answers_and_refusals(server, clips, pictures, video_run):
    _, port, folder = server
    film = Path(names_below(clips / "clips" / "test", ".mp4")[0])
    status, found = ask(port, "/predict?name=my%20clip.mp4", film.read_bytes())
    assert (status, found["file"], sorted(found["tasks"])) == (200, "my clip.mp4", ["order", "probe"])
    row = xmodal.load(video_run).predict(film)[0]
    np.testing.assert_allclose(found["tasks"]["probe"]["scores"], row["scores"], atol=1e-5)
    picture = Path(names_below(pictures, ".png")[0]).read_bytes()
    assert list(ask(port, "/predict?name=A.PNG", picture, "PUT")[1]["tasks"]) == ["shapes"]
    cases = [
        ("/predict?name=torn.mp4", b"no film", 422, ""),
        ("/predict?name=../../etc/torn.png", picture[:50], 422, ""),
        ("/predict?name=large.mp4", b"x" * (2**20 + 1), 413, "a file may have 1048576 bytes"),
        ("/predict?name=a.exe", b"x", 415, "files that end in .exe are not read"),
        ("/predict", b"x", 415, "give the file's name"),
        ("/predict?name=a.mp4", b"", 400, "has no body"),
        ("/predict?name=a.mp4&tasks=nothing", b"x", 404, "no task is called 'nothing'"),
    ]
    for path, body, status, said in cases:
        found = ask(port, path, body)
        assert found[0] == status, (path, found)
        assert said in found[1]["error"]
        assert str(folder) not in found[1]["error"]
        assert "Traceback" not in found[1]["error"]
    assert ask(port, "/predict", method="GET")[0] == 405
    assert ask(port, "/health") == (200, {"status": "ok", "tasks": ["order", "probe", "shapes"]})
    assert [task["kind"] for task in ask(port, "/tasks")[1]] == ["video", "video", "image"]
    assert 'xmodal_requests_total{status="422"} 2' in ask(port, "/metrics")[1]
    assert not [p for p in folder.rglob("*") if p.is_file()]


def test_curl_sends_a_file(server, clips):
    film = names_below(clips / "clips" / "test", ".mp4")[1]
    address = f"http://127.0.0.1:{server[1]}/predict?name=a.mp4&tasks=probe"
    done = subprocess.run(["curl", "-sS", "--data-binary", f"@{film}", address], capture_output=True, text=True)
    assert list(json.loads(done.stdout)["tasks"]) == ["probe"], done.stderr


def test_more_than_the_queue_are_told_to_come_again(image_run, pictures):
    body = Path(names_below(pictures, ".png")[0]).read_bytes()
    with serving(f"shapes={image_run}", "--queue", "2", "--upload-seconds", "3") as (_, port):
        lines = []
        for _ in range(2):  # two that send nothing yet
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            line.putrequest("POST", "/predict?name=a.png")
            line.putheader("Content-Length", str(len(body)))
            line.endheaders()
            line.send(body[:10])
            lines.append(line)
        time.sleep(0.5)
        status, found = ask(port, "/predict?name=a.png", body)
        assert status == 429
        assert "come again" in found["error"]
        lines[0].send(body[10:])
        assert lines[0].getresponse().status == 200
        assert ask(port, "/predict?name=a.png", body)[0] == 200
        reply = lines[1].getresponse()
        assert reply.status == 408
        assert "did not arrive within 3 s" in json.loads(reply.read())["error"]


def answers_of(tasks):
    """The scores of each file by task."""
    truth = {}
    for name, run, files in tasks:
        for row in xmodal.load(run).predict(files):
            truth.setdefault(row["file"], {})[name] = row["scores"]
    return truth


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_200_requests_at_once(server, clips, pictures, video_run, evl_run, image_run):
    """One in ten is damaged, one in twenty too large; all are answered, as xmodal.load answers."""
    process, port, folder = server
    films, images = names_below(clips / "clips", ".mp4")[:20], names_below(pictures, ".png")
    truth = answers_of([("order", evl_run, films), ("probe", video_run, films), ("shapes", image_run, images)])

    def is_bad(number):
        return number % 10 == 3 + number // 10 % 2

    def one(number):
        file = (films, images)[number % 2][number // 2 % 20]
        body = Path(file).read_bytes()
        if is_bad(number):
            body = body[: len(body) // 3] if number // 20 % 2 else b"x" * (2**20 + 1)
        return number, file, ask(port, f"/predict?name={Path(file).name}", body)

    def memory():
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096 / 2**20

    def round_of_200():
        with ThreadPoolExecutor(200) as pool:
            barrier = threading.Barrier(200)
            return list(pool.map(lambda i: barrier.wait() is not None and one(i), range(200)))

    round_of_200()
    before = memory()
    for number, file, (status, found) in round_of_200():
        if is_bad(number):
            assert status in ((422, 200) if number // 20 % 2 else (413,)), (number, found)
            continue
        assert status == 200, found
        for name, row in found["tasks"].items():
            np.testing.assert_allclose(row["scores"], truth[file][name], atol=1e-4)
    round_of_200()
    assert memory() - before < 60
    assert not [p for p in folder.rglob("*") if p.is_file()]
    assert ask(port, "/health")[0] == 200


@pytest.mark.slow
@pytest.mark.skipif(not find(), reason="needs chromium")
def test_the_page_in_a_browser(server, clips, pictures, tmp_path):
    _, port, _ = server
    (tmp_path / "torn.mp4").write_bytes(b"torn")
    files = [names_below(clips / "clips", ".mp4")[0], names_below(pictures, ".png")[0], tmp_path / "torn.mp4"]
    with Browser() as browser:
        browser.open(f"http://127.0.0.1:{port}/")
        browser.give_files("#files", files)
        browser.wait("document.querySelectorAll('.answer').length === 3")
        browser.wait("document.querySelectorAll('.answer .task').length === 4")
        texts = browser.run("[...document.querySelectorAll('.answer')].map(a => a.textContent)")
        assert "422: " in texts[0]
        assert "shapes" in texts[1]
        assert "order" in texts[2]
        assert "probe" in texts[2]
        browser.wait("document.querySelector('.answer:last-child video').readyState >= 2")
        outside = [r for r in browser.requests if not r.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:"))]
        assert outside == []
