"""Jobs that processes share: each is done by one, those of the dead come back, and none is left."""

import errno
import fcntl
import multiprocessing
import os
import signal
import time

import pytest

from xmodal.engine import claims
from xmodal.engine.claims import Claims, share_out


def work(folder, count, pause, rank=0, world=1):
    """Do jobs by writing who did them; a job that is done twice gets a second line."""
    done = lambda job: (folder / f"{job}.done").exists()  # noqa: E731
    for job in share_out(folder, range(count), done, rank, world):
        with open(folder / f"{job}.begun", "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(pause)
        (folder / f"{job}.done").touch()


def begin(*args):
    process = multiprocessing.get_context("fork").Process(target=work, args=args, daemon=True)
    process.start()
    return process


def begun(folder):
    return [path.read_text().split() for path in sorted(folder.glob("*.begun"))]


def test_several_processes_do_each_job_once(tmp_path):
    workers = [begin(tmp_path, 40, 0.01, rank, 4) for rank in range(4)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert [len(who) for who in begun(tmp_path)] == [1] * 40
    assert len({who[0] for who in begun(tmp_path)}) > 1


def test_what_the_dead_had_comes_back_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "PAUSE", 0.01)
    slow = begin(tmp_path, 3, 1000)
    while not begun(tmp_path):
        time.sleep(0.01)
    other = begin(tmp_path, 3, 0.01)
    while len(list(tmp_path.glob("*.done"))) < 2:
        time.sleep(0.01)
    time.sleep(0.1)
    assert other.is_alive(), "it waits for the job that is held"
    os.kill(slow.pid, signal.SIGKILL)
    slow.join()
    other.join(60)
    assert other.exitcode == 0
    assert [len(who) for who in begun(tmp_path)] == [2, 1, 1]


def test_a_job_done_while_it_was_asked_for_is_left(tmp_path):
    found = []
    for job in share_out(tmp_path, range(3), found.__contains__):
        found += [job, 2]
    assert found == [0, 2, 1, 2]


def test_processes_begin_with_their_own_part(tmp_path):
    assert list(share_out(tmp_path, "abcdefg", lambda _: False, 1, 3)) == list("becfadg")


def test_locks_end_with_the_claim(tmp_path):
    def held(number):
        code = multiprocessing.get_context("fork").Process(target=try_to, args=(tmp_path, number))
        code.start()
        code.join()
        return code.exitcode == 1

    mine = Claims(tmp_path)
    with mine.claim(3) as got:
        assert got
        assert held(3)
        assert not held(2)
    assert not held(3)


def try_to(folder, number):
    with Claims(folder).claim(number) as got:
        os._exit(0 if got else 1)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_each_takes_its_part(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert list(share_out(tmp_path, range(7), lambda job: job == 4, 1, 3)) == [1]
    assert list(share_out(tmp_path, range(7), lambda job: False, 1, 3)) == [1, 4]
