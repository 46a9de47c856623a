"""Films of a package: a timeline, a search, the report and the server, in a browser and over HTTP. Slow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import Browser, find
from tests.tools.test_train_tools import tool
from tests.use.test_serve import ask, serving
from tests.video.test_real_footage import cut, videos  # noqa: F401 - a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CLASSES = ("bikes", "bigbuckbunny")


@pytest.fixture(scope="module")
def films(videos, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("films")
    for name in CLASSES:
        (folder / name).mkdir()
        cut(videos[name], folder / name, 0)
    return folder


@pytest.fixture(scope="module")
def run(films, tmp_path_factory):
    """The work directory of the config that `new` writes for the films."""
    work = tmp_path_factory.mktemp("work")
    new = [str(films), "--encoder", "tiny-clip", "--out", str(work / "own.py")]
    assert tool("new")(new) == 0
    assert tool("train")([str(work / "own.py"), "--work-dir", str(work / "own")]) == 0
    return work / "own"


def browser_is_there():
    if not find():
        pytest.skip("needs chromium")


def test_the_timeline_of_two_scenes_in_one_film(run, videos, tmp_path):  # noqa: F811
    """Both scenes one after the other, joined by ffmpeg; each half is told apart."""
    browser_is_there()
    film, size = tmp_path / "both.mp4", "scale=160:120,setsar=1,fps=20,format=yuv420p"
    graph = f"[0:v]trim=0:4,{size},setpts=PTS-STARTPTS[a];[1:v]trim=0:4,{size},setpts=PTS-STARTPTS[b];[a][b]concat=n=2"
    inputs = [word for name in CLASSES for word in ("-i", str(videos[name]))]
    subprocess.run(["ffmpeg", "-v", "error", *inputs, "-filter_complex", graph, str(film)], check=True)
    words = [str(run / "best.pth"), str(film), "--window", "1s", "--stride", "1s", "--out", str(tmp_path / "pages")]
    rows = said_by("predict", *words)
    windows = rows[0]["windows"]
    for window in windows:
        middle = (window["start"] + window["end"]) / 2
        if abs(middle - 4) > 1:
            assert window["name"] == CLASSES[middle > 4], window
    with Browser() as browser:
        browser.open(rows[0]["page"])
        browser.wait("document.querySelector('video').currentTime > 0.2")
        assert browser.errors == []


def said_by(name, *words):
    """The rows that a tool prints as JSON lines."""
    command = [sys.executable, f"tools/{name}.py", *words, "--format", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_report_plays_its_mistakes_or_says_there_are_none(run):
    browser_is_there()
    with Browser() as browser:
        browser.open(run / "report.html")
        browser.wait("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        text = browser.run("document.body.textContent")
        assert all(name in text for name in CLASSES)
        assert browser.errors == []


def test_a_film_finds_itself(films, tmp_path):
    browser_is_there()
    like = sorted((films / "bikes").iterdir())[0]
    page = tmp_path / "hits.html"
    words = [str(films), "--like", str(like), "--encoder", "tiny-clip", "--top", "8", "--page", str(page)]
    hits = said_by("search", *words)
    assert len(hits) == 8
    assert hits[0]["file"] == str(like)  # the shipped tower knows shapes, so the scenes below are mixed
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    with Browser() as browser:
        browser.open(page)
        browser.wait("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert browser.errors == []


def test_the_server_answers_curl_and_the_page(run, films):
    browser_is_there()
    given = [sorted((films / name).iterdir())[1] for name in CLASSES]
    with serving(f"scenes={run / 'best.pth'}") as (_, port):
        for name, film in zip(CLASSES, given, strict=True):
            url = f"http://127.0.0.1:{port}/predict?name={film.suffix[1:]}{film.suffix}"
            command = ["curl", "-sS", "--data-binary", f"@{film}", url]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert json.loads(said)["tasks"]["scenes"]["name"] == name
        assert ask(port, "/health")[0] == 200
        with Browser() as browser:
            browser.open(f"http://127.0.0.1:{port}/")
            browser.give_files("#files", given)
            browser.wait("document.querySelectorAll('.answer .task').length === 2")
            texts = browser.run("[...document.querySelectorAll('.answer')].map(a => a.textContent)")
            assert all(any(name in text for text in texts) for name in CLASSES)
            assert browser.errors == []
