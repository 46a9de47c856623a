"""Packing: killed anywhere it goes on to the same bytes; what is packed is compared with what was there."""

import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from tools import pack as tool
from xmodal.data import packing, tars
from xmodal.data.packing import check, make_index, pack, plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "src" / f"class {number % 4}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(20_000 + 1000 * number))
    (tmp_path / "src" / ".hidden").write_text("no")
    (tmp_path / "src" / "empty.bin").write_bytes(b"")
    return tmp_path / "src"


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


def test_every_file_is_in_one_tar_that_tar_itself_reads(source, tmp_path, capsys):
    assert tool.main([str(source), str(tmp_path / "out"), "--shard-size", "0.2MB", "--workers", "2"]) == 0
    assert "41 files in" in capsys.readouterr().out
    found = {}
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path, "r:") as tar:
            members = {m.name: (m.offset_data, m.size) for m in tar}
            assert {m.name: (m.offset, m.size) for m in tars.TarIndex(str(path)).members()} == members
            assert sum(size for _, size in members.values()) <= 0.2 * 2**20
            assert not found.keys() & members
            found |= {name: tar.extractfile(name).read() for name in members}
    files = {str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*.bin")}
    assert found == files
    assert tool.main(["--check", *map(str, sorted((tmp_path / "out").glob("*.tar")))]) == 0


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(source, tmp_path):
    """SIGKILL to the whole group, many times, at other moments; `pack.json` is the plan of all of them."""
    options = [str(source), str(tmp_path / "out"), "--shard-size", "0.1MB", "--workers", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for job in plan(source, tmp_path / "whole", int(0.1 * 2**20)):
        pack(job)
    slow = "import sys, time, xmodal.data.packing as p; add = p.add\n" \
        "def slow(*a):\n    time.sleep(0.05)\n    return add(*a)\n" \
        "p.add = slow; from tools.pack import main; sys.exit(main())"  # fmt: skip
    killed = 0
    for _ in range(30):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        words = [sys.executable, "-c", slow, *options]
        run = subprocess.Popen(words, cwd=ROOT, env=env, start_new_session=True, **quiet)
        before = len(list((tmp_path / "out").glob("*.index")))
        while run.poll() is None and len(list((tmp_path / "out").glob("*.index"))) < before + 6:
            time.sleep(0.01)
        if run.poll() is not None:
            break
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        killed += 1
    assert run.returncode == 0
    assert killed >= 2
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_complete_tars_are_kept_and_half_ones_written_again(source, tmp_path):
    jobs = plan(source, tmp_path / "out", 200_000)
    assert all(pack(job) for job in jobs)
    stamp = jobs[0][0].stat().st_mtime_ns
    assert not any(pack(job) for job in jobs)
    assert jobs[0][0].stat().st_mtime_ns == stamp
    Path(f"{jobs[1][0]}.index").unlink()
    assert [pack(job) for job in jobs[:3]] == [False, True, False]
    os.truncate(jobs[2][0], 512)
    with pytest.raises(tars.ShardError, match="it was changed"):
        pack(jobs[2])


def test_another_plan_in_the_same_folder_is_refused(source, tmp_path):
    plan(source, tmp_path / "out", 200_000)
    with pytest.raises(ValueError, match="shard_bytes was 200000, is 100000"):
        plan(source, tmp_path / "out", 100_000)
    (source / "empty.bin").write_bytes(b"more")
    with pytest.raises(ValueError, match="other files or settings"):
        plan(source, tmp_path / "out", 200_000)


def test_files_of_a_small_folder_come_into_one_tar(tmp_path):
    """As the frames of a video; a large folder is cut."""
    for film in range(20):
        (tmp_path / "src" / f"film {film:02d}").mkdir(parents=True)
        for frame in range(4):
            (tmp_path / "src" / f"film {film:02d}" / f"{frame}.jpg").write_bytes(b"x" * 100)
    tars_of = {}
    for path, files in plan(tmp_path / "src", tmp_path / "out", 3300):
        for name, _, _ in files:
            tars_of.setdefault(name.split("/")[0], set()).add(path)
    assert len(set.union(*tars_of.values())) == 3
    assert all(len(found) == 1 for found in tars_of.values())
    assert len(plan(tmp_path / "src", tmp_path / "small", 300)) >= 27


@pytest.mark.parametrize("size", [10, 90_000])
def test_a_file_that_changes_while_it_is_packed_is_named(size, source, tmp_path):
    job = plan(source, tmp_path / "out", 2**30)[0]
    path = Path(job[1][3][1])
    path.write_bytes(b"x" * size)
    with pytest.raises(ValueError, match=path.name):
        pack(job)
    assert not job[0].exists()


def test_check_reads_every_byte(source, tmp_path, capsys):
    jobs = plan(source, tmp_path / "out", 200_000)
    for job in jobs:
        pack(job)
    data = bytearray(jobs[1][0].read_bytes())
    data[len(data) // 2] ^= 1
    jobs[1][0].write_bytes(data)
    assert not check(str(jobs[0][0]))
    assert "does not have the checksum" in check(str(jobs[1][0]))
    assert tool.main(["--check", str(jobs[0][0]), str(jobs[1][0]), "--workers", "1"]) == 1
    assert "1 of 2 tars are as their indexes say" in capsys.readouterr().out


def test_what_was_written_is_read_back(source, tmp_path, monkeypatch):
    """A disk that gives other bytes back than it was given: the tar gets no index."""
    monkeypatch.setattr(packing, "crc_of", lambda file, size: 0)
    job = plan(source, tmp_path / "out", 2**30)[0]
    with pytest.raises(tars.ShardError):
        pack(job)
    assert not Path(f"{job[0]}.index").exists()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_indexes_of_tars_that_others_made(form, tmp_path):
    names = ["a.txt", "sub/ä b.txt", "d" * 60 + "/" + "n" * 90 + ".txt", "twice.txt"]
    for number, name in enumerate(names):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content {number}")
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as tar:
        tar.add(tmp_path / "src", ".")
        (tmp_path / "src" / "twice.txt").write_text("later")
        tar.add(tmp_path / "src" / "twice.txt", "./twice.txt")
    make_index(str(tmp_path / "x.tar"))
    read = lambda name: tars.open_member(str(tmp_path / "x.tar"), name).read().decode()  # noqa: E731
    assert [read(name) for name in names] == ["content 0", "content 1", "content 2", "later"]
    assert not check(str(tmp_path / "x.tar"))
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        tar.add(tmp_path / "src", ".")
    with pytest.raises(tars.ShardError, match="no whole uncompressed tar"):
        make_index(str(tmp_path / "z.tar"))


def test_mistakes_are_one_line(source, tmp_path, capsys):
    assert tool.main([str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert tool.main([str(source)]) == 2
    assert "expected FOLDER and OUT" in capsys.readouterr().err
    assert tool.main([str(source), str(tmp_path / "out"), "--shard-size", "big"]) == 2
    assert "--shard-size takes a size" in capsys.readouterr().err
    (tmp_path / "void").mkdir()
    assert tool.main([str(tmp_path / "void"), str(tmp_path / "out")]) == 2
    assert "has no files" in capsys.readouterr().err
