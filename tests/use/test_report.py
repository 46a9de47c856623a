"""The page of a run: what it says, from what, and how it behaves in a browser."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.browser import Browser, find
from tests.tools.test_train_tools import tool
from xmodal.shown import Shown
from xmodal.use import exhibits
from xmodal.use.report import Budget
from xmodal.use.runs import read_run


@pytest.fixture(scope="module")
def pages(video_run, image_run, cloud_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, run in (("video", video_run), ("image", image_run), ("cloud", cloud_run)):
        assert tool("report")([str(run), "--out", str(folder / f"{name}.html")]) == 0
        found[name] = folder / f"{name}.html"
    assert tool("report")([str(video_run), str(image_run), "--out", str(folder / "both.html"), "--title", "Two"]) == 0
    return {**found, "both": folder / "both.html"}


def test_pages_are_small_and_whole(pages):
    for path in pages.values():
        text = path.read_text()
        assert path.stat().st_size < 10e6
        assert not re.search(r"(src|href)=\"(?!data:)", text)
        assert "not shown" not in text


def test_a_page_says_what_the_reports_say(pages, video_run, image_run):
    text, report = pages["video"].read_text(), json.loads((video_run / "report.json").read_text())
    val = report["epochs"][-1]["val"]
    assert f"<b>{val['top1']:.1f}</b><span>top1, last validation</span>" in text
    assert f"<b>{report['trained_parameters']:,}</b>" in text
    shares = re.findall(r"--share:([\d.]+)", text)
    assert len(shares) == 64
    wrong = [row for row in report["shown"] if row["label"] != row["predicted"]]
    assert text.count('class="no"') == min(len(wrong), 16)
    assert all(row["sample_id"] in text for row in wrong[:16])
    assert text.count("<video") == text.count('class="no"') + text.count('class="yes"')
    assert text.count('<img src="data:image/webp') == 12  # the sheet of training samples
    assert "model = dict(" in text
    both = pages["both"].read_text()
    assert "<title>Two</title>" in both
    assert both.count("<polyline") >= 4
    image = json.loads((image_run / "report.json").read_text())
    assert f"{image['trained_parameters']:,} (" in both


def test_the_page_comes_by_itself_and_can_be_left_out(tmp_path, image_run, capsys):
    config = image_run.parent / "shapes.py"
    assert (
        tool("train")([str(config), "--work-dir", str(tmp_path / "a"), "--cfg-options", "train_cfg.max_epochs=1"]) == 0
    )
    assert (tmp_path / "a" / "report.html").stat().st_size > 20_000
    words = [str(config), "--work-dir", str(tmp_path / "b"), "--no-report", "--cfg-options", "train_cfg.max_epochs=1"]
    assert tool("train")(words) == 0
    assert not (tmp_path / "b" / "report.html").exists()


def test_a_page_of_what_is_left(tmp_path, video_run, capsys):
    """Data and config are gone, the report is that of an interrupted run."""
    report = json.loads((video_run / "report.json").read_text()) | {"status": "stopped", "epochs": [], "history": []}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert tool("report")([str(tmp_path)]) == 0
    assert "stopped" in (tmp_path / "report.html").read_text()
    assert tool("report")([str(tmp_path / "none")]) == 2
    assert "no report.json in" in capsys.readouterr().err
    (tmp_path / "report.json").write_text("{")
    assert tool("report")([str(tmp_path)]) == 2
    assert "report.json:1: not valid JSON" in capsys.readouterr().err


def test_test_results_come_first(tmp_path, image_run):
    shutil.copytree(image_run, tmp_path / "w")
    rows = [{"sample_id": "x", "label": 0, "predicted": 1, "score": 0.9}]
    (tmp_path / "w" / "test.json").write_text(json.dumps({"test": {"top1": 12.5}, "shown": rows}))
    run = read_run(tmp_path / "w")
    assert (run.stage, run.shown, run.figures, run.key) == ("test", rows, {"top1": 12.5}, "top1")


def test_a_page_stays_within_its_room():
    budget = Budget(10)
    assert budget.part(lambda: "12345678") == "12345678"
    assert budget.part(lambda: "123") == ""
    assert budget.part(lambda: "12") == "12"
    assert budget.part(lambda: 1 / 0) == ""


def test_large_films_are_shown_as_small_copies(tmp_path):
    import base64

    from tests.video.videos import numbers_of, write_video
    from video.decode import VideoFile

    film = write_video(tmp_path / "film.avi", frames=300, size=(240, 320), codec="mpeg4")
    source = re.search('base64,([^"]*)', exhibits.film_of(str(film)))[1]
    (tmp_path / "copy.mp4").write_bytes(base64.b64decode(source))
    with VideoFile(tmp_path / "copy.mp4") as video:
        assert (video.size, video.num_frames) == ((120, 160), 48)
        assert video.num_frames / video.fps == pytest.approx(10, rel=0.1)
        shown = numbers_of(video.read(range(48)))
    np.testing.assert_allclose(shown, np.linspace(0, 249, 48), atol=0.51)


@pytest.mark.slow
@pytest.mark.skipif(not find(), reason="needs chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_the_pages_in_a_browser(pages, dark):
    with Browser(dark=dark) as browser:
        for name, path in pages.items():
            browser.open(path)
            colors = ["rgb(255, 255, 255)", "rgb(20, 23, 28)"]
            background = "getComputedStyle(document.body).backgroundColor"
            assert browser.run(background) == colors[dark]
            browser.key("t")
            assert browser.run(background) == colors[not dark]
            browser.key("t")
            if name == "video":
                browser.wait("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
                browser.wait("document.querySelector('video').currentTime > 0.1")
            browser.wait("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            browser.key("j")
            browser.key("j")
            browser.key("k")
            assert browser.run("document.activeElement === document.querySelector('.exhibit')")
            if name == "video":
                browser.key(" ")
                assert browser.run("document.activeElement.querySelector('video').paused")
            if name == "cloud":
                browser.run("document.querySelector('canvas').focus()")
                before = browser.run("document.querySelector('canvas').toDataURL()")
                browser.key("ArrowLeft")
                assert browser.run("document.querySelector('canvas').toDataURL()") != before
                assert browser.run("[...document.querySelectorAll('canvas')].every(c => Number(c.dataset.drawn) > 100)")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert [r for r in browser.requests if not r.startswith(("file:", "data:"))] == []
        assert browser.errors == []


def test_samples_of_several_classes_by_hand():
    """A wrong decision is as confident as it is far from 0 or 1; a right sample as its least certain decision."""
    shown = Shown()
    yes, no = True, False
    shown.add_several("a", np.array([yes, no, no]), np.array([0.9, 0.8, 0.1]), 0.5)  # 1 is found and not there
    shown.add_several("b", np.array([yes, yes, no]), np.array([0.9, 0.05, 0.1]), 0.5)  # 1 is not found
    shown.add_several("c", np.array([no, no, no]), np.array([0.2, 0.4, 0.1]), 0.5)
    assert shown.rows() == [
        {"sample_id": "b", "label": (0, 1), "predicted": (0,), "score": 0.95},
        {"sample_id": "a", "label": (0,), "predicted": (0, 1), "score": 0.8},
        {"sample_id": "c", "label": (), "predicted": (), "score": 0.6},
    ]


def test_a_page_of_files_with_several_classes_is_refreshed_by_a_test(tmp_path, pictures):
    lines = ["path,labels"]
    for i, path in enumerate(sorted(pictures.glob("train/*/*.png"))):
        lines.append(f"{path},{('square;drawn', 'circle', '')[i % 3]}")
    (tmp_path / "tags.csv").write_text("\n".join(lines) + "\n")
    config = tmp_path / "own.py"
    assert tool("new")([str(tmp_path / "tags.csv"), "--encoder", "tiny-clip", "--out", str(config)]) == 0
    work = tmp_path / "w"
    options = ["--cfg-options", "train_cfg.max_epochs=1", "param_scheduler.warmup_epochs=0.1"]
    assert tool("train")([str(config), "--work-dir", str(work), *options]) == 0
    before = (work / "report.html").read_text()
    rows = json.loads((work / "report.json").read_text())["shown"]
    assert all(isinstance(row["label"], list) for row in rows)
    wrong = [row for row in rows if row["label"] != row["predicted"]]
    assert before.count('class="no"') == len(wrong) > 0
    assert "<b>none</b>" in before or "<b>drawn, square</b>" in before
    assert "mAP, test" not in before
    assert tool("test")([str(work / "last.pth")]) == 0
    assert "mAP, test" in (work / "report.html").read_text()
