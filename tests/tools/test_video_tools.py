"""tools/check_videos.py and tools/reencode_videos.py on videos made here."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.video import videos
from tools import check_videos, reencode_videos
from video import reencode as reencode_module
from video.annotations import VIDEOS
from video.batch import over_video
from video.decode import VideoError, VideoFile
from video.reencode import copy_names, even_size, reencode
from xmodal.data.trouble import TroubleError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shelf(tmp_path):
    """A list of a long-GOP video, an odd-sized webm, a trim, a torn and a missing video."""
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    videos.write_video(folder / "long gop.mp4", frames=60, gop=250, size=(120, 160))
    videos.write_video(folder / "sub" / "odd.webm", frames=30, codec="libvpx-vp9", size=(97, 131))
    videos.trim_by_copy(folder / "long gop.mp4", folder / "trim.mp4", first=20)
    (folder / "torn.mp4").write_bytes((folder / "long gop.mp4").read_bytes()[:2000])
    names = ["long gop.mp4", "sub/odd.webm", "trim.mp4", "torn.mp4", "lost.mp4"]
    (tmp_path / "list.txt").write_text("".join(f"{name} {k}\n" for k, name in enumerate(names)))
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_check_videos(shelf, capsys, workers):
    argv = [str(shelf / "list.txt"), "--root", str(shelf / "videos"), "--workers", str(workers), "--full"]
    status = check_videos.main([*argv, "--report", str(shelf / "report.json"), "--clean", str(shelf / "clean.txt")])
    assert status == 1
    report = json.loads((shelf / "report.json").read_text())
    assert (report["videos"], report["readable"], report["broken"]) == (5, 3, 2)
    assert report["codecs"] == {"h264": 2, "vp9": 1}
    by_id = {entry["id"]: entry for entry in report["entries"]}
    assert by_id["sub/odd.webm"]["frames"] == 30
    assert (by_id["sub/odd.webm"]["height"], by_id["sub/odd.webm"]["width"]) == (97, 131)
    assert (by_id["trim.mp4"]["frames"], by_id["trim.mp4"]["reader"]) == (40, "pyav")
    assert (by_id["trim.mp4"]["why"], by_id["sub/odd.webm"]["why"]) == ("hidden frames", "")
    assert report["readers"] == {"keyframes": 2, "pyav": 1}
    assert report["in_sequence"] == {"hidden frames": 1}
    assert "no such file" in by_id["lost.mp4"]["broken"]
    clean = VIDEOS.read(shelf / "clean.txt")
    assert [s.label for s in clean.samples] == [0, 1, 2]
    printed = capsys.readouterr().out
    assert "3 of 5 videos can be read, 2 broken" in printed
    assert "torn.mp4" in printed
    assert "read in sequence: 1 (hidden frames)" in printed
    assert check_videos.main([str(shelf / "clean.txt"), "--workers", "0"]) == 0


def test_check_a_folder_without_classes_and_a_single_video(shelf, capsys):
    (shelf / "videos" / "torn.mp4").unlink()
    films_only = shelf / "flat"
    films_only.mkdir()
    os.link(shelf / "videos" / "trim.mp4", films_only / "trim.mp4")
    assert check_videos.main([str(films_only), "--workers", "0"]) == 0
    assert check_videos.main([str(films_only / "trim.mp4"), "--workers", "0"]) == 0
    assert check_videos.main([str(films_only), "--clean", str(shelf / "c.txt"), "--workers", "0"]) == 2
    assert "error: --clean needs classes" in capsys.readouterr().err
    assert check_videos.main([str(shelf / "nothing.txt")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_check_goes_on_from_its_report(shelf, capsys, monkeypatch):
    seen = []
    check = check_videos.check
    monkeypatch.setattr(check_videos, "check", lambda job: seen.append(Path(job[0]).name) or check(job))
    report = shelf / "report.json"
    argv = [str(shelf / "list.txt"), "--root", str(shelf / "videos"), "--workers", "0", "--report", str(report)]

    def stop(job):
        if len(seen) == 2:
            raise KeyboardInterrupt
        return seen.append(Path(job[0]).name) or check(job)

    with monkeypatch.context() as patch:
        patch.setattr(check_videos, "check", stop)
        assert check_videos.main(argv) == 130
    assert f"stopped; 2 of 5 videos were checked, the same command goes on from {report}" in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert (len(found["entries"]), found["unchecked"], found["readable"]) == (2, 3, 2)
    assert check_videos.main(argv) == 1
    assert seen == ["long gop.mp4", "odd.webm", "trim.mp4", "torn.mp4", "lost.mp4"]
    whole = json.loads(report.read_text())
    assert (whole["unchecked"], whole["readable"], whole["broken"]) == (0, 3, 2)
    seen.clear()
    videos.write_video(shelf / "videos" / "sub" / "odd.webm", frames=20, codec="libvpx-vp9", size=(97, 131))
    assert check_videos.main(argv) == 1
    assert seen == ["odd.webm", "torn.mp4", "lost.mp4"]  # what has changed, and what was broken
    seen.clear()
    check_videos.main([*argv, "--full"])
    assert len(seen) == 5
    report.write_text("<html>")
    with pytest.raises(SystemExit, match=r"report\.json is no report of check_videos"):
        check_videos.main(argv)


def test_trouble_of_the_machine_stops_a_check_by_its_name(shelf, capsys, monkeypatch):
    def fail(job):
        raise TroubleError("disk: Input/output error (EIO)")

    monkeypatch.setattr(check_videos, "check", fail)
    assert check_videos.main([str(shelf / "list.txt"), "--root", str(shelf / "videos"), "--workers", "0"]) == 2
    printed = capsys.readouterr().out
    assert "EIO" in printed
    assert "broken" not in printed


def slowly(number):
    time.sleep(0.05 if number == 0 else 30)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_stopping_does_not_wait_for_the_others(workers):
    start, others = time.monotonic(), set(multiprocessing.active_children())
    results = over_video(slowly, range(8), workers, "x")
    assert next(results) == (0, 0)
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt())
    assert time.monotonic() - start < 10
    while set(multiprocessing.active_children()) - others and time.monotonic() - start < 20:
        time.sleep(0.1)  # the pool's thread collects them
    assert not set(multiprocessing.active_children()) - others
    assert time.monotonic() - start < 20


def test_ctrl_c_ends_a_check_within_seconds(tmp_path):
    (tmp_path / "set").mkdir()
    source = videos.write_video(tmp_path / "film.ts", frames=250, size=(240, 320), grain=40)
    for i in range(300):
        shutil.copy(source, tmp_path / "set" / f"{i}.ts")
    argv = [sys.executable, "tools/check_videos.py", str(tmp_path / "set"), "--workers", "2", "--full"]
    tool = subprocess.Popen(
        [*argv, "--report", str(tmp_path / "report.json")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    children = Path(f"/proc/{tool.pid}/task/{tool.pid}/children")
    deadline = time.monotonic() + 120
    while len(children.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(children.read_text().split()) == 2  # the workers
    time.sleep(2)
    os.killpg(tool.pid, signal.SIGINT)
    out, _ = tool.communicate(timeout=60)
    assert tool.returncode == 130, out
    assert "stopped" in out
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["unchecked"] == 300 - len(found["entries"]) > 0


NOT_UTF8 = os.fsdecode(b"caf\xe9\n.mp4")


def test_names_of_any_bytes_go_through_the_tools(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        videos.write_video(tmp_path / "film.mp4", frames=8)
        os.replace(tmp_path / "film.mp4", tmp_path / "set" / name / NOT_UTF8)
    (tmp_path / "set" / "a" / os.fsdecode(b"torn\xff.mp4")).write_bytes(b"torn")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:strict"}

    def tool(*argv):
        done = subprocess.run([sys.executable, *map(str, argv)], cwd=ROOT, env=env, capture_output=True, check=False)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    clean, report = tmp_path / "clean.txt", tmp_path / "report.json"
    checked = tool("tools/check_videos.py", tmp_path / "set", "--workers", 0, "--clean", clean, "--report", report)
    assert checked.returncode == 1
    assert b"torn\\udcff.mp4" in checked.stdout
    assert [os.path.basename(s.path) for s in VIDEOS.read(clean).samples] == [NOT_UTF8] * 2
    assert len(json.loads(report.read_text())["entries"]) == 3
    assert tool("tools/reencode_videos.py", clean, tmp_path / "out", "--root", tmp_path / "set").returncode == 0
    assert len(VIDEOS.read(tmp_path / "out" / "list.txt").samples) == 2
    assert tool("tools/check_videos.py", clean, "--workers", 1).returncode == 0


def test_reencode_videos(shelf, capsys):
    argv = [str(shelf / "list.txt"), str(shelf / "out"), "--root", str(shelf / "videos"), "--short-side", "96"]
    assert reencode_videos.main([*argv, "--workers", "2"]) == 1
    assert "3 of 5 videos" in capsys.readouterr().out
    copies = VIDEOS.read(shelf / "out" / "list.txt").samples
    assert [s.label for s in copies] == [0, 1, 2]
    assert [os.path.relpath(s.path, shelf / "out") for s in copies] == ["long gop.mp4", "sub/odd.mp4", "trim.mp4"]
    shown = [range(60), range(30), range(20, 60)]
    for sample, numbers, size in zip(copies, shown, [(96, 128), (96, 128), (96, 128)], strict=True):
        with VideoFile(sample.path) as video:
            assert (video.num_frames, video.backend, video.codec) == (len(numbers), "keyframes", "h264")
            assert abs(video.size[0] - size[0]) <= 2
            asked = np.random.default_rng(0).permutation(len(numbers))[:8]
            assert videos.numbers_of(video.read(asked)) == [numbers[i] for i in asked]
    assert set(json.loads((shelf / "out" / "broken.json").read_text())) == {
        str(shelf / "videos" / "torn.mp4"),
        str(shelf / "videos" / "lost.mp4"),
    }
    assert not list((shelf / "out").rglob("*.part"))

    before = {s.path: os.stat(s.path).st_mtime_ns for s in copies}
    os.unlink(copies[1].path)
    assert reencode_videos.main([*argv, "--workers", "0"]) == 1
    assert "(2 were there)" in capsys.readouterr().out
    kept = [os.stat(s.path).st_mtime_ns == before[s.path] for s in copies]
    assert kept == [True, False, True]
    assert reencode_videos.main([*argv[:-1], "64", "--workers", "0"]) == 2
    assert "made with" in capsys.readouterr().err


def test_key_frames_times_and_rotation_of_copies(tmp_path):
    import av

    times = [n + n * n // 7 for n in range(40)]
    source = videos.write_video(tmp_path / "vfr.mp4", frames=40, gop=250, times=times)
    rotated = videos.rotate_by_matrix(source, tmp_path / "rotated.mp4", 1)
    assert reencode(str(rotated), tmp_path / "copy.mp4", gop=8) == 40
    with av.open(str(tmp_path / "copy.mp4")) as copy:
        stream = copy.streams.video[0]
        assert (stream.height, stream.width) == (128, 96)
        packets = [p for p in copy.demux(stream) if p.size]
        keys = [k for k, p in enumerate(packets) if p.is_keyframe]
        seen = sorted(float(p.pts * p.time_base) for p in packets)
    assert max(np.diff(keys)) <= 8
    np.testing.assert_allclose(np.array(seen) - seen[0], np.array(times) / 25, atol=2e-3)


def test_a_video_torn_in_the_middle_leaves_no_copy(tmp_path):
    source = videos.write_video(tmp_path / "whole.mkv", frames=60)
    data = bytearray(videos.write_video(tmp_path / "whole.mp4", frames=60).read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start + (end - start) * 2 // 3 : end] = bytes(end - start - (end - start) * 2 // 3)
    (tmp_path / "torn.mp4").write_bytes(data)
    with pytest.raises(VideoError, match="torn"):
        reencode(str(tmp_path / "torn.mp4"), tmp_path / "copy.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["torn.mp4", "whole.mkv", "whole.mp4"]
    assert reencode(str(source), tmp_path / "copy.mp4") == 60


def test_a_copy_that_lacks_frames_is_none(tmp_path, monkeypatch):
    """Where the decoder ends early without an error."""
    source = videos.write_video(tmp_path / "whole.mp4", frames=20)
    whole = reencode_module.shown_frames
    monkeypatch.setattr(reencode_module, "shown_frames", lambda path: itertools.islice(whole(path), 15))
    with pytest.raises(VideoError, match="only 15 of 20 frames can be decoded"):
        reencode(str(source), tmp_path / "copy.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["whole.mp4"]


def test_names_and_sizes_of_copies():
    assert copy_names(["/d/a.mp4", "/d/x/a.webm", "/d/a.webm", "/e/b.avi"], "/d") == [
        "a.mp4.mp4",
        "x/a.mp4",
        "a.webm.mp4",
        "e/b.mp4",
    ]
    assert even_size(720, 1280, 256) == (256, 454)
    assert even_size(97, 131, 256) == (96, 130)
    assert even_size(1080, 608, 256) == (454, 256)


def crash_on(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 10


def test_a_crashing_decoder_does_not_stop_the_others():
    found = dict(over_video(crash_on, range(6), workers=2, title="x"))
    assert found == {0: 0, 1: 10, 2: 20, 3: None, 4: 40, 5: 50}
    found = list(over_video(crash_on, [3, 0, 1], workers=1, title="x"))  # the first takes the only process with it
    assert sorted(found, key=str) == [(0, 0), (1, 10), (3, None)]


@pytest.mark.parametrize("tool", ["check_videos", "reencode_videos"])
def test_help_answers_at_once(tool):
    script = f"""
import runpy, sys
sys.argv = ["{tool}", "--help"]
try:
    runpy.run_path("tools/{tool}.py", run_name="__main__")
except SystemExit:
    pass
heavy = {{"torch", "mmengine", "av"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "LIST" in done.stdout
